"""A round whose updates become one mean before they reach the round loop.

What the loop would check of each reply is checked where the update is, by the same functions, before it is added.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fedkit.errors import FederationError
from fedkit.federation import wire
from fedkit.federation.admission import check_update
from fedkit.federation.public_codes import readable_reason
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


def taken(
    found: Reduced, asked: Sequence[str], size: int
) -> tuple[ClientUpdate | None, dict[str, Mapping[str, Any]], dict[str, str]]:
    """What counts of a round that other processes have added up.

    Args:
        size: parameters of the model.

    Returns:
        the mean as an update, None where nothing is in it; site to what it told, of those in the mean; and of every
        other site that was asked why it is not.

    Raises:
        FederationError: FK524, it has the update of a site that was not asked; FK511 to FK516, no update has its mean.
    """
    if strangers := sorted(set(found.accepted) - set(asked)):
        # It cannot be taken out of the mean again.
        raise FederationError(f"a mean has the update of {strangers[0]}, which was not asked", code="FK524")
    accepted = {site: found.accepted[site] for site in asked if site in found.accepted}
    lost = readable_reason("FK524")
    failed = {site: found.refused.get(site, lost) for site in asked if site not in accepted}
    mean = wire.as_read(ClientUpdate("", found.mean, found.weight), size)[0] if accepted else None
    return mean, accepted, failed
