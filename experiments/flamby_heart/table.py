"""The published FLamby heart disease table, run again: ``python experiments/flamby_heart/table.py [--write]``.

Every row is the experiment ``flamby_heart`` with the overrides that it states. A row and a seed give exactly the
model that ``fedkit simulate flamby_heart seed=... OVERRIDES`` gives, without a run directory each.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from fedkit.config.compose import compose
from fedkit.data.pool import pooled
from fedkit.models import build
from fedkit.runs.manifest import installed_versions
from fedkit.simulation.local import one_thread, run_local
from fedkit.simulation.prepare import Prepared, prepare
from fedkit.training.evaluate import predict
from fedkit.training.metrics import metrics
from fedkit.training.plan import local_plans
from fedkit.types import Dataset, Float32

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results.json"
READMES = (HERE / "README.md", HERE.parents[1] / "README.md")
BEGIN, END = "<!-- flamby:begin -->", "<!-- flamby:end -->"

EXPERIMENT = "flamby_heart"
FIRST_SEED = 42
PUBLISHED_SEEDS = 5
SEEDS = 40

_ALONE = (
    "training.optimizer=adam",
    "training.learning_rate=1e-3",
    "training.local_steps=null",
    "training.local_epochs=50",
    "federation.num_rounds=1",
    "federation.min_sites=1",
)
"""FLamby's single-centre training: 50 epochs of Adam in one go, no rounds."""


@dataclass(frozen=True)
class Published:
    """What FLamby's result files say, means of seeds 42 to 46; None where they are silent.

    Attributes:
        average: accuracy, mean over the four sites' test sets.
        spread: standard deviation of ``average`` over the seeds.
        sites: site to accuracy.
        pooled_test: accuracy on all test rows together.
    """

    average: float | None = None
    spread: float | None = None
    sites: Mapping[str, float] = field(default_factory=dict)
    pooled_test: tuple[float, float] | None = None


@dataclass(frozen=True)
class Row:
    """One method: its overrides of the experiment, and the figures that it is compared with.

    Attributes:
        trains: ``federation``, ``pooled`` (one model on everyone's rows) or ``local_only`` (each site its own).
    """

    name: str
    settings: str
    overrides: tuple[str, ...]
    published: Published
    trains: str = "federation"


def _by_site(*accuracies: float) -> dict[str, float]:
    return dict(zip(("cleveland", "hungary", "switzerland", "va"), accuracies, strict=True))


_FEDAVG = Published(0.685, 0.028, _by_site(0.731, 0.719, 0.650, 0.640))
_ADAPTIVE = Published(0.731, None, _by_site(0.760, 0.753, 0.738, 0.676))

ROWS: Mapping[str, Row] = {
    "pooled": Row(
        "pooled",
        "Adam 1e-3, 50 epochs, pooled z-scores",
        ("data.scaling=pooled_zscore", *_ALONE),
        Published(0.735, None, _by_site(0.783, 0.764, 0.750, 0.644), (0.795, 0.003)),
        "pooled",
    ),
    "local_only": Row(
        "local only",
        "each site's own model on its own test; Adam 1e-3, 50 epochs",
        _ALONE,
        Published(None, None, _by_site(0.722, 0.629, 0.567, 0.637)),
        "local_only",
    ),
    "fedavg": Row("FedAvg", "client lr 1e-3", (), _FEDAVG),
    "fedprox": Row(
        "FedProx", "client lr 1e-3, mu .01", ("strategy=fedprox", "strategy.proximal_mu=0.01"), _FEDAVG
    ),
    "fedadam": Row(
        "FedAdam, bias-corrected (Flower's `fedadam`)",
        "client lr .01, eta .01, beta_1 .9, beta_2 .999, tau 1e-8",
        (
            "strategy=fedadam",
            "training.learning_rate=0.01",
            "strategy.eta=0.01",
            "strategy.beta_1=0.9",
            "strategy.beta_2=0.999",
            "strategy.tau=1e-8",
        ),
        Published(),
    ),
    "fedadam_uncorrected": Row(
        "FedAdam (`fedadam_uncorrected`)",
        "client lr .01, eta .01, beta_1 .9, beta_2 .999, tau 1e-8",
        (
            "strategy=fedadam_uncorrected",
            "training.learning_rate=0.01",
            "strategy.eta=0.01",
            "strategy.beta_1=0.9",
            "strategy.beta_2=0.999",
            "strategy.tau=1e-8",
        ),
        Published(0.726, 0.014, _by_site(0.752, 0.746, 0.738, 0.667)),
    ),
    "fedyogi": Row(
        "FedYogi",
        "client lr .003162, eta .01, beta_1 .9, beta_2 .999, tau 1e-8",
        (
            "strategy=fedyogi",
            "training.learning_rate=0.003162",
            "strategy.eta=0.01",
            "strategy.beta_1=0.9",
            "strategy.beta_2=0.999",
            "strategy.tau=1e-8",
        ),
        _ADAPTIVE,
    ),
    "fedadagrad": Row(
        "FedAdagrad",
        "client lr .003162, eta .316228, beta_1 .9, no beta_2, tau 1e-8",
        (
            "strategy=fedadagrad",
            "training.learning_rate=0.003162",
            "strategy.eta=0.316228",
            "strategy.beta_1=0.9",
            "strategy.tau=1e-8",
        ),
        _ADAPTIVE,
    ),
}


