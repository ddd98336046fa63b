"""The norm of a released private update, and what its plan lets it be: computed from nothing that was not released."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
from flwr.app import RecordDict

from fedkit.errors import FederationError
from fedkit.federation.packed import flat
from fedkit.storage.mapped import slices

if TYPE_CHECKING:
    from fedkit.types import LocalPlan

NATS = math.log(1e9)
"""Of the chance that an honest update is outside its bounds, each way."""

_ROUNDING = 1e-3
"""Of the lattice that noise is drawn on, and of float32."""

_ADAM_STEP = 7.3
"""No parameter moves further in a step, in learning rates, by Cauchy and Schwarz over the two moments:
(1 - beta1) / sqrt((1 - beta2) * (1 - beta1**2 / beta2)) for 0.9 and 0.999, which the corrections of both only lower."""


def norm_bounds(plan: LocalPlan, size: int, proximal_mu: float = 0.0) -> tuple[float, float | None]:
    """The least and the largest L2 norm of the update of a round of private training; None where nothing is known.

    The largest: in each step the sum of at most ``max_lot`` gradients of norm ``max_grad_norm``, and noise of ``size``
    entries. The least: given all before it, the update is the last step's noise around some point, and a Gaussian is
    nowhere likelier to be small than around nothing (Anderson, 1955). Both tails: Laurent and Massart (2000), lemma 1.
    A model whose parameters lie at the bound of all parameters may stay below the least: the bound holds noise back.

    Guarantee: an update that was made as the plan says is outside with a chance of at most 1e-9 each way.
    """
    private = plan.privacy
    if private is None or size < 1:
        return 0.0, None
    if plan.optimizer != "sgd":
        return 0.0, _ADAM_STEP * plan.learning_rate * plan.steps * math.sqrt(size) * (1 + _ROUNDING)
    one = plan.learning_rate * private.max_grad_norm / private.lot_size
    squared = size - 2 * math.sqrt(size * NATS)
    least = one * private.noise_multiplier * math.sqrt(max(0.0, squared)) * (1 - _ROUNDING)
    if plan.learning_rate * proximal_mu > 2:
        # Beyond, a pull towards the model that came pushes away from it.
        return least, None
    nats = NATS + math.log(plan.steps)
    chi = math.sqrt(size + 2 * math.sqrt(size * nats) + 2 * nats)
    most = one * plan.steps * (private.max_lot + private.noise_multiplier * chi)
    return least, most * (1 + _ROUNDING)


def released_norm(content: RecordDict) -> float | None:
    """The L2 norm of a reply's one float32 array; None where it has none, or it is not finite.

    To be called for replies alone that the ledger's gate has let out under a guarantee: what is computed from a
    released value is post-processing. The norm of an exact update would tell of records.
    """
    try:
        entries = flat(content, "arrays", "float32", copy=False)
    except FederationError:
        return None
    total = 0.0
    for part in slices(entries):
        values = entries[part].astype(np.float64)
        total += float(values @ values)
    return math.sqrt(total) if math.isfinite(total) else None
