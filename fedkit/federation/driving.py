"""One way to drive every strategy: our own, and Flower's, which see full models and Flower's messages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass

import numpy as np
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import (
    Bulyan,
    FedAvg,
    FedMedian,
    FedProx,
    FedTrimmedAvg,
    Krum,
    MultiKrum,
    QFedAvg,
    Strategy,
)

from fedkit.errors import FederationError
from fedkit.federation import wire
from fedkit.federation.chosen import ChosenSites
from fedkit.federation.flower_internals import seeded_sampling
from fedkit.federation.strategy_guard import strategy_errors
from fedkit.strategies import AnyStrategy, needs_statistics
from fedkit.strategies.robust import Robust
from fedkit.strategies.streaming import ServerState, Streaming, fold
from fedkit.types import ClientUpdate, Float32, Metrics

Heard = tuple[str, float, Metrics]
"""Site, its rows, its exact metrics."""

_KEEP_NOTHING = (Bulyan, FedAvg, FedMedian, FedProx, FedTrimmedAvg, Krum, MultiKrum, QFedAvg)


@dataclass(frozen=True)
class Sum:
    """One round's aggregation in progress.

    Attributes:
        add: take in the next update, in the fixed order of sites.
        finish: (the round's updates in that order) to the model and state after it; None where the strategy returns
            no model.
        least: updates below which there is no model.
        holds: ``finish`` reads the updates, which must be at hand until then; without, it is given none to read.
        lasting: ``add`` keeps what it is given, which must not be an array that is lent to it.
    """

    add: Callable[[ClientUpdate], None]
    finish: Callable[[Sequence[ClientUpdate]], tuple[Float32, ServerState] | None]
    least: int = 1
    holds: bool = False
    lasting: bool = False


@dataclass(frozen=True)
class Driver:
    """What the round loop asks of a strategy.

    Attributes:
        name: for a journal's identity.
        trains: (round, model, sites) to (those that it picks, proximal_mu).
        evaluates: (round, model, sites) to those that it picks.
        begin: (round, model, state) to the round's sum.
        tell: (round, what was measured); never called in a private run.
    """

    name: str
    needs_loss: bool
    init: Callable[[int], ServerState]
    trains: Callable[[int, Float32, Sequence[str]], tuple[list[str], float]]
    evaluates: Callable[[int, Float32, Sequence[str]], list[str]]
    begin: Callable[[int, Float32, ServerState], Sum]
    tell: Callable[[int, Sequence[Heard]], None]


def drive(
    strategy: AnyStrategy,
    grid: Grid,
    nodes: Mapping[str, int],
    shapes: Mapping[str, tuple[int, ...]],
    seed: int,
    *,
    journaled: bool,
) -> Driver:
    """A strategy as the loop sees it.

    Raises:
        FederationError: FK537, a journal is kept and the strategy may keep a state that no journal can hold.
    """
    if isinstance(strategy, Streaming):
        return _streaming(strategy)
    if isinstance(strategy, Robust):
        return _robust(strategy)
    if journaled and type(strategy) not in _KEEP_NOTHING:
        raise FederationError(
            f"{type(strategy).__name__} may keep a state of its own, which the round journal cannot hold",
            code="FK537",
            remedy="name a strategy of configs/strategy",
        )
    return _flowers(strategy, grid, nodes, shapes, seed)


def _streaming(strategy: Streaming) -> Driver:
    def begin(number: int, parameters: Float32, state: ServerState) -> Sum:
        mean, total = np.zeros(0, np.float32), 0.0

        def add(update: ClientUpdate) -> None:
            nonlocal mean, total
            # Not before there is something to add: while requests are sent, there may be no room for it.
            if not len(mean):
                mean = np.zeros(len(parameters), np.float32)
            total = fold(mean, total, update.delta, update.weight, precise=strategy.precise)

        return Sum(add, lambda _: strategy.finish(parameters, mean, state, number) if len(mean) else None)

    return _ours(strategy.name, strategy.init, begin, strategy.proximal_mu)


def _robust(strategy: Robust) -> Driver:
    def begin(number: int, parameters: Float32, state: ServerState) -> Sum:
        def finish(updates: Sequence[ClientUpdate]) -> tuple[Float32, ServerState] | None:
            # Each is mapped once, where it lies in a journal.
            taken = list(updates)
            deltas, weights = [update.delta for update in taken], [update.weight for update in taken]
            return strategy.finish(parameters, deltas, weights), state

        return Sum(lambda _: None, finish, strategy.least, holds=True)

    return _ours(strategy.name, lambda _size: {}, begin)


def _ours(
    name: str,
    init: Callable[[int], ServerState],
    begin: Callable[[int, Float32, ServerState], Sum],
    proximal_mu: float = 0.0,
) -> Driver:
    return Driver(
        name,
        False,
        init,
        lambda _number, _parameters, sites: (list(sites), proximal_mu),
        lambda _number, _parameters, sites: list(sites),
        begin,
        lambda _number, _heard: None,
    )


def _flowers(
    strategy: Strategy, grid: Grid, nodes: Mapping[str, int], shapes: Mapping[str, tuple[int, ...]], seed: int
) -> Driver:
    names = {node: site for site, node in nodes.items()}
    asked: dict[str, Message] = {}

    def remember(requests: Sequence[Message]) -> list[str]:
        asked.clear()
        for request in requests:
            request.content = RecordDict()
            asked[names[request.metadata.dst_node_id]] = request
        return [site for site in nodes if site in asked]

    def trains(number: int, parameters: Float32, sites: Sequence[str]) -> tuple[list[str], float]:
        chosen = ChosenSites(grid, [nodes[site] for site in sites])
        arrays = wire.to_record(parameters, shapes)
        with seeded_sampling(seed * 1_000_003 + number), strategy_errors("configure_train"):
            requests = list(strategy.configure_train(number, arrays, ConfigRecord(), chosen))
        mu = _proximal_mu(requests)
        return remember(requests), mu

    def evaluates(number: int, parameters: Float32, sites: Sequence[str]) -> list[str]:
        chosen = ChosenSites(grid, [nodes[site] for site in sites])
        arrays = wire.to_record(parameters, shapes)
        with seeded_sampling(seed * 1_000_003 + number), strategy_errors("configure_evaluate"):
            requests = list(strategy.configure_evaluate(number, arrays, ConfigRecord(), chosen))
        return remember(requests)

    def begin(number: int, parameters: Float32, state: ServerState) -> Sum:
        updates: list[ClientUpdate] = []

        def finish(_updates: Sequence[ClientUpdate]) -> tuple[Float32, ServerState] | None:
            # Flower refuses replies whose keys differ; a metric that one site leaves out is left out for all.
            shared = set.intersection(*(set(update.metrics) for update in updates)) if updates else set()
            replies = [
                Message(_as_flower(parameters, update, shapes, shared), reply_to=asked[update.site])
                for update in updates
            ]
            with strategy_errors("aggregate_train"):
                aggregated, _ = strategy.aggregate_train(number, replies)
                return None if aggregated is None else (wire.from_record(aggregated, shapes), state)

        return Sum(updates.append, finish, lasting=True)

    def tell(number: int, heard: Sequence[Heard]) -> None:
        if not heard:
            return
        shared = set.intersection(*({k for k, v in metrics.items() if v is not None} for _, _, metrics in heard))
        replies = []
        for site, rows, metrics in heard:
            numbers = {key: float(metrics[key] or 0.0) for key in sorted(shared)}
            content = RecordDict({"metrics": MetricRecord({wire.WEIGHT_KEY: rows, **numbers})})
            replies.append(Message(content, reply_to=asked[site]))
        with strategy_errors("aggregate_evaluate"):
            strategy.aggregate_evaluate(number, replies)

    return Driver(type(strategy).__name__, needs_statistics(strategy), lambda _size: {}, trains, evaluates, begin, tell)


def _as_flower(
    parameters: Float32, update: ClientUpdate, shapes: Mapping[str, tuple[int, ...]], shared: Set[str]
) -> RecordDict:
    full = wire.to_record(parameters + update.delta, shapes)
    numbers = {key: update.metrics[key] for key in sorted(shared)}
    return RecordDict({"arrays": full, "metrics": MetricRecord({wire.WEIGHT_KEY: update.weight, **numbers})})


def _proximal_mu(requests: Sequence[Message]) -> float:
    for request in requests:
        for config in request.content.config_records.values():
            if "proximal-mu" in config:
                return float(config["proximal-mu"])  # type: ignore[arg-type]
    return 0.0
