"""The published FLamby heart disease table, run again: ``python experiments/flamby_heart/table.py [--write]``.

A federated row and a seed give exactly the model that ``fedkit simulate flamby_heart seed=... OVERRIDES`` gives, only
without a run directory each. Baselines train on the same rows through the same library. FLamby's points with DP-SGD are
run by ``dp.py`` beside this file.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import yaml

from fedkit.config.compose import compose
from fedkit.data.pool import pooled
from fedkit.models import build
from fedkit.runs.manifest import installed_versions
from fedkit.simulation.local import one_thread, run_local
from fedkit.simulation.prepare import Prepared, prepare
from fedkit.training.evaluate import predict
from fedkit.training.metrics import metrics
from fedkit.training.plan import local_plans
from fedkit.types import Dataset, Float32, Site

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results.json"
READMES = (HERE / "README.md", HERE.parents[1] / "README.md")
BEGIN, END = "<!-- flamby:begin -->", "<!-- flamby:end -->"
DP_BEGIN, DP_END = "<!-- flamby-dp:begin -->", "<!-- flamby-dp:end -->"

EXPERIMENT = "flamby_heart"
SITES = {"cleveland": "Cleveland", "hungary": "Hungary", "switzerland": "Switzerland", "va": "VA Long Beach"}
FIRST_SEED, PUBLISHED_SEEDS, SEEDS = 42, 5, 40
PARTS = ("published_seeds", "all_seeds")


@dataclass(frozen=True)
class Published:
    """FLamby's own figures, means over seeds 42 to 46; empty where there are none.

    Attributes:
        average: accuracy, mean over the four sites' test sets, and its standard deviation over the seeds.
        sites: accuracy by site, in the order of ``SITES``.
        pooled_test: accuracy on all test rows together, and its standard deviation.
    """

    average: tuple[float, ...] = ()
    sites: tuple[float, ...] = ()
    pooled_test: tuple[float, ...] = ()


@dataclass(frozen=True)
class Row:
    """One method, as ``rows.yaml`` states it; what its fields may say is explained there."""

    name: str
    settings: str
    overrides: tuple[str, ...] = ()
    trains: str = "federation"
    tests: str = "own"
    published: Published = Published()


def _row(name: str, settings: str, overrides: Sequence[str] = (), **more: Any) -> Row:
    return Row(name, settings, tuple(overrides), **{**more, "published": Published(**more.get("published", {}))})


ROWS: Mapping[str, Row] = {
    key: _row(**stated)
    for key, stated in yaml.safe_load((HERE / "rows.yaml").read_text(encoding="utf-8")).items()
    if key != "dp"
}


@cache
def _prepared(overrides: tuple[str, ...]) -> Prepared:
    return prepare(compose(EXPERIMENT, overrides))


@cache
def _models(trains: str, overrides: tuple[str, ...], seed: int) -> Mapping[str, Float32]:
    """The model that each site's test rows are put to, float32 [14]."""
    prepared = _prepared(overrides)
    sites = prepared.dataset.sites
    if trains == "local_only":
        return {site.name: _fit(prepared, replace(prepared.dataset, sites=(site,)), seed) for site in sites}
    dataset = pooled(prepared.dataset) if trains == "pooled" else prepared.dataset
    return dict.fromkeys((site.name for site in sites), _fit(prepared, dataset, seed))


def _fit(prepared: Prepared, dataset: Dataset, seed: int) -> Float32:
    config = replace(prepared.config, seed=seed)
    model = build(config.model, dataset.input_shape, dataset.task.num_outputs, seed)
    run = replace(prepared, config=config, dataset=dataset, model=model, local=local_plans(config, dataset))
    return run_local(run, lambda *_: None, evaluate=False).parameters


def accuracies(row: Row, seed: int) -> dict[str, float]:
    """Train a row's models under one seed and test them.

    Returns:
        site to accuracy; for the pooled row also ``pooled_test``, the accuracy on all test rows together.
    """
    models = _models(row.trains, row.overrides, seed)
    prepared = _prepared(() if row.tests == "site_scales" else row.overrides)
    sites = prepared.dataset.sites

    def accuracy(model: Float32, site: Site) -> float:
        task = prepared.dataset.task
        return float(metrics(task, predict(prepared.model, model, task, site.test))["accuracy"] or 0.0)

    with one_thread():
        if row.tests == "everywhere":
            return {name: fmean(accuracy(model, site) for site in sites) for name, model in models.items()}
        found = {site.name: accuracy(models[site.name], site) for site in sites}
        if row.trains == "pooled" and row.tests == "own":
            found["pooled_test"] = accuracy(models[sites[0].name], pooled(prepared.dataset).sites[0])
        return found


def run(seeds: Sequence[int], rows: Iterable[str] = tuple(ROWS)) -> dict[str, Any]:
    """Run some rows over some seeds.

    Returns:
        What ``results.json`` holds: versions, seeds, split sizes, and by row the accuracies of each seed with their
        means and spreads over the published seeds and over all.
    """
    sites = _prepared(()).dataset.sites
    results: dict[str, Any] = {
        "command": "python experiments/flamby_heart/table.py --write",
        "versions": installed_versions(),
        "seeds": list(seeds),
        "sites": {site.name: {"train": len(site.train), "test": len(site.test)} for site in sites},
        "rows": {},
    }
    for key in rows:
        start = time.perf_counter()
        each = [accuracies(ROWS[key], seed) for seed in seeds]
        by_seed = {name: [round(found[name], 8) for found in each] for name in each[0]}
        results["rows"][key] = {"overrides": list(ROWS[key].overrides), **summary(by_seed), "accuracy": by_seed}
        print(f"{key}: {len(seeds)} seeds, {time.perf_counter() - start:.1f} s", file=sys.stderr)
    return results


