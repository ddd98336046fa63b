"""The filter that enforces a budget while jobs are chosen adaptively: Renyi DP at one fixed order.

With an order a that was fixed before the first job, "stop before the sum of the Renyi costs exceeds R" is a valid
privacy filter (Feldman and Zrnic 2021, Theorem 3.1; Rogers et al. 2016): everything released is (a, R)-Renyi-DP,
hence (B, delta)-DP with B = R + c(a) (Canonne, Kamath and Steinke 2020, Proposition 12). Stopping at a bound on
composed privacy-loss distributions is not.

Costs are whole numbers of 1e-12, one cost a step, so that sums are exact whatever their order or grouping. Every
rounding goes against the spender: sigma down, q up, steps up, cost up, capacity down.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from functools import lru_cache
from importlib.metadata import version

from fedkit.errors import PrivacyError
from fedkit.privacy.accounting import MAX_SIGMA, MAX_STEPS, MIN_SIGMA, GaussianEvent, shown_count

UNIT = 10**12
"""Units of cost in a Renyi divergence of 1."""
ORDERS = tuple(k / 10 for k in range(11, 641))
"""The orders that a budget may be enforced at: 1.1, 1.2, ..., 64."""
MAX_LIMIT = 1000.0
"""Largest limit of a budget; one of 100 protects nobody."""
RESIDUE_SHARE = 1e-3
"""Share of a budget's delta that is set aside for what runs cost beside their Gaussian mechanisms."""
# Measured against 80-bit quadrature over the whole validated range (tests/privacy/test_rdp_filter.py repeats a part):
# log A is never more than 5e-14 too low, absolute or relative; this is 20 times that.
_PAD = 1e-12


@dataclass(frozen=True)
class Charge:
    """An event as the filter charges it, rounded against the spender; whole numbers, so that it is stored exactly.

    Attributes:
        rate_e9: the sampling rate q in units of 1e-9, rounded up.
        sigma_e6: the noise multiplier in units of 1e-6, rounded down.
        steps: noisy sums, rounded up.
    """

    rate_e9: int
    sigma_e6: int
    steps: int

    @property
    def event(self) -> GaussianEvent:
        """The rounded event."""
        return GaussianEvent(self.rate_e9 / 1e9, self.sigma_e6 / 1e6, self.steps)


@lru_cache(maxsize=1)
def accountant() -> str:
    """Name and version of what computes the costs; stored beside every event."""
    return f"fedkit rdp filter 1, dp-accounting {version('dp-accounting')}"


def conversion(order: float, delta: float) -> float:
    """c(a): what turning Renyi DP of this order into (epsilon, delta)-DP adds to epsilon.

    >>> round(conversion(7.5, 1e-5), 4)
    1.3181
    """
    return math.log1p(-1 / order) - (math.log(delta) + math.log(order)) / (order - 1)


def kept(delta: float) -> float:
    """What of a budget's delta is left for Gaussian mechanisms; the rest pays for each run's other residues."""
    return delta * (1 - RESIDUE_SHARE)


def best_order(limit: float, delta: float) -> float:
    """The order on the grid that admits most: it maximises (B - c(a)) / a, the capacity over a Gaussian's cost.

    Raises:
        PrivacyError: limit or delta out of range, or a limit that no order on the grid can enforce.

    >>> best_order(3.0, 1e-5), best_order(8.0, 1e-5)
    (7.5, 3.9)
    """
    _check(limit, delta)
    order = max(ORDERS, key=lambda a: (limit - conversion(a, delta)) / a)
    capacity(limit, delta, order)
    return order


def capacity(limit: float, delta: float, order: float) -> int:
    """The Renyi divergence, in units, that may be spent at ``order`` so that epsilon stays within ``limit``.

    Raises:
        PrivacyError: a value out of range (FK301, FK302, FK343), or a limit too small for the order.
    """
    _check(limit, delta)
    if order not in ORDERS:
        raise PrivacyError(
            f"order {shown_count(order)} is not one of 1.1, 1.2, ..., 64", code="FK343", remedy="leave order out"
        )
    # The last bits of c(a) are rounded against the spender too.
    units = math.floor((limit - conversion(order, kept(delta)) - _PAD) * UNIT)
    if units <= 0:
        least = min(conversion(a, delta) for a in ORDERS)
        raise PrivacyError(
            f"the limit epsilon {limit:g} leaves nothing to spend at order {order:g} and delta {delta:g};"
            f" orders up to 64 enforce limits above {max(least, 0.0):.3g}",
            code="FK343",
            remedy="raise the limit, or leave order out",
        )
    return units


