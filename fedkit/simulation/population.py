"""A federation of very many sites that are alike but for their records, each made when it is called and not kept.

What a declared table cannot be: a hundred thousand sites in memory. The rounds, messages, engines and worker processes
are those of every simulation.
"""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TypeVar

from torch import nn

from fedkit.config.experiment import FederationConfig, TrainingConfig
from fedkit.federation.outcome import Finish
from fedkit.federation.rounds import OnRound, RoundLoop
from fedkit.federation.site import SiteRuntime
from fedkit.models.flat import pack, shapes
from fedkit.privacy.plan import epsilon_at
from fedkit.simulation.grid import InProcessGrid
from fedkit.simulation.local import one_thread
from fedkit.simulation.ray_actors import Actors
from fedkit.simulation.ray_crew import actors
from fedkit.simulation.seat import Outfit
from fedkit.simulation.spread import Spread, check_workers, for_kind, spread
from fedkit.simulation.worker import Work
from fedkit.strategies.streaming import Streaming
from fedkit.training.choice import choose
from fedkit.training.kinds import Kinds
from fedkit.types import LocalPlan, Site, Task

T = TypeVar("T")


@dataclass(frozen=True)
class MadeByName(Mapping[str, T]):
    """Values that are made from a name each time, and kept by nobody.

    Args:
        names: every name, each with its place.

    >>> squares = MadeByName({"a": 0, "b": 7}, lambda name, place: place**2)
    >>> squares["b"], list(squares), "c" in squares
    (49, ['a', 'b'], False)
    """

    names: Mapping[str, int]
    make: Callable[[str, int], T]

    def __getitem__(self, name: str) -> T:
        """Make it.

        Raises:
            KeyError: no such name.
        """
        return self.make(name, self.names[name])

    def __iter__(self) -> Iterator[str]:
        """Every name; nothing is made."""
        return iter(self.names)

    def __len__(self) -> int:
        """How many there are."""
        return len(self.names)

    def __contains__(self, name: object) -> bool:
        """Whether there is such a name; nothing is made."""
        return name in self.names


@dataclass(frozen=True)
class Population:
    """Sites s0000000, s0000001, ...

    Attributes:
        make: a site's name and place to the site; the same whenever it is asked for, in whichever process.
        plan: of every site; one that is private states a record's guarantee at each of them by itself.
    """

    size: int
    make: Callable[[str, int], Site]
    plan: LocalPlan

    def names(self) -> dict[str, int]:
        """Every name and its place."""
        return {f"s{place:07d}": place for place in range(self.size)}

    def plan_of(self, name: str, _place: int) -> LocalPlan:
        """A site's own plan."""
        private = self.plan.privacy
        return self.plan if private is None else replace(self.plan, privacy=replace(private, site=name))


@contextmanager
def _names_left_alone() -> Iterator[None]:
    """Spare garbage collections the walk over what is there for the whole run: it is most of a large population's."""
    ours = gc.get_freeze_count() == 0
    if ours:
        gc.freeze()
    try:
        yield
    finally:
        if ours:
            gc.unfreeze()


def run_population(
    population: Population,
    model: nn.Module,
    task: Task,
    input_shape: tuple[int, ...],
    strategy: Streaming,
    training: TrainingConfig,
    federation: FederationConfig,
    on_round: OnRound,
    *,
    seed: int,
) -> Finish:
    """Every round; nothing is measured at the sites.

    The reports' ``epsilon`` has one entry, ``each site``: what one that was called in every round has spent.

    Raises:
        TrainingError, FederationError: as of a simulation.

    Guarantee: memory does not grow with rounds, and with the size of the population by its names alone. Result and
    memory are those of the sites' plans, whatever the number of workers.
    """
    names = population.names()
    first = population.plan_of(next(iter(names)), 0)
    kinds = Kinds.of({"": first})
    engine = choose(for_kind(training, federation.kind), model, task, input_shape, kinds)
    check_workers(training, engine)
    sites, plans = MadeByName(names, population.make), MadeByName(names, population.plan_of)
    runtime = SiteRuntime(model, task, seed, sites, plans, frozenset(), exact=True, engine=engine)
    work = Work(engine, model, task, sites, plans, sum(p.numel() for p in model.parameters()))

    def spent(rounds: int) -> dict[str, float]:
        return {"each site": epsilon_at(first.privacy, rounds)} if first.privacy else {}

    a_round = math.ceil(federation.fraction_train * population.size)
    trainer: Actors | Spread
    with one_thread(), _names_left_alone(), ExitStack() as stack:
        if federation.kind == "ray":
            outfit = Outfit(training, model, task, input_shape, kinds, sites, plans)
            trainer = stack.enter_context(actors(engine, outfit, a_round, federation))
            runtime.reducer = trainer.reducer(precise=strategy.precise)
        else:
            trainer = stack.enter_context(spread(work, training.workers, federation.num_rounds))
        runtime.trainer = trainer
        grid = InProcessGrid(runtime, updates=runtime.updates)
        loop = RoundLoop(
            grid,
            strategy,
            shapes(model),
            seed,
            federation,
            {name: node for node, name in grid.nodes.items()},
            frozenset(names),
            frozenset(),
            spent,
            private=first.privacy is not None,
            keep_updates=False,
            reduce=None if runtime.reducer is None else runtime.reduced,
        )
        finish = loop.run(pack(model), on_round)
        return replace(finish, notes=(*finish.notes, *trainer.notes))
