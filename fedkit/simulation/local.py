"""One federation in this process: the round loop over the in-process Grid."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from flwr.app import Message
from flwr.serverapp import Grid

from fedkit.federation.discovery import discover
from fedkit.federation.gate import Gate
from fedkit.federation.rounds import Finish, OnRound, RoundLoop
from fedkit.federation.site import SiteRuntime
from fedkit.models.flat import pack, shapes
from fedkit.privacy.plan import epsilon_at
from fedkit.runs.manifest import is_private
from fedkit.simulation.grid import InProcessGrid
from fedkit.simulation.prepare import Prepared, engine_for, strategy_for
from fedkit.simulation.ray_actors import Actors
from fedkit.simulation.ray_crew import actors
from fedkit.simulation.seat import Outfit, reduce_here
from fedkit.simulation.shares import for_training
from fedkit.simulation.spread import Spread, spread
from fedkit.simulation.worker import Work
from fedkit.strategies import AnyStrategy, refuse_if_needs_statistics
from fedkit.strategies.streaming import Streaming
from fedkit.training.engine import Engine
from fedkit.training.evaluate import predict
from fedkit.training.kinds import Kinds
from fedkit.types import Float32, Predictions


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch on one thread: sums split over threads differ in their last bits, and small work is faster so."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def run_local(
    prepared: Prepared,
    on_round: OnRound,
    *,
    strategy: AnyStrategy | None = None,
    evaluate: bool = True,
    order: Callable[[list[Message]], list[Message]] | None = None,
    gates: Mapping[str, Gate] | None = None,
    engine: Engine | None = None,
    manifest: dict[str, Any] | None = None,
    as_ray: bool = False,
    cpus: int | None = None,
) -> Finish:
    """Run every round, the sites of a round in as many processes of this machine as pay, or in actors of Ray.

    Args:
        strategy: the caller's own, else the one that the config names.
        evaluate: measure the model at each site as the schedule says.
        order: a permutation of the replies, for tests.
        gates: site to the gate of its ledger.
        engine: what trains the sites, else what the config asks for.
        manifest: is told, under ``engine``, how many processes trained and why.
        cpus: of a Ray's, this run's part; None where no other trains beside it.
        as_ray: add updates up as actors of Ray do, without any: the bits of a run that had them.

    Raises:
        FedkitError: as of a simulation; see :mod:`fedkit.simulation.ray_probe`.
    """
    sites = {site.name: site for site in prepared.dataset.sites}
    strategy = strategy or strategy_for(prepared)
    # A strategy of our own that needs no loss is told none: it would cost a pass over every row.
    told = not isinstance(strategy, Streaming)
    plans = {n: plan if told else replace(plan, reports_loss=False) for n, plan in prepared.local.sites.items()}
    engine = engine or engine_for(prepared)
    size = sum(p.numel() for p in prepared.model.parameters())
    work = Work(engine, prepared.model, prepared.dataset.task, sites, plans, size)
    training, rounds = prepared.config.training, prepared.config.federation.num_rounds
    runtime = SiteRuntime(
        prepared.model,
        prepared.dataset.task,
        prepared.config.seed,
        sites,
        plans,
        frozenset(prepared.local.tested) if evaluate else frozenset(),
        prepared.local.specs,
        # All sites are on this machine, and so is whoever reads the exact metrics.
        exact=True,
        gates=gates or {},
        engine=engine,
    )
    # A site with a ledger answers before the next is asked.
    asked = "1" if gates else training.workers
    federation = prepared.config.federation
    # What is recorded is recorded update by update.
    adds = strategy if isinstance(strategy, Streaming) and not is_private(prepared.config) else None
    made: Actors | Spread
    with one_thread(), ExitStack() as stack:
        if federation.kind == "ray":
            rows = {name: for_training(sites[name]) for name in plans}
            task, shape = prepared.dataset.task, prepared.dataset.input_shape
            outfit = Outfit(training, prepared.model, task, shape, Kinds.of(plans), rows, plans)
            runtime.trainer = made = stack.enter_context(actors(engine, outfit, len(plans), federation, cpus))
            runtime.reducer = made.reducer(precise=adds.precise) if adds else None
        else:
            runtime.trainer = made = stack.enter_context(spread(work, asked, rounds, federation.timeout))
            runtime.reducer = reduce_here(work, precise=adds.precise) if adds and as_ray else None
        grid = InProcessGrid(runtime, order, runtime.updates)
        # Where each update travels: something for every actor.
        grid.least_together = max(grid.least_together, 2 * len(made) if isinstance(made, Actors) else 0)
        loop = make_loop(prepared, grid, strategy)
        if runtime.reducer is not None:
            loop = replace(loop, reduce=runtime.reduced, keep_updates=False)
        if not evaluate:
            loop = replace(loop, measures={})
        try:
            finish = loop.run(pack(prepared.model), on_round)
        finally:
            if manifest is not None:
                manifest["engine"] |= made.record()
        return replace(finish, notes=(*finish.notes, *made.notes))


def make_loop(prepared: Prepared, grid: Grid, strategy: AnyStrategy) -> RoundLoop:
    """The round loop over a Grid, once every site has said who it is.

    Raises:
        FederationError: a site did not join in time, or the strategy reads what a private run does not release.
    """
    refuse_if_needs_statistics(strategy, private=prepared.config.privacy.mode != "none")
    names = [site.name for site in prepared.dataset.sites]
    roster = discover(grid, names, prepared.config.federation.timeout)
    return RoundLoop(
        grid,
        strategy,
        shapes(prepared.model),
        prepared.config.seed,
        prepared.config.federation,
        {site: node for site, (node, _) in roster.items()},
        frozenset(site for site, (_, answer) in roster.items() if answer.trains),
        frozenset(site for site, (_, answer) in roster.items() if answer.evaluates),
        spending(prepared),
        _weights(prepared),
        evaluation_rounds(prepared),
        sum(spec.size for spec in prepared.local.specs),
        private=prepared.config.privacy.mode != "none",
        # Only what may be recorded need be held.
        keep_updates=is_private(prepared.config),
    )


def _weights(prepared: Prepared) -> dict[str, float]:
    declared = {name: plan.weight for name, plan in prepared.local.sites.items()}
    return {site.name: declared.get(site.name) or float(len(site.train)) for site in prepared.dataset.sites}


def evaluation_rounds(prepared: Prepared) -> dict[str, tuple[int, ...]]:
    """Site to the rounds after which its plan releases histograms."""
    private = {name: plan.privacy for name, plan in prepared.local.sites.items()}
    return {name: plan.evaluation.rounds for name, plan in private.items() if plan and plan.evaluation}


def epsilon_by_site(prepared: Prepared, rounds: int) -> dict[str, float]:
    """Epsilon spent a site after some rounds; empty without privacy."""
    return spending(prepared)(rounds)


def spending(prepared: Prepared) -> Callable[[int], dict[str, float]]:
    """:func:`epsilon_by_site` of one run, for every round: plans that differ by the site's name alone cost the same."""
    plans = {site: plan.privacy for site, plan in prepared.local.sites.items() if plan.privacy}
    kinds = {site: replace(plan, site="") for site, plan in plans.items()}
    number = {kind: index for index, kind in enumerate(dict.fromkeys(kinds.values()))}
    of = {site: number[kind] for site, kind in kinds.items()}

    def after(rounds: int) -> dict[str, float]:
        costs = [epsilon_at(kind, rounds) for kind in number]
        return {site: costs[kind] for site, kind in of.items()}

    return after


def predict_all(prepared: Prepared, parameters: Float32) -> dict[str, Predictions]:
    """Scores of a model on the test rows of every site that has enough of them."""
    with one_thread():
        return {
            site.name: predict(prepared.model, parameters, prepared.dataset.task, site.test)
            for site in prepared.dataset.sites
            if site.name in prepared.local.tested
        }
