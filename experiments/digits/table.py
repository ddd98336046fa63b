"""What privacy and skew cost on small images: ``python experiments/digits/table.py``.

The experiment at several epsilons, its sites even or skewed by digit, beside a linear model, over several seeds.
``--write`` puts the table into the README beside this file.
"""

from __future__ import annotations

import argparse
import math
import os
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean, stdev

from fedkit.config.compose import compose
from fedkit.data.load import load_dataset
from fedkit.simulation.local import predict_all, run_local
from fedkit.simulation.prepare import prepare
from fedkit.training.metrics import concatenate, metrics

README = Path(__file__).with_name("README.md")
BEGIN, END = "<!-- table:begin -->", "<!-- table:end -->"
PRIVACY: Mapping[str, Sequence[str]] = {
    "none": ["privacy=none"],
    "8": ["privacy.epsilon=8"],
    "3": ["privacy.epsilon=3"],
    "1": ["privacy.epsilon=1"],
}
SKEWED = ["data.partition.kind=dirichlet", "data.partition.alpha=0.5"]
WORK: Mapping[str, Sequence[str]] = {
    "cnn, even sites": [],
    "cnn, skewed sites": SKEWED,
    "logistic, even sites": ["model=logistic"],
}
FIRST_SEED, SEEDS = 42, 3


def declared(overrides: Sequence[str]) -> list[str]:
    """The overrides with counts that each site may declare: its own, rounded up to the next 20."""
    data = compose("digits", [*overrides, "privacy=none", "data.records=null"]).data
    counts = {site.name: site.records for site in load_dataset(data, private=False).sites}
    told = ", ".join(f"{name}: {math.ceil(count / 20) * 20}" for name, count in counts.items())
    return [*overrides, f"data.records={{{told}}}"]


def cell(work: str, epsilon: str, seeds: Sequence[int]) -> list[float]:
    """Accuracy on all sites' test images together, one a seed."""
    config = compose("digits", [*declared(WORK[work]), *PRIVACY[epsilon]])
    found = []
    for seed in seeds:
        # The seed decides the first weights, the lots and the noise; data and plan stay.
        seeded = prepare(replace(config, seed=seed))
        finish = run_local(seeded, lambda *_: None, evaluate=False)
        scored = list(predict_all(seeded, finish.parameters).values())
        found.append(float(metrics(seeded.dataset.task, concatenate(scored))["accuracy"] or 0.0))
    print(f"{work}, epsilon {epsilon}: {fmean(found):.3f}", file=sys.stderr, flush=True)
    return found


def run(seeds: Sequence[int]) -> dict[str, dict[str, list[float]]]:
    """Epsilon to kind of work to accuracies, one a seed; a process a core, which changes none of them."""
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        asked = {epsilon: {work: pool.submit(cell, work, epsilon, list(seeds)) for work in WORK} for epsilon in PRIVACY}
        return {
            epsilon: {work: future.result() for work, future in futures.items()} for epsilon, futures in asked.items()
        }


def markdown(found: Mapping[str, Mapping[str, Sequence[float]]], seeds: Sequence[int]) -> str:
    """The table: mean and standard deviation over seeds."""
    lines = [f"| epsilon | {' | '.join(WORK)} |", f"|---|{'---|' * len(WORK)}"]
    for epsilon, results in found.items():
        cells = [f"{fmean(results[work]):.3f} ± {stdev(results[work]):.3f}" for work in WORK]
        lines.append(f"| {epsilon} | {' | '.join(cells)} |")
    lines += [
        "",
        f"Accuracy, mean ± standard deviation over {len(seeds)} seeds ({seeds[0]} to {seeds[-1]}), exact, on the test"
        " images of all sites together. Noise is seeded: epsilon is what each plan would cost with real noise, at each"
        " site, for one image, add or remove, delta 1e-5, the whole run.",
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run every cell and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=SEEDS, help=f"how many, from {FIRST_SEED} on (default {SEEDS})")
    parser.add_argument("--write", action="store_true", help="update the table in the README beside this file")
    given = parser.parse_args(arguments)
    if given.seeds < 2:
        parser.error(f"--seeds {given.seeds} is below 2; a spread needs two")
    seeds = range(FIRST_SEED, FIRST_SEED + given.seeds)
    table = markdown(run(seeds), seeds)
    if given.write:
        before, _, rest = README.read_text(encoding="utf-8").partition(BEGIN)
        after = rest.partition(END)[2]
        README.write_text(f"{before}{BEGIN}\n{table}\n{END}{after}", encoding="utf-8")
    print(table)


if __name__ == "__main__":
    main()
