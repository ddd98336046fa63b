"""The worker processes of a simulation: one thread each, forked once a run, the sites of a round shared out among them.

Where models are small, this process trains a share too: it would wait while they train, and they while it folds.

A worker that is killed is replaced, and what it had not answered for is trained again: an update counts once, when all
of it has come. Which worker trains a site changes no bit, because lots, noise and batches are drawn by site and round.
"""

from __future__ import annotations

import mmap
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import accumulate
from multiprocessing.connection import wait

import numpy as np

from fedkit.errors import TrainingError
from fedkit.simulation.forked import CannotStart, Forked, fork
from fedkit.simulation.worker import FAILED, PIECE, READY, Share, Work, floats, serve
from fedkit.types import ClientUpdate, LocalPlan, RoundPlan, SiteState

Answers = Iterator[tuple[ClientUpdate, SiteState]]
"""Updates and next states, in any order; an update's delta holds until the next is asked for."""

_START_SECONDS = 60.0
_TRIES = 2
_SMALL = 256
"""Updates of a piece, at least, where this process trains too: else workers would wait for it to take one."""
_LOOK_SECONDS, _IDLE = 5.0, 0.001


@dataclass
class _Worker:
    forked: Forked
    updates: mmap.mmap
    share: Share | None = None
    left: list[str] = field(default_factory=list)
    tries: int = 0
    heard: float = 0.0
    used: float | None = None
    took: float = 0.0
    hung: str = ""

    def give(self, share: Share, tries: int = 1) -> None:
        self.share, self.left, self.tries, self.took = share, list(share.names), tries, 0.0
        self.heard, self.used = time.monotonic(), None
        self.forked.say(share)


class Workers:
    """Some worker processes.

    Args:
        count: processes that train.
        here: this one is one of them, if what a worker trains is of a size that it need not wait to hand over.
        note: told in a sentence of a worker that had to be replaced.
        patience: seconds after which a worker that used no processor, or so many for each of its sites whatever it
            used, is taken to hang, and replaced.

    Raises:
        CannotStart: no fork on this system, or none to be had now.
    """

    def __init__(
        self,
        work: Work,
        count: int,
        note: Callable[[str], None] = lambda _: None,
        patience: float = 600.0,
        *,
        here: bool = False,
    ) -> None:
        self._work, self._note = replace(work, engine=work.engine.among(count)), note
        self._workers: list[_Worker] = []
        self._patience = patience
        self._here = Here(self._work) if here and count > 1 and work.piece >= _SMALL else None
        try:
            self._model = mmap.mmap(-1, 4 * work.size)
            for _ in range(count - (self._here is not None)):
                self._workers.append(self._started(mmap.mmap(-1, 4 * work.size * work.piece)))
            for worker in self._workers:
                self._greet(worker)
        except OSError as error:
            self.stop()
            raise CannotStart(f"there is no memory to share: {error}") from None
        except BaseException:
            self.stop()
            raise

    def __len__(self) -> int:
        return len(self._workers) + (self._here is not None)

    def train(self, names: Sequence[str], plan: RoundPlan, state: Mapping[str, SiteState]) -> Answers:
        """One round at some sites.

        Raises:
            TrainingError: FK421, a worker was killed and its replacement too.
            Exception: what a worker met, the first worker's where several failed.

        Guarantee: as the engine's own ``train``, bit by bit. Left before its end, by an error or otherwise, it stops
        the processes.
        """
        floats(self._model, 1, self._work.size)[0] = plan.parameters
        mine, others = ([], names) if self._here is None else self._here.part(names, plan.sites, len(self._workers))
        shares = split(others, plan.sites, len(self._workers))
        for worker, part in zip(self._workers, shares, strict=False):
            kept = {name: state[name] for name in part if name in state}
            worker.give(Share(plan.seed, plan.round, plan.proximal_mu, tuple(part), kept))
        ended = False
        try:
            failed: dict[int, Exception] = {}
            if self._here is not None:
                yield from self._here.train(mine, plan, state)
            while busy := {w.forked.connection: i for i, w in enumerate(self._workers) if w.share is not None}:
                ready = wait(list(busy), min(_LOOK_SECONDS, self._patience))
                for connection in ready:
                    yield from self._hear(busy[connection], failed)  # type: ignore[index]
                # What has been said and not yet been heard is no silence.
                for index in (index for connection, index in busy.items() if connection not in ready):
                    self._look(self._workers[index])
            if failed:
                raise failed[min(failed)]
            if self._here is not None:
                costs = sum(cost(plan.sites[name]) for name in others)
                self._here.learn(sum(worker.took for worker in self._workers), costs)
            ended = True
        finally:
            if not ended:
                self.stop()

    def stop(self) -> None:
        """End the processes; they hold nothing that would be missed."""
        for worker in self._workers:
            worker.forked.end()
        self._workers = []

    def _look(self, worker: _Worker) -> None:
        """Kill a worker that hangs; that its connection ends is heard next."""
        silent, used = time.monotonic() - worker.heard, worker.forked.seconds()
        if worker.used is None:
            # To ask the system when a share is given would cost each round what one that hangs costs once.
            worker.used = used
            return
        if silent < self._patience or worker.hung:
            return
        if used - worker.used > _IDLE * silent and silent < self._patience * min(len(worker.left), self._work.piece):
            return
        worker.hung = f"said nothing for {silent:.3g} s, in which it used {used - worker.used:.2g} s of a processor"
        worker.forked.process.kill()

    def _hear(self, index: int, failed: dict[int, Exception]) -> Answers:
        worker = self._workers[index]
        try:
            kind, value = worker.forked.connection.recv()
        except (EOFError, OSError):
            self._replace(index)
            return
        if kind == PIECE:
            deltas = floats(worker.updates, self._work.piece, self._work.size)
            if worker.left[: len(value.sites)] != value.sites:
                raise TrainingError("a worker process trained other sites than it was given", code="FK420")
            for delta, site, weight in zip(deltas, value.sites, value.weights, strict=False):
                worker.left.pop(0)
                yield ClientUpdate(site, delta, weight, value.metrics.get(site, {})), value.states.get(site, {})
            worker.heard, worker.used, worker.took = time.monotonic(), None, worker.took + value.seconds
            if worker.left:
                worker.forked.say(None)
            else:
                # It waits for its next share, and leaves these updates alone until then.
                worker.share = None
        elif kind == FAILED:
            failed[index], worker.share = value, None
        else:
            raise TrainingError(f"a worker process said {kind} out of turn", code="FK420")

    def _replace(self, index: int) -> None:
        """Another process in a dead one's place, which trains what is left of its share."""
        dead = self._workers[index]
        share, left = dead.share, tuple(dead.left)
        how = dead.hung or dead.forked.how()
        if share is None:
            return
        some = f"{', '.join(left[:3])}{' and others' if len(left) > 3 else ''}"
        if left and dead.tries >= _TRIES:
            raise TrainingError(
                f"{_TRIES} worker processes in turn ended in round {share.round} before their sites were trained, the"
                f" last with {len(left)} to go ({some}): it {how}",
                code="FK421",
                remedy="lower training.memory_gb, or set training.workers=1",
            )
        dead.forked.end()
        try:
            fresh = self._started(dead.updates)
            self._workers[index] = fresh
            self._greet(fresh)
        except CannotStart as error:
            raise TrainingError(
                f"a worker process {how} in round {share.round}, and no other could be started: {error}",
                code="FK421",
                remedy="lower training.memory_gb, or set training.workers=1",
            ) from None
        how += "," if dead.hung else ""
        redone = f"; {len(left)} of its sites ({some}) were trained again" if left else ""
        self._note(f"round {share.round}: a worker process {how} and was replaced{redone}")
        if left:
            fresh.give(replace(share, names=left), dead.tries + 1)

    def _started(self, updates: mmap.mmap) -> _Worker:
        task = partial(serve, work=self._work, model=self._model, updates=updates)
        return _Worker(fork(task, [worker.forked for worker in self._workers]), updates)

    def _greet(self, worker: _Worker) -> None:
        connection = worker.forked.connection
        try:
            if connection.poll(_START_SECONDS) and connection.recv()[0] == READY:
                return
        except (EOFError, OSError):
            raise CannotStart(f"a worker process {worker.forked.how()} as it started") from None
        raise CannotStart(f"a worker process did not start within {_START_SECONDS:g} s")


