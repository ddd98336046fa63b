"""100,000 sites of which no more are in memory than train: what a site costs, and what a process holds.

Site: 100 rows of 30 numbers, made when it is called; model: an MLP of 4,130 parameters; a round: one local epoch of SGD
or of DP-SGD in Poisson lots of 20. Each line is a run in a process of its own; CPU is that of all processes, memory the
peak of the run's process and of its largest worker, beyond what they held before the first round. The last lines have
1,000 sites a round and tell whether memory grows from round to round.

    python experiments/benchmarks/bench_population.py [--quick] [--write]
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peers.works import CLIP, RATE, SIGMA, WORKS, table_network
from write import leave, machine, options

from fedkit.config.experiment import FederationConfig, PrivacyConfig, TrainingConfig
from fedkit.privacy.plan import SiteFacts, make_plan
from fedkit.simulation.population import Population, run_population
from fedkit.strategies.streaming import fed_avg
from fedkit.types import Examples, LocalPlan, Site, Task

SITES = 100_000
ROWS, BATCH, (COLUMNS,) = WORKS["W1"].rows, WORKS["W1"].batch, WORKS["W1"].shape
TASK = Task("multiclass", ("class0", "class1"))
NOBODY = Examples(np.zeros((0, COLUMNS), np.float32), np.zeros(0, np.int64), np.zeros(0, np.int64))
_TRUTH = np.random.default_rng(1234).standard_normal((COLUMNS, 2)).astype(np.float32)


def make_site(name: str, place: int) -> Site:
    """The same records for the same place, in whichever process."""
    draw = np.random.default_rng([7, place])
    x = draw.standard_normal((ROWS, COLUMNS), dtype=np.float32)
    train = Examples(x, (x @ _TRUTH).argmax(1).astype(np.int64), np.arange(ROWS))
    return Site(name, train, NOBODY, ROWS, True)


def population(private: bool, rounds: int) -> Population:
    """Every site's plan: one epoch in batches, or in lots under DP-SGD with noise ``seeded``."""
    steps = ROWS // BATCH
    if not private:
        plan = LocalPlan(steps, BATCH, RATE, "sgd", None, float(ROWS), reports_loss=False)
        return Population(SITES, make_site, plan)
    asked = PrivacyConfig("record_dp", noise_multiplier=SIGMA, delta=1e-5, max_grad_norm=CLIP, sample_rate=BATCH / ROWS)
    promised = make_plan(SiteFacts("", ROWS, True, "record", 0.0), asked, TrainingConfig(RATE, local_epochs=1), rounds)
    return Population(SITES, make_site, LocalPlan(steps, BATCH, RATE, "sgd", promised, float(ROWS)))


def held() -> float:
    """Megabytes that this process holds now."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmRSS"].split()[0]) / 1024


def cpu() -> float:
    """Seconds of all processors, of this process and of those that it has waited for."""
    each = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in each)


def run(private: bool, a_round: int, rounds: int, workers: str) -> dict[str, Any]:
    """One run, in this process."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    people, model = population(private, 1 + rounds), table_network()
    memory: list[float] = []

    def go(count: int) -> float:
        federation = FederationConfig("local", count, a_round / SITES)
        begun = cpu()
        run_population(
            people, model, TASK, (COLUMNS,), fed_avg(), TrainingConfig(RATE, workers=workers), federation,
            lambda *_: memory.append(held()), seed=1,
        )  # fmt: skip
        return cpu() - begun

    # A round first: what is imported, and made once a run, is in both and falls out of the difference.
    alone = min(go(1) for _ in range(2))
    memory.clear()
    before, clock = held(), time.perf_counter()
    took = go(1 + rounds) - alone
    return {
        "private": private,
        "a_round": a_round,
        "rounds": rounds,
        "workers": workers,
        "us_a_site": round(1e6 * took / (rounds * a_round)),
        "seconds": round(time.perf_counter() - clock, 1),
        "mb_before": round(before),
        "mb_first": round(memory[min(3, len(memory) - 1)]),
        "mb_last": round(memory[-1]),
        "mb_peak": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "mb_worker": round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024),
    }


def elsewhere(**asked: Any) -> dict[str, Any]:
    """One run, in a fresh process."""
    done = subprocess.run(
        [sys.executable, __file__, "--one", json.dumps(asked)], stdout=subprocess.PIPE, text=True, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def table(results: list[dict[str, Any]]) -> str:
    """A Markdown table."""
    lines = [
        "| training | sites a round | rounds | processes | CPU us a site | MB before | after 3 rounds | at the end"
        " | peak | peak of a worker |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    keys = ("a_round", "rounds", "workers", "us_a_site", "mb_before", "mb_first", "mb_last", "mb_peak")
    for r in results:
        cells = [r[key] for key in keys]
        shown = " | ".join(f"{cell:,}" if isinstance(cell, int) else cell for cell in cells)
        worker = r["mb_worker"] if r["workers"] != "1" else "-"
        lines.append(f"| {'DP-SGD' if r['private'] else 'SGD'} | {shown} | {worker} |")
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    """Every run, and a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options(parser, "fewer rounds: a look, not a result")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.one:
        print(json.dumps(run(**json.loads(chosen.one))))
        return 0
    total, results = (2_000 if chosen.quick else 10_000), list[dict[str, Any]]()
    for private in (False, True):
        for a_round in (10, 100, 1000, 10_000):
            results.append(elsewhere(private=private, a_round=a_round, rounds=max(2, total // a_round), workers="1"))
            print(results[-1], flush=True)
        for workers in ("1", "2"):
            rounds = 5 if chosen.quick else 20
            results.append(elsewhere(private=private, a_round=1000, rounds=rounds, workers=workers))
            print(results[-1], flush=True)
    print(table(results))
    told = {"machine": machine(), "quick": chosen.quick, "results": results}
    leave(chosen, "population", told, table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
