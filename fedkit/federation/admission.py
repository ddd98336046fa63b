"""Which updates may enter the sum: the last check of a reply that reads well, against the model and the plan."""

from __future__ import annotations

import math

import numpy as np

from fedkit.errors import FederationError
from fedkit.federation.packed import squares
from fedkit.storage.mapped import slices
from fedkit.types import ClientUpdate, Float32

MAX_ENTRY = 1e6
"""No honest step on features scaled to [0, 1] moves a parameter this far; no finite float32 leaves its range by it."""

MAX_GROWTH = 1e6
"""Largest norm of an update, in norms of the model (of 1, where the model is smaller)."""

_MOST_ROUNDED = 10**8
"""Squares whose float32 sum is within a factor of 7 of the exact one, added up in the worst order."""


def check_update(
    update: ClientUpdate,
    parameters: Float32,
    *,
    weight: float | None = None,
    most_weight: float | None = None,
    needs_loss: bool = False,
    squared: float | None = None,
) -> None:
    """Refuse an update that would take over or end the run, although every number in it is finite.

    Args:
        parameters: float32 [d], the model that the update is added to.
        weight: what the plan says that the site weighs; None leaves it unchecked.
        most_weight: what the site declares that it has, where the plan says nothing.
        needs_loss: the strategy reads ``train_loss``.
        squared: the update's sum of squares as `packed.squares` has it, where it is known.

    Raises:
        FederationError: another weight, an update that is too large, a loss that is missing.

    Guarantee: none against a site that lies within these bounds; that is what robust strategies are for.
    """
    if weight is not None and not math.isclose(update.weight, weight, rel_tol=1e-6):
        raise FederationError(f"the weight {update.weight:g} is not the planned {weight:g}", code="FK519")
    if most_weight is not None and update.weight > most_weight:
        raise FederationError(
            f"the weight {update.weight:g} is more than the {most_weight:g} records declared", code="FK519"
        )
    if needs_loss and "train_loss" not in update.metrics:
        raise FederationError("the reply lacks train_loss, which the strategy reads", code="FK529")
    # Far below every bound, whatever float32 has rounded away: most updates are, and need not be measured exactly.
    if len(update.delta) <= _MOST_ROUNDED and (
        (squares(update.delta) if squared is None else squared) < MAX_ENTRY**2 / 10
    ):
        return
    largest, norm = _size(update.delta)
    # What is within the least bound is within any: the model is not measured anew for each update.
    bound = MAX_GROWTH * max(1.0, _size(parameters)[1]) if largest > MAX_ENTRY or norm > MAX_GROWTH else MAX_GROWTH
    if largest > MAX_ENTRY or norm > bound:
        raise FederationError(
            f"the update is too large (largest entry {largest:g}, bound {MAX_ENTRY:g}; norm {norm:g}, bound {bound:g})",
            code="FK526",
            remedy="lower training.learning_rate",
        )


def _size(values: Float32) -> tuple[float, float]:
    """Largest entry and Euclidean norm, by blocks: a float64 copy of a large model would be two more of it."""
    largest, squares = 0.0, 0.0
    for part in slices(values):
        block = values[part].astype(np.float64)
        largest = max(largest, float(np.abs(block).max(initial=0.0)))
        squares += float(block @ block)
    return largest, math.sqrt(squares)
