"""``federation=ray``: the sites of a round shared out among actors of Ray, on one machine or many.

Each actor has one processor, a copy of model and plans, and the records, which travel to each machine once. A round's
model goes to all of them; back come its updates, or where the strategy needs their mean alone, the means of a few
subtrees, so that what travels does not grow with the sites. An actor that is lost is replaced, and its share trained
again: a share counts once, when all of it has come. Which actor trains a site changes no bit.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from fedkit.errors import FederationError, TrainingError
from fedkit.federation.reduced import Reduced
from fedkit.simulation.ray_cluster import ActorLost, Cluster
from fedkit.simulation.seat import Failure, Means, Outfit, Seat, Sum, Updates, share_of, together, versions
from fedkit.simulation.shares import shares
from fedkit.simulation.worker import Share, piece
from fedkit.simulation.workers import Answers, split
from fedkit.types import ClientUpdate, Float32, RoundPlan, SiteState

_START_SECONDS, _LOOK_SECONDS = 60.0, 5.0
_TRIES = 2
_INLINE_BYTES = 64 << 10
"""What is sent with a call; larger models lie in the cluster's memory and are referred to."""


@dataclass(eq=False)
class _Job:
    """A share of a round, and what is called with it.

    Attributes:
        how: for a share that is added up.
        lost: machines on which an actor was lost over it.
    """

    share: Share
    how: Sum | None
    tries: int = 0
    begun: float = 0.0
    lost: set[str] = field(default_factory=set)


@dataclass(eq=False)
class _Actor:
    handle: Any
    who: str = "an actor"
    host: str = ""
    hung: str = ""


