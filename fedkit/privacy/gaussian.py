"""The Gaussian mechanism without sampling, whose privacy is known exactly (Balle and Wang 2018, Theorem 8).

Releases of which a unit moves each by a known number of standard deviations are together one release that it moves by
the root of the sum of their squares, also where each is chosen with the ones before in view (Dong, Roth and Su 2022).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

_ROUNDING = 1e-8
"""Set aside of delta for floating point; 10 times the most that is found (tests/privacy/test_gaussian.py)."""


def shift_of(releases: Iterable[tuple[float, int]]) -> float:
    """mu: by how many standard deviations a unit moves all releases together.

    Args:
        releases: noise multiplier and number of each kind.

    >>> shift_of([(10.0, 64), (5.0, 9)])
    1.0
    """
    return math.sqrt(math.fsum(count / sigma**2 for sigma, count in releases))


def delta_at(epsilon: float, shift: float) -> float:
    """Delta at an ``epsilon`` of at least 0, for a ``shift`` above 0; an upper bound where shift is above 30.

    >>> round(delta_at(4.377179, 1.0), 9)
    1e-05
    """
    near, far = epsilon / shift - shift / 2, epsilon / shift + shift / 2
    above, below = _above(near), _above(far)
    # exp(epsilon) * below is left out where a factor loses its digits at the edge of what a double holds.
    half = math.exp(epsilon / 2) if epsilon < 1400 and below > 1e-300 else 0.0
    return above - half * below * half


def epsilon_at(shift: float, delta: float) -> float:
    """The epsilon at ``delta`` of releases that a unit moves by ``shift`` together.

    Returns:
        From above: the delta of what is found is below the one given by at most 3e-8 of it.

    Guarantee: the releases are (epsilon, delta)-DP for one unit under add/remove adjacency.

    >>> round(epsilon_at(1.0, 1e-5), 5)
    4.37718
    """
    least = delta * (1 - _ROUNDING)
    if math.erf(shift / math.sqrt(8)) <= least:
        return 0.0
    # The second term of delta left out: enough, and not much more.
    low, high = 0.0, shift * (shift / 2 + math.sqrt(2 * math.log(1 / least)))
    while high - low > 1e-12 * high:
        middle = (low + high) / 2
        low, high = (low, middle) if delta_at(middle, shift) <= least else (middle, high)
    return high


def _above(x: float) -> float:
    """The chance that a standard normal is above x."""
    return 0.5 * math.erfc(x * math.sqrt(0.5))
