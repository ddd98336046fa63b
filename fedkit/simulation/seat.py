"""What trains a share of a round's sites in a process that shares no memory with the run's: an actor of Ray.

It holds model, plans and records, which travel once. A share comes with the round's model; back go its updates, or
where the strategy needs their mean alone, the means of a few subtrees (:mod:`fedkit.strategies.tree`).
"""

from __future__ import annotations

import os
import platform
import socket
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn

from fedkit.config.experiment import TrainingConfig
from fedkit.errors import FederationError
from fedkit.federation.reduced import Reduced, checked
from fedkit.simulation.worker import Share, Work, carried
from fedkit.strategies.tree import Part, Span, mean_from, mean_over, part_of, spans_within
from fedkit.training.choice import choose
from fedkit.training.kinds import Kinds
from fedkit.types import ClientUpdate, Float32, LocalPlan, RoundPlan, Site, SiteState, Task


@dataclass(frozen=True)
class Outfit:
    """What a run's processes train with, as it travels: an engine is made anew from what it was chosen by.

    Attributes:
        training: names the engine that was chosen. kinds: of the plans that it was chosen for.
        processes: that share the memory budget. form: of the engine that was chosen; None for this machine's.
    """

    training: TrainingConfig
    model: nn.Module
    task: Task
    input_shape: tuple[int, ...]
    kinds: Kinds
    sites: Mapping[str, Site]
    plans: Mapping[str, LocalPlan]
    processes: int = 1
    form: int | None = None

    def work(self) -> Work:
        """What it comes to where it arrives.

        Raises:
            TrainingError: FK425, the run is in compiled code, and this machine has none.
        """
        engine = choose(self.training, self.model, self.task, self.input_shape, self.kinds).among(self.processes)
        engine = engine if self.form is None else engine.in_form(self.form)
        size = sum(p.numel() for p in self.model.parameters())
        return Work(engine, self.model, self.task, self.sites, self.plans, size)


@dataclass(frozen=True)
class Sum:
    """How the updates of a share are added up.

    Attributes:
        first: the place of the share's first site in the round, whose others follow it. places: sites of the round.
        weights: site to its planned weight; None leaves weights unchecked.
        precise: see :class:`fedkit.strategies.streaming.Streaming`.
    """

    first: int
    places: int
    weights: Mapping[str, float] | None
    precise: bool


@dataclass(frozen=True)
class Told:
    """What a site tells with its update, and keeps for its next round."""

    site: str
    weight: float
    metrics: Mapping[str, float]
    state: SiteState


@dataclass(frozen=True)
class Updates:
    """A share's updates, each float32 row of ``deltas`` with what else is told of it."""

    told: Sequence[Told]
    deltas: Float32


@dataclass(frozen=True)
class Means:
    """A share's updates as the means of subtrees: ``weights`` and float32 rows of ``means``, in the order of ``spans``.

    A subtree whose updates were all refused has no weight.
    """

    spans: Sequence[Span]
    weights: Sequence[float]
    means: Float32
    accepted: Sequence[Told]
    refused: Mapping[str, str]

    def parts(self) -> dict[Span, Part | None]:
        """Subtree to its mean; no copies."""
        found = zip(self.spans, self.weights, self.means, strict=True)
        return {span: Part(mean, weight) if weight else None for span, weight, mean in found}


@dataclass(frozen=True)
class Failure:
    """What a share met in the place of its result."""

    error: Exception