class Actors:
    """Trains the sites of each round in actors.

    Args:
        count: how many. why: why so many.
        patience: seconds for each site of a share, after which an actor is taken to hang, and replaced.

    Attributes:
        notes: what became of actors, a sentence each.

    Raises:
        FederationError: FK552, FK553, FK554.
    """

    def __init__(self, cluster: Cluster, outfit: Outfit, count: int, why: str, patience: float = 600.0) -> None:
        self.notes: list[str] = []
        self.why, self._patience, self._cluster = why, patience, cluster
        self._piece = piece(sum(p.numel() for p in outfit.model.parameters()))
        self._sent: tuple[int, Float32, Any] | None = None
        self._actors: list[_Actor] = []
        self._placed = cluster.put(replace(outfit, processes=count))
        try:
            self._actors = [_Actor(cluster.actor(Seat, self._placed)) for _ in range(count)]
            self._greet_all()
        except BaseException:
            self.stop()
            raise

    def __len__(self) -> int:
        return len(self._actors)

    def record(self) -> dict[str, str | int]:
        """What the manifest says of it."""
        return {"workers": len(self), "workers_why": self.why}

    def __call__(self, names: Sequence[str], plan: RoundPlan, state: Mapping[str, SiteState]) -> Answers:
        """One round at some sites, each with its update: the engine's own ``train``, bit by bit."""
        jobs = []
        for part in split(names, plan.sites, len(self._actors)):
            for first in range(0, len(part), self._piece):
                jobs.append(_Job(share_of(part[first : first + self._piece], plan, state), None))
        for found in self._run(jobs, plan):
            for told, delta in zip(found.told, found.deltas, strict=True):
                yield ClientUpdate(told.site, delta, told.weight, told.metrics), told.state

    def reducer(self, *, precise: bool) -> Callable[..., Reduced]:
        """A ``Reducer`` that adds up each actor's updates where they are."""

        def reduce(
            names: Sequence[str],
            plan: RoundPlan,
            state: Mapping[str, SiteState],
            weights: Mapping[str, float] | None,
        ) -> Reduced:
            jobs = []
            for first, last in shares(names, plan.sites, len(self._actors)):
                mine = names[first:last]
                planned = None if weights is None else {name: weights[name] for name in mine if name in weights}
                jobs.append(_Job(share_of(mine, plan, state), Sum(first, len(names), planned, precise)))
            found: list[Means] = list(self._run(jobs, plan))
            return together(len(names), found, precise=precise)

        return reduce

    def stop(self) -> None:
        """End the actors; they hold nothing that would be missed."""
        for actor in self._actors:
            self._cluster.end(actor.handle)
        self._actors = []

    def _run(self, jobs: Sequence[_Job], plan: RoundPlan) -> Iterator[Any]:
        """The results of jobs, as they come.

        Raises:
            TrainingError: FK421, a share ended several actors in turn.
            Exception: what a share met, the first share's where several failed.
        """
        model, waiting = self._model(plan), list(reversed(jobs))
        running: dict[Any, tuple[_Actor, _Job]] = {}
        idle = list(reversed(self._actors))
        failed: dict[int, Exception] = {}
        while waiting or running:
            while (pair := self._pair(idle, waiting)) is not None:
                actor, job = pair
                job.tries, job.begun = job.tries + 1, time.monotonic()
                arguments = (job.share, model) if job.how is None else (job.share, model, job.how)
                method = "train" if job.how is None else "reduce"
                running[self._cluster.call(actor.handle, method, *arguments)] = actor, job
            ready = self._cluster.ready(list(running), min(_LOOK_SECONDS, self._patience))
            for reference in ready:
                actor, job = running.pop(reference)
                try:
                    found: Updates | Means | Failure = self._cluster.get(reference)
                except ActorLost as lost:
                    waiting.append(job)
                    job.lost.add(actor.host)
                    idle += self._replaced(actor, job, str(lost), others=len(running) + len(idle))
                    continue
                idle.append(actor)
                if isinstance(found, Failure):
                    failed[jobs.index(job)] = found.error
                else:
                    yield found
            if not ready:
                self._look(running)
        if failed:
            raise failed[min(failed)]

    def _pair(self, idle: list[_Actor], waiting: list[_Job]) -> tuple[_Actor, _Job] | None:
        """An idle actor and what it does next, taken from both.

        A share that was lost waits for another machine, if there is one: a machine that goes takes all its actors, and
        those that are idle are not known to be lost.
        """
        for job in reversed(waiting):
            elsewhere = any(actor.host not in job.lost for actor in self._actors)
            for actor in reversed(idle):
                if not elsewhere or actor.host not in job.lost:
                    idle.remove(actor)
                    waiting.remove(job)
                    return actor, job
        return None

    def _look(self, running: Mapping[Any, tuple[_Actor, _Job]]) -> None:
        """Kill actors that hang; that they are lost is heard next."""
        for actor, job in running.values():
            silent = time.monotonic() - job.begun
            if silent > self._patience * len(job.share.names) and not actor.hung:
                actor.hung = f"said nothing for {silent:.3g} s"
                self._cluster.end(actor.handle)

    def _replaced(self, dead: _Actor, job: _Job, why: str, *, others: int) -> list[_Actor]:
        """Another actor in a lost one's place, or nobody where others can do its work."""
        sites, number = job.share.names, job.share.round
        some = f"{', '.join(sites[:3])}{' and others' if len(sites) > 3 else ''}"
        if job.tries >= _TRIES:
            raise TrainingError(
                f"{_TRIES} actors in turn were lost in round {number} before their {len(sites)} sites ({some}) were"
                f" trained: {why}",
                code="FK421",
                remedy="lower training.memory_gb or training.workers",
            )
        self._cluster.end(dead.handle)
        self._actors.remove(dead)
        try:
            # Where a machine has gone, the others wait for no actor that has no place.
            if others and not self._cluster.has_room():
                raise FederationError("the cluster has no CPU free", code="FK554")
            fresh = _Actor(self._cluster.actor(Seat, self._placed))
            self._greet(fresh, time.monotonic() + _START_SECONDS)
            self._actors.append(fresh)
            became = "replaced"
        except FederationError as error:
            if not others:
                raise TrainingError(
                    f"{dead.who} was lost in round {number}, and no other could be started: {error.message}",
                    code="FK421",
                    remedy="lower training.memory_gb or training.workers",
                ) from None
            became = "not replaced"
        self.notes.append(
            f"round {number}: {dead.who} {dead.hung or 'was lost'} and was {became}; its {len(sites)} sites ({some})"
            " were trained again"
        )
        return [fresh] if became == "replaced" else []

    def _greet_all(self) -> None:
        deadline, late = time.monotonic() + _START_SECONDS, list[str]()
        for actor in list(self._actors):
            try:
                self._greet(actor, deadline)
            except FederationError as error:
                if error.code != "FK554":
                    raise
                self._cluster.end(actor.handle)
                self._actors.remove(actor)
                late.append(error.message)
        if not self._actors:
            raise FederationError(late[0], code="FK554", remedy="see that the cluster has a free CPU, and fedkit")
        if late:
            self.notes.append(f"{len(late)} of {len(late) + len(self)} actors did not start: {late[0]}")

    def _greet(self, actor: _Actor, deadline: float) -> None:
        hello = self._cluster.call(actor.handle, "hello")
        if not self._cluster.ready([hello], max(0.0, deadline - time.monotonic())):
            self._cluster.end(actor.handle)
            raise FederationError(f"an actor did not start within {_START_SECONDS:g} s", code="FK554")
        try:
            told = self._cluster.get(hello)
        except ActorLost as lost:
            raise FederationError(f"an actor could not start: {lost}", code="FK554") from None
        if wrong := {name: told[name] for name, here in versions().items() if told[name] != here}:
            there = ", ".join(f"{name} {version}" for name, version in wrong.items())
            here = ", ".join(f"{name} {versions()[name]}" for name in wrong)
            raise FederationError(
                f"{told['host']} of the cluster has {there}, and here is {here}",
                code="FK552",
                remedy="install the same at both ends",
            )
        actor.who, actor.host = f"an actor (process {told['pid']} of {told['host']})", str(told["host"])

    def _model(self, plan: RoundPlan) -> Any:
        """The round's model as calls are given it; it is sent once."""
        if plan.parameters.nbytes <= _INLINE_BYTES:
            return np.ascontiguousarray(plan.parameters)
        if self._sent is None or self._sent[0] != plan.round or not np.array_equal(self._sent[1], plan.parameters):
            self._sent = plan.round, plan.parameters, self._cluster.put(plan.parameters)
        return self._sent[2]
