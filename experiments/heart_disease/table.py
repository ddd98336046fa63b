"""What privacy costs on four hospitals, and what federating buys: ``python experiments/heart_disease/table.py``.

The experiment at several epsilons, beside the pooled and the local-only model, over several seeds. ``--write`` puts
the table into the README beside this file.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from fedkit.config.compose import compose
from fedkit.simulation.baselines import baselines
from fedkit.simulation.local import predict_all, run_local
from fedkit.simulation.prepare import Prepared, prepare
from fedkit.training.metrics import concatenate, metrics

README = Path(__file__).with_name("README.md")
BEGIN, END = "<!-- table:begin -->", "<!-- table:end -->"
PRIVACY: Mapping[str, Sequence[str]] = {
    "none": ["privacy=none"],
    "8": ["privacy.epsilon=8"],
    "3": ["privacy.epsilon=3"],
    "1": ["privacy.epsilon=1"],
    "0.5": ["privacy.epsilon=0.5"],
}
MODELS = ("federated", "pooled", "local_only")
FIRST_SEED, SEEDS = 42, 10


def overall(prepared: Prepared) -> dict[str, Mapping[str, Any]]:
    """Metrics on all sites' test rows together, of the federation and of both baselines."""
    finish = run_local(prepared, lambda *_: None, evaluate=False)
    scored = list(predict_all(prepared, finish.parameters).values())
    beside = baselines(prepared)
    return {
        "federated": metrics(prepared.dataset.task, concatenate(scored)),
        **{kind: beside[kind]["overall"] for kind in MODELS[1:]},
    }


def run(seeds: Sequence[int]) -> dict[str, list[dict[str, Mapping[str, Any]]]]:
    """Epsilon to a list of results, one a seed."""
    found: dict[str, list[dict[str, Mapping[str, Any]]]] = {}
    for epsilon, overrides in PRIVACY.items():
        prepared = prepare(compose("heart_disease", overrides))
        found[epsilon] = []
        for seed in seeds:
            # The seed decides the first weights, the lots and the noise; data and plan stay.
            config = replace(prepared.config, seed=seed)
            found[epsilon].append(overall(prepare(config)))
        print(f"epsilon {epsilon}: {len(seeds)} seeds", file=sys.stderr)
    return found


def markdown(found: Mapping[str, Sequence[Mapping[str, Mapping[str, Any]]]], seeds: Sequence[int]) -> str:
    """The table: mean and standard deviation over seeds."""
    heads = [f"{kind.replace('_', ' ')}, {label}" for label in ("AUROC", "accuracy") for kind in MODELS]
    lines = [f"| epsilon | {' | '.join(heads)} |", f"|---|{'---|' * len(heads)}"]
    for epsilon, results in found.items():
        cells = []
        for metric in ("auroc", "accuracy"):
            for kind in MODELS:
                values = [result[kind][metric] for result in results]
                cells.append(f"{fmean(values):.3f} ± {stdev(values):.3f}")
        lines.append(f"| {epsilon} | {' | '.join(cells)} |")
    lines += [
        "",
        f"Mean ± standard deviation over {len(seeds)} seeds ({seeds[0]} to {seeds[-1]}), exact metrics on the test rows"
        " of all sites together. Noise is seeded: epsilon is what each plan would cost with real noise, at each site,"
        " for one record, add or remove, delta 1e-5, the whole run.",
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
