"""Whether a simulation's sites are trained in this process or in several, decided by what its own rounds take.

``training.workers=auto`` trains the first round here and measures it: processes cost some time to start and to hand a
round to, which small work does not win back.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

from fedkit.config.experiment import TrainingConfig
from fedkit.errors import TrainingError
from fedkit.simulation.forked import CannotStart, inside
from fedkit.simulation.worker import Work
from fedkit.simulation.workers import Answers, Workers, cost, split
from fedkit.training.engine import SEVERAL, Engine
from fedkit.training.on_device import CPU
from fedkit.types import RoundPlan, SiteState

AUTO = "auto"
_START, _ROUND = 0.06, 0.002
"""Seconds that a process takes to start, and a round to be handed to all of them; measured, and then doubled."""
_COLD = 2.0
"""Seconds of a first round that may be torch's own start."""


def cores() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_workers(training: TrainingConfig, engine: Engine) -> None:
    """Refuse more processes than the memory budget holds.

    Raises:
        TrainingError: FK418.
    """
    if training.workers not in (AUTO, "1") and engine.device != CPU:
        raise TrainingError(
            f"training.workers={training.workers}; one process trains on a GPU",
            code="FK418",
            remedy="set training.workers=1, or training.device=cpu",
        )
    most = training.max_clients_at_once
    holds = "holds" if most is None else f"and training.max_clients_at_once={most} hold"
    if training.workers not in (AUTO, SEVERAL) and 1 < int(training.workers) > engine.most_workers:
        raise TrainingError(
            f"training.workers={training.workers}, each with a site in memory;"
            f" training.memory_gb={training.memory_gb:g} {holds} {engine.most_workers}",
            code="FK418",
            remedy=f"set training.workers={engine.most_workers}, or raise what bounds it",
        )


def for_kind(training: TrainingConfig, kind: str) -> TrainingConfig:
    """What an engine is chosen for: actors of Ray are several, whatever their number turns out to be, and on CPUs."""
    if kind != "ray":
        return training
    return replace(training, device=CPU.type, workers=SEVERAL if training.workers == AUTO else training.workers)


class Spread:
    """Trains the sites of each round, here or in processes.

    Args:
        asked: ``training.workers``.
        rounds: of the whole run.
        patience: as :class:`Workers` has it.

    Attributes:
        why: why so many processes train.
        notes: what became of processes, a sentence each.

    Guarantee: as the engine's own ``train``, bit by bit, wherever a site is trained.
    """

    def __init__(self, work: Work, asked: str, rounds: int, patience: float = 600.0) -> None:
        self._patience = patience
        self._work, self._asked, self._rounds, self._calls = work, asked, rounds, 0
        self._most = min(cores() if asked == AUTO else int(asked), work.engine.most_workers)
        self._workers: Workers | None = None
        self._open, self._took = self._most > 1, list[float]()
        self.notes: list[str] = []
        self.why = f"training.workers={asked}"
        if asked == AUTO and work.engine.device != CPU:
            self.why = "one process trains on a GPU"
        elif asked == AUTO and work.engine.name == "vmap":
            self.why = "vmap trains all sites in one process"
        elif asked == AUTO and self._most == 1:
            self.why = "there is one core" if cores() == 1 else "the memory budget holds one site"
        elif inside():
            self._open, self.why = False, "other runs train beside this one"
        elif asked == AUTO:
            self.why = "the run ended before its rounds were measured"

    def record(self) -> dict[str, str | int]:
        """What the manifest says of it."""
        return {"workers": 1 if self._workers is None else len(self._workers), "workers_why": self.why}

    def __call__(self, names: Sequence[str], plan: RoundPlan, state: Mapping[str, SiteState]) -> Answers:
        """One round at some sites; an update's delta holds until the next is asked for."""
        self._calls += 1
        if self._open and self._asked != AUTO:
            self._start(len(names), self.why)
        if self._open and len(names) > 1:
            yield from self._measured(names, plan, state)
        else:
            yield from self._train(names, plan, state)

    def stop(self) -> None:
        """End the processes."""
        if self._workers is not None:
            self._workers.stop()

    def _train(self, names: Sequence[str], plan: RoundPlan, state: Mapping[str, SiteState]) -> Answers:
        if self._workers is not None and len(names) > 1:
            return self._workers.train(names, plan, state)
        updates, after = self._work.train(names, plan, state)
        return ((update, after.get(update.site, {})) for update in updates)

    def _measured(self, names: Sequence[str], plan: RoundPlan, state: Mapping[str, SiteState]) -> Answers:
        """Here and by the clock of this thread; where the first sites alone take long, the others elsewhere."""
        first = max(1, len(names) // 8)
        begun = time.thread_time()
        yield from self._train(names[:first], plan, state)
        took = time.thread_time() - begun
        if took > _COLD:
            self._decide(names, plan, took * len(names) / first)
        begun = time.thread_time()
        yield from self._train(names[first:], plan, state)
        took += time.thread_time() - begun
        self._took.append(took)
        # After the last round nobody would train in them.
        if self._open and plan.round < self._rounds and (took > _COLD or len(self._took) == 2):
            self._decide(names, plan, min(self._took))

    def _decide(self, names: Sequence[str], plan: RoundPlan, seconds: float) -> None:
        # A round of many sites comes in several calls.
        count, left = min(self._most, len(names)), max(1, self._rounds - plan.round) * self._calls // max(1, plan.round)
        loads = [sum(cost(plan.sites[name]) for name in part) for part in split(names, plan.sites, count)]
        saves, costs = seconds * left * (1 - max(loads) / sum(loads)), count * _START + left * _ROUND
        why = (
            f"{len(names)} sites take {1000 * seconds:.3g} ms of one core; {count} processes would save {saves:.2g} s"
            f" of the {self._rounds - plan.round} rounds left and cost {costs:.2g} s"
        )
        if saves > 2 * costs:
            self._start(count, why)
        else:
            self._open, self.why = False, why

    def _start(self, sites: int, why: str) -> None:
        count = min(self._most, sites)
        if count < 2:
            return
        self._open, self.why = False, why
        try:
            self._workers = Workers(self._work, count, self.notes.append, self._patience, here=True)
        except CannotStart as error:
            self.why = f"{error}: this one trains all sites"
            self.notes.append(f"no worker processes: {error}; the run goes on in one, with the same result")


@contextmanager
def spread(work: Work, asked: str, rounds: int, patience: float = 600.0) -> Iterator[Spread]:
    """A :class:`Spread` whose processes end with the block."""
    made = Spread(work, asked, rounds, patience)
    try:
        yield made
    finally:
        made.stop()