class Here:
    """This process' own share: such that it has trained and handed out all of it when the others answer."""

    def __init__(self, work: Work) -> None:
        self._work, self._costs, self._took, self._ratio = work, 0.0, 0.0, 1.0

    def part(self, names: Sequence[str], plans: Mapping[str, LocalPlan], others: int) -> tuple[list[str], list[str]]:
        """The first names, which are folded first, and those for so many others.

        >>> plan = LocalPlan(1, 8, 0.1, "sgd", None)
        >>> Here(None).part(["a", "b", "c", "d"], dict.fromkeys("abcd", plan), 1)
        (['a', 'b'], ['c', 'd'])
        """
        costs = list(accumulate(cost(plans[name]) for name in names))
        own = costs[-1] * self._ratio / (others + self._ratio)
        count = 1 + min(range(len(costs)), key=lambda index: abs(costs[index] - own))
        self._costs = costs[count - 1]
        return list(names[:count]), list(names[count:])

    def train(self, names: Sequence[str], plan: RoundPlan, state: Mapping[str, SiteState]) -> Answers:
        """Train the share and hand it out."""
        begun = time.perf_counter()
        updates, after = self._work.train(names, plan, state)
        for update in updates:
            yield update, after.get(update.site, {})
        self._took = time.perf_counter() - begun

    def learn(self, seconds: float, costs: float) -> None:
        """Take more or less in the next round, by how long others took for shares of such costs, as this one's are.

        A round that was disturbed changes the share by less than a quarter.
        """
        if min(seconds, costs, self._took, self._costs) > 0:
            found = seconds / costs / (self._took / self._costs)
            self._ratio *= min(max(found / self._ratio, 0.5), 2.0) ** 0.3


def split(names: Sequence[str], plans: Mapping[str, LocalPlan], count: int) -> list[list[str]]:
    """Names in at most so many parts of about equal work, each in the order of the names.

    >>> plan = LocalPlan(1, 8, 0.1, "sgd", None)
    >>> split(["a", "b", "c"], {"a": plan, "b": plan, "c": LocalPlan(4, 8, 0.1, "sgd", None)}, 2)
    [['c'], ['a', 'b']]
    """
    if count == 1:
        return [list(names)] if names else []
    costs = np.array([cost(plans[name]) for name in names])
    loads, parts = [0.0] * count, [[] for _ in range(count)]  # type: list[float], list[list[int]]
    for index in np.argsort(-costs, kind="stable").tolist():
        lightest = loads.index(min(loads))
        loads[lightest] += costs[index]
        parts[lightest].append(index)
    return [[names[index] for index in sorted(part)] for part in parts if part]


def cost(plan: LocalPlan) -> float:
    """About what a round at a site takes, in units of its own: rows, and what a step takes whatever its rows are."""
    rows = plan.batch_size if plan.privacy is None else plan.privacy.lot_size
    return plan.steps * (rows + 16.0)