def accuracies(row: Row, seeds: Iterable[int]) -> Iterator[dict[str, float]]:
    """Train a row once a seed.

    Yields:
        site to accuracy on its test set, and ``pooled_test`` to accuracy on all test rows together.
    """
    prepared = prepare(compose(EXPERIMENT, row.overrides))
    dataset = prepared.dataset
    for seed in seeds:
        if row.trains == "local_only":
            models = {site.name: _fit(prepared, replace(dataset, sites=(site,)), seed) for site in dataset.sites}
        else:
            together = pooled(dataset) if row.trains == "pooled" else dataset
            models = dict.fromkeys((site.name for site in dataset.sites), _fit(prepared, together, seed))
        yield _measured(prepared, models)


def _fit(prepared: Prepared, dataset: Dataset, seed: int) -> Float32:
    config = replace(prepared.config, seed=seed)
    model = build(config.model, dataset.input_shape, dataset.task.num_outputs, seed)
    run = replace(prepared, config=config, dataset=dataset, model=model, local=local_plans(config, dataset))
    return run_local(run, lambda *_: None, evaluate=False).parameters


def _measured(prepared: Prepared, models: Mapping[str, Float32]) -> dict[str, float]:
    found: dict[str, float] = {}
    with one_thread():
        for site in prepared.dataset.sites:
            task = prepared.dataset.task
            scored = metrics(task, predict(prepared.model, models[site.name], task, site.test))
            found[site.name] = float(scored["accuracy"] or 0.0)
    rows = {site.name: len(site.test) for site in prepared.dataset.sites}
    correct = sum(found[name] * count for name, count in rows.items())
    return {**found, "pooled_test": correct / sum(rows.values())}


def run(seeds: Sequence[int], rows: Iterable[str] = tuple(ROWS)) -> dict[str, Any]:
    """Run some rows over some seeds.

    Returns:
        What ``results.json`` holds: versions, seeds, split sizes, and by row each seed's accuracies and their
        summaries over the five published seeds and over all.
    """
    sites = prepare(compose(EXPERIMENT)).dataset.sites
    results: dict[str, Any] = {
        "command": "python experiments/flamby_heart/table.py --write",
        "versions": installed_versions(),
        "seeds": list(seeds),
        "sites": {site.name: {"train": len(site.train), "test": len(site.test)} for site in sites},
        "rows": {},
    }
    for number, key in enumerate(rows, start=1):
        each = []
        for found in accuracies(ROWS[key], seeds):
            each.append(found)
            sys.stderr.write(f"\r{number} {key}: {len(each)} of {len(seeds)} seeds \033[K")
            sys.stderr.flush()
        sys.stderr.write("\n")
        by_seed = {name: [round(found[name], 8) for found in each] for name in each[0]}
        results["rows"][key] = {"overrides": list(ROWS[key].overrides), **summary(by_seed), "accuracy": by_seed}
    return results


