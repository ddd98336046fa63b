"""What a request may ask of a site, in numbers, before anything else is done with it."""

from __future__ import annotations

import math

import numpy as np

from fedkit.errors import FederationError
from fedkit.federation.order import MOST_MU
from fedkit.training.local import PARAMETER_LIMIT
from fedkit.types import Float32


def check_request(parameters: Float32, proximal_mu: float, *, private: bool) -> None:
    """Refuse numbers that no honest request has.

    Args:
        parameters: float32 [d].
        private: a site that it goes to trains with differential privacy.

    Raises:
        FederationError: FK536.
    """
    # Numbers that overflow would make rounding, or a failure, depend on records.
    largest = float(np.abs(parameters).max(initial=0.0)) if private else 0.0
    if not largest <= PARAMETER_LIMIT:
        raise FederationError(
            f"the request has a parameter of size {largest:g}; a private site takes at most {PARAMETER_LIMIT:g}",
            code="FK536",
            remedy="lower training.learning_rate or the strategy's server learning rate",
        )
    if not (math.isfinite(proximal_mu) and (not private or 0 <= proximal_mu <= MOST_MU)):
        raise FederationError(
            f"proximal_mu {proximal_mu:g} is not between 0 and {MOST_MU:g}",
            code="FK536",
            remedy="lower strategy.proximal_mu",
        )