class Seat:
    """A place where shares are trained, with one thread.

    Args:
        outfit: what it trains with, or what that has come to already.

    Guarantee: an update is added up only after the round loop's own checks of it.
    """

    def __init__(self, outfit: Outfit | Work) -> None:
        self.work = outfit if isinstance(outfit, Work) else outfit.work()

    def hello(self) -> dict[str, str | int]:
        """Who sits here; versions that must agree with the run's."""
        import torch

        # Sums split over threads differ in their last bits.
        torch.set_num_threads(1)
        return {"pid": os.getpid(), "host": socket.gethostname(), **versions()}

    def train(self, share: Share, parameters: Float32) -> Updates | Failure:
        """A share's updates."""
        try:
            found = list(self._updates(share, parameters))
        except Exception as error:
            return Failure(carried(error))
        return Updates([told for _, told in found], np.stack([update.delta for update, _ in found]))

    def reduce(self, share: Share, parameters: Float32, how: Sum) -> Means | Failure:
        """A share's updates, checked and added up."""
        try:
            return self._reduced(share, parameters, how)
        except Exception as error:
            return Failure(carried(error))

    def _reduced(self, share: Share, parameters: Float32, how: Sum) -> Means:
        accepted: list[Told] = []
        refused: dict[str, str] = {}
        coming = self._updates(share, parameters)

        def take(_place: int) -> Part | None:
            update, told = next(coming)
            weight = None if how.weights is None else how.weights.get(update.site)
            try:
                update = checked(update, parameters, weight)
            except FederationError as error:
                refused[update.site] = str(error)
                return None
            accepted.append(Told(told.site, update.weight, update.metrics, told.state))
            return part_of(update.delta, update.weight)

        spans = spans_within(how.places, how.first, how.first + len(share.names))
        parts = [mean_over(span, take, precise=how.precise) for span in spans]
        nobody = Part(np.zeros(self.work.size, np.float32), 0.0)
        summed = [part or nobody for part in parts]
        means = np.stack([part.mean for part in summed]) if len(summed) > 1 else summed[0].mean[None]
        return Means(spans, [part.weight for part in summed], means, accepted, refused)

    def _updates(self, share: Share, parameters: Float32) -> Iterator[tuple[ClientUpdate, Told]]:
        """Each in the order of the share's names; so many are in memory together as a worker process has."""
        work = self.work
        for first in range(0, len(share.names), work.piece):
            names = share.names[first : first + work.piece]
            plans = {name: work.plans[name] for name in names}
            plan = RoundPlan(share.seed, share.round, parameters, share.proximal_mu, plans)
            updates, state = work.train(names, plan, share.state)
            found = {update.site: update for update in updates}
            del updates
            for name in names:
                update = found.pop(name)
                yield update, Told(name, update.weight, update.metrics, state.get(name, {}))


def versions() -> dict[str, str]:
    """What two processes of one run must have alike: another torch has other last bits."""
    import torch

    import fedkit

    return {
        "Python": ".".join(platform.python_version_tuple()[:2]),
        "fedkit": fedkit.__version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
    }


def together(places: int, found: Sequence[Means], *, precise: bool) -> Reduced:
    """The round from all its shares."""
    parts = {span: part for each in found for span, part in _own(each).items()}
    whole = mean_from(places, parts, precise=precise)
    told = sorted((one for each in found for one in each.accepted), key=lambda one: one.site)
    return Reduced(
        np.zeros(0, np.float32) if whole is None else whole.mean,
        0.0 if whole is None else whole.weight,
        {one.site: {"weight": one.weight, "metrics": one.metrics} for one in told},
        {site: why for each in found for site, why in each.refused.items()},
        {one.site: one.state for one in told},
    )


def reduce_here(work: Work, *, precise: bool) -> Any:
    """A ``Reducer`` of one share, in this process: what actors give, without any."""

    def reduce(
        names: Sequence[str],
        plan: RoundPlan,
        state: Mapping[str, SiteState],
        weights: Mapping[str, float] | None,
    ) -> Reduced:
        share = share_of(names, plan, state)
        found = Seat(work).reduce(share, plan.parameters, Sum(0, len(names), weights, precise))
        if isinstance(found, Failure):
            raise found.error
        return together(len(names), [found], precise=precise)

    return reduce


def share_of(names: Sequence[str], plan: RoundPlan, state: Mapping[str, SiteState]) -> Share:
    """A share of a round."""
    kept = {name: state[name] for name in names if name in state}
    return Share(plan.seed, plan.round, plan.proximal_mu, tuple(names), kept)


def _own(means: Means) -> dict[Span, Part | None]:
    # What came from another process is read-only, and a mean is joined to its neighbour in its own memory.
    parts = means.parts()
    if means.means.flags.writeable:
        return parts
    return {span: part and Part(part.mean.copy(), part.weight) for span, part in parts.items()}