def summary(by_seed: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Means and sample standard deviations, over the published seeds and over all.

    Args:
        by_seed: site, or ``pooled_test``, to accuracy a seed.
    """
    series = {name: list(values) for name, values in by_seed.items()}
    series["average"] = averages(by_seed)
    parts = {"published_seeds": slice(PUBLISHED_SEEDS), "all_seeds": slice(None)}
    return {part: {name: _mean_and_spread(values[which]) for name, values in series.items()} for part, which in parts.items()}


def averages(by_seed: Mapping[str, Sequence[float]]) -> list[float]:
    """Mean over the four sites' test sets, a seed."""
    return [fmean(found) for found in zip(*(v for k, v in by_seed.items() if k != "pooled_test"), strict=True)]


def _mean_and_spread(values: Sequence[float]) -> dict[str, float]:
    return {"mean": round(fmean(values), 6), "std": round(stdev(values), 6) if len(values) > 1 else 0.0}


def markdown(results: Mapping[str, Any]) -> str:
    """Two tables beside the published figures: the average of the sites, and each site."""
    seeds, sites = results["seeds"], list(results["sites"])
    five = f"seeds {seeds[0]} to {seeds[min(PUBLISHED_SEEDS, len(seeds)) - 1]}"
    all_of_them = f"{len(seeds)} seeds, {seeds[0]} to {seeds[-1]}"
    lines = [
        "Accuracy on each site's test set, mean over the four sites; mean ± standard deviation over seeds.",
        "",
        f"| method | settings | published ({five}) | here ({five}) | here ({all_of_them}) |",
        "|---|---|---|---|---|",
    ]
    for key, row in results["rows"].items():
        said, parts = ROWS[key], (row["published_seeds"], row["all_seeds"])
        cells = [_published(said.published.average, said.published.spread), *(_cell(part["average"]) for part in parts)]
        lines.append(f"| {said.name} | {said.settings} | {' | '.join(cells)} |")
        if said.published.pooled_test:
            cells = [_published(*said.published.pooled_test), *(_cell(part["pooled_test"]) for part in parts)]
            lines.append(f"| {said.name}, on the pooled test | | {' | '.join(cells)} |")
    names = [f"{_title(site)} ({results['sites'][site]['train']} / {results['sites'][site]['test']})" for site in sites]
    lines += [
        "",
        f"By site (rows to train / to test): published · here, {five} · here, {all_of_them}.",
        "",
        f"| method | {' | '.join(names)} |",
        f"|---|{'---|' * len(sites)}",
    ]
    for key, row in results["rows"].items():
        cells = [
            " · ".join(
                [_published(ROWS[key].published.sites.get(site)), *(_short(row[part][site]["mean"]) for part in _PARTS)]
            )
            for site in sites
        ]
        lines.append(f"| {ROWS[key].name} | {' | '.join(cells)} |")
    lines += ["", "SCAFFOLD (published: .684) is not offered yet."]
    return "\n".join(lines)


_PARTS = ("published_seeds", "all_seeds")


def _short(value: float) -> str:
    return f"{value:.3f}".removeprefix("0")


def _cell(figures: Mapping[str, float]) -> str:
    return f"{_short(figures['mean'])} ± {_short(figures['std'])}"


def _published(mean: float | None, spread: float | None = None) -> str:
    if mean is None:
        return "–"
    return _short(mean) + ("" if spread is None else f" ± {_short(spread)}")


def _title(site: str) -> str:
    return "VA Long Beach" if site == "va" else site.capitalize()


def with_table(text: str, table: str) -> str:
    """A README's text with the part between its markers replaced; as it is where it has none.

    >>> with_table(f"a\\n{BEGIN}\\nold\\n{END}\\nb", "new").split()
    ['a', '<!--', 'flamby:begin', '-->', 'new', '<!--', 'flamby:end', '-->', 'b']
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table}\n{END}{after}" if begin and end else text


def write(results: Mapping[str, Any]) -> None:
    """Record the results and put their table into the READMEs that have its markers."""
    RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    for path in READMES:
        if path.exists():
            path.write_text(with_table(path.read_text(encoding="utf-8"), markdown(results)), encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run every row and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=SEEDS, help=f"how many, from {FIRST_SEED} on (default {SEEDS})")
    parser.add_argument("--write", action="store_true", help="update results.json and the READMEs' table")
    parser.add_argument("--json", action="store_true", help="print the results as JSON instead of the table")
    given = parser.parse_args(arguments)
    if given.seeds < PUBLISHED_SEEDS:
        parser.error(f"--seeds {given.seeds} is below {PUBLISHED_SEEDS}, the number of published seeds")
    if given.write and given.seeds < SEEDS:
        parser.error(f"--write records at least {SEEDS} seeds; leave --seeds {given.seeds} out")
    results = run(range(FIRST_SEED, FIRST_SEED + given.seeds))
    if given.write:
        write(results)
    print(json.dumps(results, indent=1) if given.json else markdown(results))


if __name__ == "__main__":
    main()
