"""``make bench``: how long a round takes beside the peer that one would otherwise write, on the same work.

Both sides get the same model, rows, lot size, steps and one torch thread; the sides take turns (A B A B ...), a ratio
is taken a turn, and its median is told. The peer's set-up (wrapping the model, its loader, its optimizer) happens once
and is not timed; fedkit's is part of every round and is.

    python experiments/benchmarks/bench_step.py [--quick] [--write]
"""

from __future__ import annotations

import argparse
import gc
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import Any

import numpy as np
import torch
from step_peers import Opacus, PlainTorch, opacus_federation
from torch import nn
from write import leave, machine, options, table

from fedkit.config.compose import compose
from fedkit.config.experiment import ModelConfig
from fedkit.models import build
from fedkit.models.flat import pack
from fedkit.privacy.events import max_lot
from fedkit.simulation.local import one_thread, run_local
from fedkit.simulation.prepare import prepare
from fedkit.training.local import train
from fedkit.types import Examples, LocalPlan, PrivacyPlan, RoundPlan, Site, Task

BINARY = Task("binary", ("no", "yes"))
RATE, CLIP, SIGMA, STEPS, LEARNING_RATE = 0.1, 1.0, 1.2, 10, 0.1
QUIET = 1e-9
"""Noise that changes nothing: exactly none is refused."""


@dataclass(frozen=True)
class Case:
    """One comparison: two functions that do the same work, and how often each is called in a turn."""

    name: str
    peer: str
    ours: Callable[[], Any]
    theirs: Callable[[], Any]
    calls: int
    turns: int


def _site(rows: int, columns: int) -> Site:
    numbers = np.random.default_rng(0)
    x = numbers.normal(size=(rows, columns)).astype(np.float32)
    y = (x[:, 0] + numbers.normal(size=rows) > 0).astype(np.int64)
    examples = Examples(x, y, np.arange(rows, dtype=np.int64))
    return Site("one", examples, examples, rows, True)


def _local_plan(rows: int, *, private: bool, sigma: float = SIGMA, rate: float = RATE) -> LocalPlan:
    lot = rate * rows
    privacy = PrivacyPlan(
        "one", "record", "add_remove", rate, CLIP, sigma, lot, STEPS, 1, 1.0, 1e-5, "pld", rows, True, "secure",
        max_lot(rows, rate, STEPS),
    )  # fmt: skip
    return LocalPlan(STEPS, round(lot), LEARNING_RATE, "sgd", privacy if private else None, float(rows))


def _round(model: nn.Module, site: Site, local: LocalPlan) -> Callable[[], np.ndarray]:
    plan = RoundPlan(seed=1, round=1, parameters=pack(model), proximal_mu=0.0, sites={site.name: local})
    return lambda: train(model, BINARY, [site], plan, {})[0][0].delta


def _model(columns: int, hidden: tuple[int, ...]) -> nn.Module:
    name, arguments = ("mlp", {"hidden": hidden}) if hidden else ("logistic", {})
    return build(ModelConfig(name, arguments), (columns,), 1, seed=1)


def check_same_work() -> None:
    """Refuse to time two things that are not the same: without noise and sampling both must give the same model.

    Raises:
        RuntimeError: they differ.
    """
    for hidden in ((), (8,)):
        model, site = _model(13, hidden), _site(60, 13)
        ours = _round(model, site, _local_plan(60, private=True, sigma=QUIET, rate=1.0))()
        peer = Opacus(model, site, rate=1.0, clip=CLIP, sigma=0.0, learning_rate=LEARNING_RATE, steps=STEPS)
        difference = float(np.abs(ours - peer.round(pack(model))).max())
        if not difference < 1e-5 or not np.abs(ours).max() > 1e-3:
            raise RuntimeError(f"fedkit and Opacus differ by {difference:g} without noise; nothing is timed")