def summary(by_seed: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Means and sample standard deviations over the published seeds and over all.

    Args:
        by_seed: site, or ``pooled_test``, to accuracy a seed.

    >>> summary({site: [0.5, 0.7] for site in SITES})["all_seeds"]["average"]
    {'mean': 0.6, 'std': 0.141421}
    """
    series = {**by_seed, "average": [fmean(found) for found in zip(*(by_seed[site] for site in SITES), strict=True)]}
    spans = dict(zip(PARTS, (slice(PUBLISHED_SEEDS), slice(None)), strict=True))
    return {
        part: {name: {"mean": round(fmean(v[span]), 6), "std": round(stdev(v[span]), 6)} for name, v in series.items()}
        for part, span in spans.items()
    }


def markdown(results: Mapping[str, Any]) -> str:
    """Two tables beside the published figures: the average of the sites, and each site."""
    seeds = results["seeds"]
    headings = f"published | here, {PUBLISHED_SEEDS} seeds | here, {len(seeds)} seeds"
    sizes = [f"{SITES[site]} ({n['train']} / {n['test']})" for site, n in results["sites"].items()]
    averages, sites = [], []
    for key, found in results["rows"].items():
        row, parts = ROWS[key], [found[part] for part in PARTS]
        averages.append([row.name, row.settings, _cell(*row.published.average), *_here(parts, "average")])
        if row.published.pooled_test:
            name = f"{row.name}, on the pooled test"
            averages.append([name, "", _cell(*row.published.pooled_test), *_here(parts, "pooled_test")])
        said: list[tuple[float, ...]] = [(was,) for was in row.published.sites] or [()] * len(SITES)
        here = [[_cell(part[site]["mean"]) for part in parts] for site in SITES]
        sites.append([row.name, *(" · ".join([_cell(*was), *now]) for was, now in zip(said, here, strict=True))])
    lines = [
        f"Accuracy, average over the four sites' test sets: mean ± standard deviation over the published seeds"
        f" {FIRST_SEED} to {FIRST_SEED + PUBLISHED_SEEDS - 1} and over {len(seeds)} seeds, {seeds[0]} to {seeds[-1]}.",
        "",
        *_table(["method", "settings", *headings.split(" | ")], averages),
        "",
        f"By site (rows to train / to test), each cell {headings.replace(' | ', ' · ')}; of the models tested at all"
        " four, the column is the site that trained:",
        "",
        *_table(["method", *sizes], sites),
        "",
        "SCAFFOLD (published .684) is not offered yet.",
    ]
    return "\n".join(lines)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]


def _here(parts: Sequence[Mapping[str, Mapping[str, float]]], name: str) -> list[str]:
    return [_cell(part[name]["mean"], part[name]["std"]) for part in parts]


def _cell(*figures: float) -> str:
    """Mean, or mean and spread."""
    return " ± ".join(f"{value:.3f}".removeprefix("0") for value in figures) or "–"


def with_table(text: str, table: str, opening: str = BEGIN, closing: str = END) -> str:
    r"""A README's text with what lies between its markers replaced; unchanged where it has none.

    >>> with_table(f"a\n{BEGIN}\nold\n{END}\nb", "new") == f"a\n{BEGIN}\n\nnew\n\n{END}\nb"
    True
    """
    before, begin, rest = text.partition(opening)
    _, end, after = rest.partition(closing)
    return f"{before}{begin}\n\n{table}\n\n{end}{after}" if begin and end else text


def write(results: Mapping[str, Any]) -> None:
    """Record the results and put their tables into the READMEs that have the markers."""
    import dp

    # One line for each innermost list or mapping: a change shows as the lines that changed.
    text = re.sub(
        r"[\[{][^\[\]{}]*[\]}]", lambda found: json.dumps(json.loads(found[0])), json.dumps(results, indent=1)
    )
    RESULTS.write_text(text + "\n", encoding="utf-8")
    for path in READMES:
        if path.exists():
            shown = with_table(path.read_text(encoding="utf-8"), markdown(results))
            path.write_text(with_table(shown, dp.markdown(results["dp"]), DP_BEGIN, DP_END), encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run every row and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=SEEDS, help=f"how many, from {FIRST_SEED} on (default {SEEDS})")
    parser.add_argument("--write", action="store_true", help="update results.json and the table in the READMEs")
    parser.add_argument("--json", action="store_true", help="print the results as JSON instead of the table")
    given = parser.parse_args(arguments)
    if given.seeds < PUBLISHED_SEEDS:
        parser.error(f"--seeds {given.seeds} is below {PUBLISHED_SEEDS}, the number of published seeds")
    if given.write and given.seeds < SEEDS:
        parser.error(f"--write records at least {SEEDS} seeds; leave --seeds {given.seeds} out")
    import dp  # beside this file, so found only where this is run as a script

    results = run(range(FIRST_SEED, FIRST_SEED + given.seeds))
    results["dp"] = dp.run(workers=min(4, os.cpu_count() or 1))
    if given.write:
        write(results)
    print(json.dumps(results) if given.json else f"{markdown(results)}\n\n{dp.markdown(results['dp'])}")


if __name__ == "__main__":
    main()
