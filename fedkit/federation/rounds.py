"""The one round loop: any strategy over any Grid, in process or deployed.

Flower's own ``Strategy.start`` has no hook for a round, a quorum, a deadline or a journal, so the loop asks the sites
itself. Replies are checked as they come and folded in the fixed order of sites, so that neither the sum's bits nor the
memory depend on who answers first. With a journal, every step is on disk before the next, and a run whose coordinator
was killed goes on with the round: who has answered is not asked again, who has not gets the same request.
In a private run a strategy sees nothing that is not charged: it is told no exact metrics.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from flwr.serverapp import Grid

from fedkit.config.experiment import FederationConfig
from fedkit.errors import FederationError
from fedkit.federation.courier import Courier, MakeRequest
from fedkit.federation.driving import drive
from fedkit.federation.events import OnProgress, unheard
from fedkit.federation.flower_internals import local_identity
from fedkit.federation.outcome import Finish
from fedkit.federation.reduced import Reduce
from fedkit.federation.running import OnRound, Running, digest, pick_up
from fedkit.federation.strategy_guard import check_patience
from fedkit.runs.journal import Journal
from fedkit.strategies import AnyStrategy
from fedkit.strategies.streaming import Streaming
from fedkit.types import Float32

__all__ = ["Finish", "OnRound", "RoundLoop", "digest"]


@dataclass(frozen=True)
class RoundLoop:
    """A strategy, a Grid and the sites behind it.

    Attributes:
        grid: any Flower Grid. While the loop waits it calls ``wait_for_reply(seconds)`` if the Grid has it, else it
            sleeps for 0.1 s, later for up to 1 s. ``push_messages`` may give None for a node that is not online.
        shapes: parameter name to shape, in the order in which a model is packed.
        config: rounds, participation, quorum and deadline.
        sites: site to Flower node id, in the order in which replies are folded (so the sum is reproducible).
        epsilon_after: rounds done to epsilon spent a site.
        weights: site to the weight that its plan declares, which a reply must repeat; None leaves weights unchecked.
        measures: site to the rounds after which its plan releases histograms.
        cells: how many cells a site's histograms have together.
        private: the strategy is told no exact metrics: it could copy them into the model, which is not charged for
            them.
        journal: makes the run outlive its process.
        make_request: what a site is sent, where it is not the plain request of ``wire``.
        stop: polled while waiting; True ends the run with outcome ``stopped``.
        on_progress: told of every step as it happens.
        declared: site to its declared records, which no weight exceeds, for what is said of missing sites too; None:
            the weights.
        keep_updates: without a journal, hold every update until the round's end and hand it to ``on_round``.
        reduce: trains a round's sites and adds up their updates, which the Grid is then not asked for. For strategies
            that stream, without a journal, ``keep_updates`` or ``declared``; no single site's step is told.
    """

    grid: Grid
    strategy: AnyStrategy
    shapes: Mapping[str, tuple[int, ...]]
    seed: int
    config: FederationConfig
    sites: Mapping[str, int]
    trains: frozenset[str]
    evaluates: frozenset[str]
    epsilon_after: Callable[[int], Mapping[str, float]] = field(default=lambda _: {})
    weights: Mapping[str, float] | None = None
    measures: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    cells: int = 0
    private: bool = False
    journal: Journal | None = None
    make_request: MakeRequest | None = None
    stop: Callable[[], bool] = field(default=lambda: False)
    on_progress: OnProgress = field(default=unheard)
    keep_updates: bool = True
    declared: Mapping[str, float] | None = None
    reduce: Reduce | None = None

    def run(self, parameters: Float32, on_round: OnRound) -> Finish:
        """Run every round, or those that the journal says are left.

        Args:
            parameters: float32 [d], the untrained model.
            on_round: called after each round and once for the untrained model (round 0). After a crash it may be
                called again for the round that was about to end.

        Raises:
            FederationError: nobody can train; the strategy raises, waits for ever, returns no finite model or cannot
                be journaled.
            RunError: the journal is another run's (FK633), corrupted, or cannot be written.
        """
        if not self.trains:
            raise FederationError("no site has enough records to train", code="FK520")
        if self.reduce is not None and (
            self.journal or self.keep_updates or self.declared or not isinstance(self.strategy, Streaming)
        ):
            raise ValueError("a mean holds no single update, and this loop needs each of them")
        check_patience(self.strategy, train=len(self.sample(1)), evaluate=len(self.evaluates & self.sites.keys()))
        driver = drive(self.strategy, self.grid, self.sites, self.shapes, self.seed, journaled=self.journal is not None)
        courier = Courier(
            self.grid,
            self.sites,
            self.config.timeout,
            self.journal,
            self.make_request,
            self.stop,
            self.on_progress,
        )
        with local_identity():
            running = Running(self, driver, courier, on_round, pick_up(self, driver, parameters))
            # One model less in memory from the first round on, if the caller lets go of it too.
            del parameters
            return running.run()

    def sample(self, number: int) -> list[str]:
        """The sites that train in a round, a pure function of (seed, round).

        Guarantee: none is claimed from it; a plan is calibrated as if every site were called every round.
        """
        names = self._training
        count = max(math.ceil(self.config.fraction_train * len(names)), min(self.config.min_sites, len(names)))
        chosen = np.random.default_rng([self.seed, number]).permutation(len(names))[:count]
        return [names[i] for i in sorted(chosen)]

    @cached_property
    def _training(self) -> list[str]:
        return [site for site in self.sites if site in self.trains]

    def identity(self, driver_name: str, size: int) -> dict[str, object]:
        """What a journal must agree with to be this run's. All randomness of the loop derives from the seed."""
        return {
            "seed": self.seed,
            "strategy": driver_name,
            "parameters": size,
            "sites": list(self.sites),
            "trains": sorted(self.trains),
            "evaluates": sorted(self.evaluates),
            "rounds": self.config.num_rounds,
            "weights": None if self.weights is None else {site: float(w) for site, w in self.weights.items()},
        }