def training_cases(quick: bool) -> list[Case]:
    """One round (10 steps) at one site, with DP-SGD and without, for a small and (not in a look) a large model."""
    sizes: list[tuple[str, int, int, tuple[int, ...], int, int]] = [
        ("logistic, d = 14, lot 21", 208, 13, (), 8, 15),
        ("mlp, d = 1,000,351, lot 64", 640, 100, (950, 950), 1, 7),
    ]
    cases = []
    for name, rows, columns, hidden, calls, turns in sizes[:1] if quick else sizes:
        model, site, turns = _model(columns, hidden), _site(rows, columns), min(turns, 3) if quick else turns
        start = pack(model)
        opacus = Opacus(model, site, rate=RATE, clip=CLIP, sigma=SIGMA, learning_rate=LEARNING_RATE, steps=STEPS)
        plain = PlainTorch(model, site, batch_size=round(RATE * rows), learning_rate=LEARNING_RATE, steps=STEPS)
        private = _round(model, site, _local_plan(rows, private=True))
        bare = _round(model, site, _local_plan(rows, private=False))
        cases.append(Case(f"DP-SGD, {name}", "Opacus", private, partial(opacus.round, start), calls, turns))
        cases.append(Case(f"SGD, {name}", "torch", bare, partial(plain.round, start), calls, turns))
    return cases


def federation_case(quick: bool) -> Case:
    """Four hospitals, 15 rounds of 10 steps of DP-SGD, averaged; data and plans ready on both sides, no evaluation."""
    prepared = prepare(compose("heart_disease", ["privacy.noise=secure"]))
    theirs = opacus_federation(prepared)
    return Case(
        "federation, heart disease, 4 sites x 15 rounds",
        "Opacus",
        lambda: run_local(prepared, lambda *_: None, evaluate=False),
        theirs,
        1,
        2 if quick else 9,
    )


def measure(case: Case) -> dict[str, Any]:
    """Time both sides in turns.

    Returns:
        Median milliseconds of a call on each side, and the median, least and greatest ratio peer / fedkit of a turn.
    """
    seconds: dict[str, list[float]] = {"ours": [], "theirs": []}
    for turn in range(-1, case.turns):  # the first turn warms up
        for side in ("ours", "theirs"):
            work = getattr(case, side)
            gc.collect()
            start = time.perf_counter()
            for _ in range(case.calls):
                work()
            if turn >= 0:
                seconds[side].append((time.perf_counter() - start) / case.calls)
    ratios = [theirs / ours for ours, theirs in zip(seconds["ours"], seconds["theirs"], strict=True)]
    return {
        "case": case.name,
        "peer": case.peer,
        "fedkit_ms": round(median(seconds["ours"]) * 1000, 2),
        "peer_ms": round(median(seconds["theirs"]) * 1000, 2),
        "ratio": round(median(ratios), 2),
        "least": round(min(ratios), 2),
        "greatest": round(max(ratios), 2),
        "turns": case.turns,
    }


def main(arguments: list[str]) -> int:
    """Run every case and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options(parser, "1 to 3 turns a case: a look, not a result")
    chosen = parser.parse_args(arguments)
    warnings.filterwarnings("ignore")  # Opacus warns of its own hooks at every step
    start = time.perf_counter()
    with one_thread():
        torch.manual_seed(0)
        check_same_work()
        results = []
        for case in [*training_cases(chosen.quick), federation_case(chosen.quick)]:
            results.append(measure(case))
            print(table(results[-1:]).splitlines()[-1], flush=True)
    seconds = round(time.perf_counter() - start, 1)
    told: dict[str, Any] = {"machine": machine(), "quick": chosen.quick, "seconds": seconds, "results": results}
    print(f"\n{told['machine']['cpu']}, {told['machine']['cores']} cores, load {told['machine']['load']},", end=" ")
    print(f"one torch thread a side; {told['seconds']} s in all")
    leave(chosen, "step", told, table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
