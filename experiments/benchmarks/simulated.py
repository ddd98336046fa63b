"""A work of the simulation benchmark as fedkit trains it: whole federations, messages and checks included.

As a program it is one side of the benchmark: it answers turns on a pipe.

    python simulated.py FOLDER ENGINE NOISE WORKERS [federation=ray]
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from peers import lines, works
from peers.works import CLIP, RATE, SIGMA, Given

from fedkit.config.compose import compose
from fedkit.simulation.local import one_thread, run_local
from fedkit.simulation.prepare import Prepared, prepare
from fedkit.types import Task

Ends = list[float]
"""When each round ended, by ``time.perf_counter``."""


def words(given: Given, rounds: int, engine: str, noise: str, workers: int, more: Sequence[str] = ()) -> list[str]:
    """The overrides of a work."""
    work = given.work
    private = [
        "privacy=record_dp", f"privacy.noise={noise}", f"privacy.noise_multiplier={SIGMA}", "privacy.epsilon=null",
        f"privacy.max_grad_norm={CLIP}", f"privacy.sample_rate={1 / work.steps}",
    ]  # fmt: skip
    plain = ["privacy=none", "privacy.sample_rate=null", f"training.batch_size={work.batch}"]
    return [
        *more, *(private if work.private else plain), f"training.engine={engine}", f"training.workers={workers}",
        "training.local_steps=null", "training.local_epochs=1", f"training.learning_rate={RATE}",
        f"federation.num_rounds={rounds}", f"federation.fraction_train={work.a_round / work.sites}",
        f"federation.evaluate_every={rounds}",
    ]  # fmt: skip


def prepared(given: Given, overrides: Sequence[str]) -> Prepared:
    """The federation as `fedkit.simulate` would run it; a few rows for testing, which nothing here looks at."""
    work = given.work
    data: dict[str, dict[str, Any]] = {}
    for k, (x, y) in enumerate(zip(given.x.numpy(), given.y.numpy(), strict=True)):
        data[f"site{k:05d}"] = {"x": x, "y": y, "x_test": x[:10], "y_test": y[:10]}
    task = Task("multiclass", tuple(f"class{k}" for k in range(work.classes)))

    def model() -> torch.nn.Module:
        net = work.model()
        net.load_state_dict(given.first)
        return net

    return prepare(compose(None, list(overrides)), model=model, data=data, task=task)


def trained(given: Given, ready: Prepared, ends: Ends) -> works.State:
    """Run a federation without evaluation; returns its model and notes when each round ended."""
    finish = run_local(
        ready, lambda report, *_: ends.append(time.perf_counter()) if report.round else None, evaluate=False
    )
    net = given.work.model()
    torch.nn.utils.vector_to_parameters(torch.from_numpy(finish.parameters.copy()), net.parameters())
    return dict(net.state_dict())


def side(folder: Path, overrides: Callable[[Given, int], list[str]]) -> Callable[[int], dict[str, float]]:
    """What answers turns; the first one of a length also reads the rows and makes the plans."""

    @cache
    def ready(rounds: int) -> Prepared:
        given = works.read(folder)
        return prepared(given, overrides(given, rounds))

    def turn(rounds: int) -> dict[str, float]:
        begun = time.perf_counter()
        federation, given, ends = ready(rounds), works.read(folder), Ends()
        planned = time.perf_counter()
        last = trained(given, federation, ends)
        return {
            "counted": rounds - 1,
            "seconds": ends[-1] - ends[0],
            "moved": given.moved(last),
            "prepared": planned - begun,
            "called": time.perf_counter() - planned,
        }

    return turn


def main(arguments: Sequence[str]) -> None:
    """Serve turns until the pipe is closed."""
    folder, engine, noise, workers, *more = arguments
    with one_thread():
        lines.serve(side(Path(folder), lambda given, rounds: words(given, rounds, engine, noise, int(workers), more)))


if __name__ == "__main__":
    main(sys.argv[1:])
