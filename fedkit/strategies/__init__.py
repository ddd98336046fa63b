"""Strategies by name: those that stream (``streaming``), those that read all updates of a round block by block
(``robust``), and Flower's own, which hold all of them.

``STRATEGIES`` names Flower's class for every name: what our own are equal to. Flower's
differential-privacy wrappers (their accounting covers neither records nor several runs) and its tree strategies are
not offered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from flwr.serverapp.strategy import (
    Bulyan,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedMedian,
    FedProx,
    FedTrimmedAvg,
    FedYogi,
    Krum,
    MultiKrum,
    QFedAvg,
    Strategy,
)

from fedkit.config.experiment import StrategyConfig
from fedkit.errors import FederationError
from fedkit.strategies.adaptive import FedAdamUncorrected, fed_adagrad
from fedkit.strategies.robust import ROBUST, Robust, fewest_for_krum
from fedkit.strategies.streaming import STREAMING, Streaming

AnyStrategy = Strategy | Streaming | Robust

STRATEGIES: Mapping[str, Callable[..., Strategy]] = {
    "fedavg": FedAvg,
    "fedavgm": FedAvgM,
    "fedprox": FedProx,
    "fedadagrad": fed_adagrad,
    "fedadam": FedAdam,
    "fedadam_uncorrected": FedAdamUncorrected,
    "fedyogi": FedYogi,
    "fedmedian": FedMedian,
    "fedtrimmedavg": FedTrimmedAvg,
    "krum": Krum,
    "multikrum": MultiKrum,
    "bulyan": Bulyan,
    "qfedavg": QFedAvg,
}

NEEDS_CLIENT_STATISTICS = frozenset({"qfedavg"})
"""Strategies that read a statistic of each site's records, which a private run has not paid for."""

# Smallest federation, by the number f of sites that may lie (Blanchard et al. 2017; El Mhamdi et al. 2018).
_MIN_SITES: Mapping[str, Callable[[int], int]] = {
    "krum": fewest_for_krum,
    "multikrum": fewest_for_krum,
    "bulyan": lambda f: 4 * f + 3,
}

# The loop decides who takes part; a strategy must never wait for more sites than it is handed.
_NO_QUORUM: Mapping[str, Any] = {"min_train_nodes": 1, "min_evaluate_nodes": 1, "min_available_nodes": 1}


def build(config: StrategyConfig, *, num_sites: int, private: bool) -> AnyStrategy:
    """Make the strategy that a config names: our own, where there is one.

    Args:
        num_sites: how many sites take part in a round.
        private: whether the run claims record-level privacy.

    Raises:
        FederationError: an argument is refused, the federation is too small for the strategy, or the strategy needs
            a statistic of each site's records in a private run.

    >>> build(StrategyConfig("fedprox", {"proximal_mu": 0.01}), num_sites=4, private=True).proximal_mu
    0.01
    """
    if private and config.name in NEEDS_CLIENT_STATISTICS:
        raise _needs_loss(config.name)
    least = _MIN_SITES.get(config.name)
    if least is not None:
        liars = int(config.arguments.get("num_malicious_nodes", 0))
        if num_sites < least(liars):
            raise FederationError(
                f"strategy {config.name} with num_malicious_nodes={liars} needs at least {least(liars)} sites a round;"
                f" there are {num_sites}",
                code="FK502",
                remedy="lower strategy.num_malicious_nodes or choose strategy=fedmedian",
            )
    try:
        if config.name in STREAMING:
            return STREAMING[config.name](**config.arguments)
        if config.name in ROBUST:
            return ROBUST[config.name](**config.arguments)
        return STRATEGIES[config.name](**_NO_QUORUM, **config.arguments)
    except (TypeError, ValueError) as error:
        raise FederationError(
            f"strategy {config.name} refuses its arguments: {error}",
            code="FK503",
            remedy=f"see `fedkit config show strategy={config.name}`",
        ) from None


def memory_note(strategy: AnyStrategy, *, sites: int, parameters: int) -> str | None:
    """What a reader should know before a round: a strategy that needs all updates at once, and their size.

    Args:
        sites: how many send an update in a round.
        parameters: of the model.

    >>> memory_note(FedAvg(), sites=4, parameters=250_000)
    "Flower's FedAvg holds all updates of a round: up to 4 models of 1.0 MB at once"
    """
    if isinstance(strategy, Streaming):
        return None
    size = parameters * 4 / 1e6
    models = f"up to {sites} models of {size:.{1 if size >= 1 else 4}f} MB at once"
    if isinstance(strategy, Robust):
        return f"{strategy.name} reads all updates of a round side by side: a simulation holds {models}"
    return f"Flower's {type(strategy).__name__} holds all updates of a round: {models}"


def layers(strategy: AnyStrategy) -> Iterator[Strategy]:
    """A Flower strategy and those that it wraps, as Flower's wrappers do in their attribute ``strategy``."""
    seen: list[Strategy] = []
    inner: object = strategy
    while isinstance(inner, Strategy) and inner not in seen:
        seen.append(inner)
        inner = getattr(inner, "strategy", None)
    yield from seen


def needs_statistics(strategy: AnyStrategy) -> bool:
    """Whether a strategy object reads the training loss of each site."""
    return any(isinstance(layer, QFedAvg) for layer in layers(strategy))


def refuse_if_needs_statistics(strategy: AnyStrategy, *, private: bool) -> None:
    """Refuse a strategy object that reads what a private run has not paid for.

    Raises:
        FederationError: the run is private, and the strategy or one that it wraps is Flower's ``QFedAvg``.
    """
    if private and needs_statistics(strategy):
        raise _needs_loss(type(strategy).__name__)


def _needs_loss(name: str) -> FederationError:
    return FederationError(
        f"strategy {name} needs the training loss of each site, which a private run does not release",
        code="FK501",
        remedy="use strategy=fedavg, or privacy=none",
    )
