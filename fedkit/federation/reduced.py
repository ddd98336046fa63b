"""A round whose updates become one mean before they reach the round loop.

What the loop would check of each reply is checked where the update is, by the same functions, before it is added.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fedkit.federation import wire
from fedkit.federation.admission import check_update
from fedkit.types import ClientUpdate, Float32, RoundPlan, SiteState


@dataclass(frozen=True)
class Reduced:
    """What became of a round's sites.

    Attributes:
        mean: float32 [d], the weighted mean of the accepted updates; of length 0 where there is none.
        weight: of all accepted updates together.
        accepted: site to the weight and metrics that it told.
        refused: site to the reason why nothing of it counts.
        state: what accepted sites keep for the next round.
    """

    mean: Float32 = field(default_factory=lambda: np.zeros(0, np.float32))
    weight: float = 0.0
    accepted: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)
    state: Mapping[str, SiteState] = field(default_factory=dict)


Reduce = Callable[[int, Sequence[str], Float32, float, Mapping[str, float] | None], Reduced]
"""(round, sites in the order of their places, model, proximal_mu, site to its planned weight) to what came of them."""

Reducer = Callable[[Sequence[str], RoundPlan, Mapping[str, SiteState], Mapping[str, float] | None], Reduced]
"""(sites in the order of their places, the round, what they keep, planned weights) to the same, at a site's runtime."""


def checked(update: ClientUpdate, parameters: Float32, weight: float | None) -> ClientUpdate:
    """An update as the round loop would have read it from a message.

    Args:
        parameters: float32 [d], the model that it was trained from.
        weight: what the plan says that the site weighs; None leaves it unchecked.

    Raises:
        FederationError: whatever the loop refuses an update for.
    """
    read, squared = wire.as_read(update, len(parameters))
    check_update(read, parameters, weight=weight, squared=squared)
    return read