def rounded(event: GaussianEvent) -> Charge:
    """The event as it will be charged: sigma down, q up, steps up.

    Raises:
        PrivacyError: a value out of range (FK303, FK304, FK305) or outside what the costs were validated for (FK344).

    >>> rounded(GaussianEvent(1 / 19, 1.2, 380))
    Charge(rate_e9=52631579, sigma_e6=1200000, steps=380)
    """
    q, sigma, steps = event.sample_rate, event.noise_multiplier, event.steps
    if not 0 < q <= 1:
        raise PrivacyError(f"sample_rate {q:g} is not in (0, 1]", code="FK304", remedy="set privacy.sample_rate=0.05")
    if not (math.isfinite(sigma) and sigma > 0):
        raise PrivacyError(
            f"noise_multiplier {sigma:g} is not above 0", code="FK303", remedy="set privacy.noise_multiplier=1.2"
        )
    if steps > MAX_STEPS:
        raise PrivacyError(
            f"{shown_count(steps)} steps are above {MAX_STEPS:g}",
            code="FK305",
            remedy="ask for fewer steps, such as 380",
        )
    if not steps > 0:
        raise PrivacyError(f"steps {steps} is not above 0", code="FK305", remedy="ask for at least one, such as 380")
    if not MIN_SIGMA <= sigma <= MAX_SIGMA:
        raise PrivacyError(
            f"noise_multiplier {sigma:g} is outside {MIN_SIGMA:g} to {MAX_SIGMA:g}, where a ledger's costs are"
            " validated",
            code="FK344",
            remedy=f"set privacy.noise_multiplier between {MIN_SIGMA:g} and {MAX_SIGMA:g}",
        )
    # A float's shortest decimal is at most half a last bit off: the pad in the cost covers that.
    return Charge(
        rate_e9=int((Decimal(repr(float(q))) * 10**9).to_integral_value(ROUND_CEILING)),
        sigma_e6=int((Decimal(repr(float(sigma))) * 10**6).to_integral_value(ROUND_FLOOR)),
        steps=math.ceil(steps),
    )


def merged(charges: Iterable[Charge]) -> tuple[Charge, ...]:
    """The same charges, one a (q, sigma), sorted: they cost the same."""
    steps: dict[tuple[int, int], int] = {}
    for charge in charges:
        key = charge.rate_e9, charge.sigma_e6
        steps[key] = steps.get(key, 0) + charge.steps
    return tuple(Charge(rate, sigma, count) for (rate, sigma), count in sorted(steps.items()) if count)


def cost(charges: Iterable[Charge], order: float) -> int:
    """What charges cost together at ``order``, in units; exactly additive.

    Guarantee: never below the Renyi divergence of the events under add/remove adjacency.
    """
    return sum(step_cost(charge.rate_e9, charge.sigma_e6, order) * charge.steps for charge in charges)


@lru_cache(maxsize=65536)
def step_cost(rate_e9: int, sigma_e6: int, order: float) -> int:
    """Units that one Poisson-sampled Gaussian step costs (Mironov, Talwar and Zhang 2019, section 3.3); cached."""
    log_a = _log_moment(rate_e9 / 1e9, sigma_e6 / 1e6, order)
    return math.ceil((max(log_a, 0.0) * (1 + _PAD) + _PAD) / (order - 1) * UNIT)


def epsilon_of(units: int, order: float, delta: float) -> float:
    """The epsilon that the filter vouches for once ``units`` are spent: 0 while nothing is spent."""
    return max(0.0, units / UNIT + conversion(order, kept(delta))) if units > 0 else 0.0


def _log_moment(q: float, sigma: float, order: float) -> float:
    """An upper bound on log E[(P/Q)^order]: the smallest of those at hand."""
    bounds = [order * (order - 1) / (2 * sigma**2)]
    if q < 1:
        below, above = math.floor(order), math.ceil(order)
        moments = _series(q, sigma, sorted({below, order, above}))
        bounds.append(moments[order])
        if below < above:
            # log E[(P/Q)^a] is convex in a: the chord holds where the series of a real order does not converge.
            chord = (above - order) * moments[below] + (order - below) * moments[above]
            bounds.append(chord)
    return min(bound for bound in bounds if math.isfinite(bound))


def _series(q: float, sigma: float, orders: list[float]) -> dict[float, float]:
    """Order to log-moment by Google's dp-accounting; infinite where its series does not converge.

    For real orders it adds the series' alternating tail as if all of it were positive: an upper bound.
    """
    from absl import logging
    from dp_accounting.rdp import rdp_privacy_accountant as google

    found = {1.0: 0.0}
    # Its warning about a series that does not converge is what the chord above answers.
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        asked = [order for order in orders if order > 1]
        rdp = google._compute_rdp_poisson_subsampled_gaussian(q, sigma, asked)
    finally:
        logging.set_verbosity(verbosity)
    return found | {a: (float(r) * (a - 1) if r == r else math.inf) for a, r in zip(asked, rdp, strict=True)}


def _check(limit: float, delta: float) -> None:
    if not 0 < limit <= MAX_LIMIT:
        raise PrivacyError(
            f"the limit epsilon {shown_count(limit)} is not above 0 and at most {MAX_LIMIT:g}",
            code="FK301",
            remedy="give --epsilon 3, or max_epsilon: 3 in a site's file",
        )
    if not 0 < delta < 1:
        raise PrivacyError(
            f"delta {shown_count(delta)} is not between 0 and 1",
            code="FK302",
            remedy="give --delta 1e-5, or delta: 1e-5 in a site's file",
        )
