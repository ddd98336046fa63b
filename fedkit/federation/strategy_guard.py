"""A strategy is foreign code: it may raise anything, and it may wait for ever."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from fedkit.errors import FederationError, FedkitError
from fedkit.strategies import AnyStrategy, layers


@contextmanager
def strategy_errors(step: str) -> Iterator[None]:
    """Turn whatever a strategy raises in one of its four methods into a FederationError that says so."""
    try:
        yield
    except FedkitError:
        raise
    except Exception as error:
        raise FederationError(
            f"the strategy raised {type(error).__name__} in {step}: {error}",
            code="FK527",
            remedy="see the strategy's arguments or code",
        ) from error


def check_patience(strategy: AnyStrategy, *, train: int, evaluate: int) -> None:
    """Refuse a strategy that would wait for more sites than a round ever hands it.

    Args:
        train: sites a training round.
        evaluate: sites an evaluation; 0 where none is made.

    Raises:
        FederationError: a minimum of the strategy is above what there is.
    """
    for layer in layers(strategy):
        for step, sites, least in (("train", train, "min_train_nodes"), ("evaluate", evaluate, "min_evaluate_nodes")):
            if not sites or getattr(layer, f"fraction_{step}", 1.0) == 0.0:
                continue
            for name in ("min_available_nodes", least):
                value = getattr(layer, name, 0)
                if isinstance(value, int) and value > sites:
                    raise FederationError(
                        f"the strategy waits for {name}={value} sites, but only {sites} {step} in a round",
                        code="FK528",
                        remedy=f"make the strategy with {name}={sites} or less",
                    )
