"""What epsilon costs on three tables with the shipped defaults: ``python experiments/privacy_utility/table.py``.

Every table as ``configs/data`` declares it under the defaults of ``configs/``, nothing tuned, at several epsilons and
ten seeds. ``--write`` puts the results beside this file, the tables into the README beside it, the main table into the
repository's README and the curve into ``docs/``.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import re
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from math import sqrt
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from scipy.stats import t as student

from fedkit.config.compose import compose
from fedkit.models import build
from fedkit.runs.manifest import installed_versions
from fedkit.simulation.local import predict_all, run_local
from fedkit.simulation.prepare import Prepared, prepare
from fedkit.training.metrics import concatenate, metrics

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
RESULTS, CURVE = HERE / "results.json", ROOT / "docs" / "privacy-utility.svg"
READMES = {HERE / "README.md": ("table", "verdict", "sites"), ROOT / "README.md": ("verdict",)}

TABLES = {
    "heart_disease": "heart disease, four hospitals",
    "breast_cancer": "breast cancer, Dirichlet split",
    "diabetes": "diabetes, even split",
}
LEVELS: Mapping[str, Sequence[str]] = {
    "none": ["privacy=none"],
    "10": ["privacy.epsilon=10"],
    "3": ["privacy.epsilon=3"],
    "1": ["privacy.epsilon=1"],
    "0.3": ["privacy.epsilon=0.3"],
}
BOUND, BOUND_AT = 0.05, "3"
FIRST_SEED, SEEDS = 42, 10
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean over seeds and its 95 % interval (Student's t)."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Interval:
        """From one value a seed, at least two.

        >>> Interval.of([1.0, 1.0, 1.0])
        Interval(mean=1.0, low=1.0, high=1.0)
        """
        mean = fmean(values)
        half = float(student.ppf((1 + CONFIDENCE) / 2, len(values) - 1)) * stdev(values) / sqrt(len(values))
        return cls(mean, mean - half, mean + half)

    def __str__(self) -> str:
        return f"{_shown(self.mean)} [{_shown(self.low)}, {_shown(self.high)}]"


def _shown(value: float) -> str:
    return f"{round(value, 3) + 0.0:.3f}"


def cell(table: str, level: str, seeds: Sequence[int]) -> dict[str, Any]:
    """One table at one epsilon, over the seeds.

    Returns:
        ``sigma`` and ``epsilon`` of each site's plan, and AUROC by seed: on all test rows together (``auroc``) and at
        each site (``sites``; null where one class is all there is).
    """
    prepared = prepare(compose(None, [f"data={table}", *LEVELS[level]]))
    found = [aurocs(prepared, seed) for seed in seeds]
    plans = {site: plan.privacy for site, plan in prepared.local.sites.items() if plan.privacy}
    return {
        "epsilon": {site: round(plan.epsilon, 4) for site, plan in plans.items()},
        "sigma": {site: round(plan.noise_multiplier, 4) for site, plan in plans.items()},
        "auroc": [seed["overall"] for seed in found],
        "sites": {site: [seed[site] for seed in found] for site in prepared.local.tested},
    }


def aurocs(prepared: Prepared, seed: int) -> dict[str, float | None]:
    """Train once and test: exact metrics, which exist in simulation only."""
    # The seed decides the first weights, the lots and the noise; data, split and plan stay.
    config, dataset = replace(prepared.config, seed=seed), prepared.dataset
    model = build(config.model, dataset.input_shape, dataset.task.num_outputs, seed)
    run = replace(prepared, config=config, model=model)
    scored = predict_all(run, run_local(run, lambda *_: None, evaluate=False).parameters)
    parts = {"overall": concatenate(list(scored.values())), **scored}
    values = {name: metrics(dataset.task, part)["auroc"] for name, part in parts.items()}
    return {name: None if value is None else round(float(value), 6) for name, value in values.items()}


def run(seeds: Sequence[int], workers: int = 1, tables: Iterable[str] = tuple(TABLES)) -> dict[str, Any]:
    """Every table at every level.

    Args:
        workers: processes; 1 stays in this one. The results do not depend on it.

    Returns:
        What ``results.json`` holds.
    """
    jobs = [(table, level) for table in tables for level in LEVELS]
    work = partial(cell, seeds=seeds)
    if workers > 1:
        with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
            found = list(pool.map(work, *zip(*jobs, strict=True)))
    else:
        found = [work(*job) for job in jobs]
    results: dict[str, Any] = {
        "command": "python experiments/privacy_utility/table.py --write",
        "versions": installed_versions(),
        "seeds": list(seeds),
        "tables": {},
    }
    for (table, level), result in zip(jobs, found, strict=True):
        results["tables"].setdefault(table, {})[level] = result
    return results


def losses(levels: Mapping[str, Any], level: str) -> list[float]:
    """AUROC lost against no privacy, seed by seed."""
    return [without - having for without, having in zip(levels["none"]["auroc"], levels[level]["auroc"], strict=True)]


def verdict(loss: Interval) -> str:
    """Whether the bound holds.

    >>> verdict(Interval(0.06, 0.05, 0.07)), verdict(Interval(0.04, 0.03, 0.06)), verdict(Interval(0.02, 0.01, 0.03))
    ('**missed**', 'met in the mean, not over the whole interval', 'met')
    """
    if loss.mean > BOUND:
        return "**missed**"
    return "met" if loss.high <= BOUND else "met in the mean, not over the whole interval"


def markdown(results: Mapping[str, Any]) -> dict[str, str]:
    """The three blocks of the README: every level, the bound, and the sites."""
    return {"table": _levels(results), "verdict": _verdicts(results), "sites": _sites(results)}


def _levels(results: Mapping[str, Any]) -> str:
    rows = []
    for table, levels in results["tables"].items():
        for level, found in levels.items():
            loss = "–" if level == "none" else str(Interval.of(losses(levels, level)))
            worst = "–" if level == "none" else _shown(max(losses(levels, level)))
            sigmas = sorted(found["sigma"].values())
            sigma = "–" if not sigmas else f"{sigmas[0]:.2f}" if sigmas[0] == sigmas[-1] else _range(sigmas)
            rows.append([TABLES[table], level, sigma, str(Interval.of(found["auroc"])), loss, worst])
    seeds = results["seeds"]
    return "\n".join(
        [
            *_table(["data", "epsilon", "sigma", "AUROC", "loss against none", "largest loss of a seed"], rows),
            "",
            f"Mean and 95 % interval over {len(seeds)} seeds ({seeds[0]} to {seeds[-1]}), exact AUROC on the test rows"
            " of all sites together; a loss is taken seed by seed. Exact metrics exist in simulation only: they are"
            " **not protected**. Noise is seeded: epsilon is what the plan would cost with real noise, at each site,"
            " for one record, add or remove, delta 1e-5, the whole run, the noisy evaluation that ships included."
            " Sigma: the training's noise over the clip.",
        ]
    )


def _range(values: Sequence[float]) -> str:
    return f"{values[0]:.2f} to {values[-1]:.2f}"


def _verdicts(results: Mapping[str, Any]) -> str:
    rows = []
    for table, levels in results["tables"].items():
        loss = Interval.of(losses(levels, BOUND_AT))
        pair = [str(Interval.of(levels[level]["auroc"])) for level in ("none", BOUND_AT)]
        rows.append([TABLES[table], *pair, str(loss), verdict(loss)])
    head = ["data", "AUROC, no privacy", f"AUROC, epsilon {BOUND_AT}", "loss", f"at most {BOUND}"]
    return "\n".join(_table(head, rows))


def _sites(results: Mapping[str, Any]) -> str:
    rows = []
    for table, levels in results["tables"].items():
        for site, without in levels["none"]["sites"].items():
            having = levels[BOUND_AT]["sites"][site]
            if None in (*without, *having):
                rows.append([TABLES[table], site, "–", "–", "–", "one class in its test rows"])
            else:
                loss = Interval.of([a - b for a, b in zip(without, having, strict=True)])
                means = [f"{fmean(without):.3f}", f"{fmean(having):.3f}"]
                rows.append([TABLES[table], site, *means, str(loss), verdict(loss)])
    head = ["data", "site", "no privacy", f"epsilon {BOUND_AT}", "loss", f"at most {BOUND}"]
    return "\n".join(_table(head, rows))


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]


def with_blocks(text: str, blocks: Mapping[str, str]) -> str:
    r"""A README's text with what lies between its markers replaced; unchanged where it has none.

    >>> marked = "a\n<!-- utility-sites:begin -->\nold\n<!-- utility-sites:end -->\nb"
    >>> with_blocks(marked, {"sites": "new"}) == marked.replace("\nold\n", "\n\nnew\n\n")
    True
    """
    for name, block in blocks.items():
        begin, end = f"<!-- utility-{name}:begin -->", f"<!-- utility-{name}:end -->"
        before, found, rest = text.partition(begin)
        _, closed, after = rest.partition(end)
        if found and closed:
            text = f"{before}{begin}\n\n{block}\n\n{end}{after}"
    return text


def write(results: Mapping[str, Any]) -> None:
    """Record the results, the READMEs' tables and the curve."""
    from curve import draw

    # One line for each innermost list or mapping: a change shows as the lines that changed.
    text = re.sub(
        r"[\[{][^\[\]{}]*[\]}]", lambda found: json.dumps(json.loads(found[0])), json.dumps(results, indent=1)
    )
    RESULTS.write_text(text + "\n", encoding="utf-8")
    blocks = markdown(results)
    for path, names in READMES.items():
        if path.exists():
            chosen = {name: blocks[name] for name in names}
            path.write_text(with_blocks(path.read_text(encoding="utf-8"), chosen), encoding="utf-8")
    CURVE.write_text(draw(curve_data(results)), encoding="utf-8")


def curve_data(results: Mapping[str, Any]) -> dict[str, dict[str, Interval]]:
    """What the curve shows: table's title to level to AUROC."""
    return {
        TABLES[table]: {level: Interval.of(found["auroc"]) for level, found in levels.items()}
        for table, levels in results["tables"].items()
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Run every cell and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=SEEDS, help=f"how many, from {FIRST_SEED} on (default {SEEDS})")
    parser.add_argument("--workers", type=int, default=min(4, os.cpu_count() or 1), help="processes")
    parser.add_argument("--write", action="store_true", help="update results.json, the READMEs and the curve")
    given = parser.parse_args(arguments)
    if given.seeds < 2:
        parser.error(f"--seeds {given.seeds} is below 2; an interval needs two")
    if given.write and given.seeds < SEEDS:
        parser.error(f"--write records at least {SEEDS} seeds; leave --seeds {given.seeds} out")
    start = time.perf_counter()
    results = run(range(FIRST_SEED, FIRST_SEED + given.seeds), given.workers)
    print(f"{given.seeds} seeds, {time.perf_counter() - start:.0f} s", file=sys.stderr)
    if given.write:
        write(results)
    print("\n\n".join(markdown(results).values()))


if __name__ == "__main__":
    main()
