"""What Poisson-sampled Gaussian steps cost: events (what happened) apart from accountants (what it costs).

Adjacency is add/remove of one unit throughout. Privacy-loss distributions (PLD) come from Google's dp-accounting
with pessimistic rounding (Koskela et al. 2020; Doroshenko et al. 2022, "Connect the dots"), so every figure is an
upper bound. The PLD figure is the cost of parameters that were fixed in advance.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from fedkit.errors import PrivacyError

ACCOUNTANT = "pld"
ADJACENCY = "add_remove"
FINE = 1e-4
"""Discretisation of the figures that are reported; the search for sigma and curves use ten times as much."""
_MAX_SIGMA = 1e6
# Orders below 2 do not converge for small sigma and only matter for an epsilon that protects nobody.
_RDP_ORDERS = tuple([2 + x / 10 for x in range(90)] + list(range(11, 64)) + [128, 256, 512, 1024])


@dataclass(frozen=True)
class GaussianEvent:
    """What happened: ``steps`` noisy sums over Poisson lots.

    Attributes:
        sample_rate: q, the chance that a unit joins a lot, in (0, 1].
        noise_multiplier: sigma, the noise's standard deviation over the sum's sensitivity.
        steps: how many sums were released.
    """

    sample_rate: float
    noise_multiplier: float
    steps: int


def epsilon(sample_rate: float, noise_multiplier: float, steps: int, delta: float) -> float:
    """The epsilon of ``steps`` Poisson-sampled Gaussian steps at ``delta``, by PLD; cached.

    Returns:
        An upper bound, within .01 of the exact value for the runs that people make (epsilon below 20).

    Raises:
        PrivacyError: a value out of its range, NaN included.

    Guarantee: the steps together are (epsilon, delta)-DP for one unit under add/remove adjacency.

    >>> round(epsilon(1.0, 10.0, 100, 1e-5), 3)
    4.377
    """
    return epsilon_of((GaussianEvent(sample_rate, noise_multiplier, steps),), delta)


def epsilon_of(events: Sequence[GaussianEvent], delta: float) -> float:
    """The epsilon of several events together, by PLD; cached, whatever their order.

    Raises:
        PrivacyError: a value out of its range, NaN included.
    """
    _check_delta(delta)
    for event in events:
        _check_event(event)
    counts: dict[tuple[float, float], int] = {}
    for event in events:
        key = (float(event.sample_rate), float(event.noise_multiplier))
        counts[key] = counts.get(key, 0) + int(event.steps)
    merged = tuple(sorted((q, sigma, steps) for (q, sigma), steps in counts.items() if steps))
    return _pld_epsilon(merged, float(delta), FINE)


def epsilon_curve(sample_rate: float, noise_multiplier: float, steps: Sequence[int], delta: float) -> list[float]:
    """The epsilon after each of several ascending step counts, for a curve over rounds.

    The last value equals :func:`epsilon`; those before it are computed coarsely (up to .02 above).

    Raises:
        PrivacyError: a value out of its range, or counts that do not ascend.
    """
    counts = [int(count) for count in steps]
    if any(b < a for a, b in itertools.pairwise(counts)):
        raise PrivacyError("step counts of a curve must ascend", code="FK305", remedy="sort them")
    if not counts:
        return []
    last = epsilon(sample_rate, noise_multiplier, counts[-1], delta)
    interval = _interval(((sample_rate, noise_multiplier, counts[-1]),), delta, 10 * FINE)
    single = _pld(sample_rate, noise_multiplier, interval)
    powers: dict[int, Any] = {}
    done, total, curve = 0, None, []
    for count in counts:
        more = count - done
        if more:
            if more not in powers:
                powers[more] = single.self_compose(more) if more > 1 else single
            total = powers[more] if total is None else total.compose(powers[more])
            done = count
        value = 0.0 if total is None else float(total.get_epsilon_for_delta(delta))
        curve.append(min(value, last))
    curve[-1] = last
    return curve


@lru_cache(maxsize=256)
def noise_multiplier_for(epsilon: float, delta: float, sample_rate: float, steps: int) -> float:
    """The smallest sigma, rounded UP to 4 decimals, whose epsilon does not exceed the target; cached.

    Args:
        epsilon: the target for all steps together.

    Raises:
        PrivacyError: a value out of its range, or a target that no noise below 1e6 reaches.

    Guarantee: ``epsilon(sample_rate, result, steps, delta) <= target``.
    """
    target = float(epsilon)
    if not (math.isfinite(target) and target > 0):
        raise PrivacyError(f"epsilon {target:g} is not above 0", code="FK301", remedy="set privacy.epsilon=3")
    _check_delta(delta)
    _check_event(GaussianEvent(sample_rate, 1.0, steps))
    if steps < 1:
        raise PrivacyError(f"steps {steps} is below 1: there is nothing to calibrate", code="FK305")

    def excess(log_sigma: float, fineness: float = 10 * FINE) -> float:
        found = _pld_epsilon(((float(sample_rate), math.exp(log_sigma), int(steps)),), float(delta), fineness)
        return math.log(max(found, 1e-12) / target)

    low, high = _bracket(excess, target)
    slope = (excess(high) - excess(low)) / (high - low)
    from scipy.optimize import brentq

    coarse = float(brentq(excess, low, high, xtol=2e-5, rtol=1e-9))
    # The search's own pessimism is taken back with one Newton step at the fine discretisation, then confirmed.
    refined = coarse - excess(coarse, FINE) / slope
    step, sigma = 1e-4, _round_up(math.exp(refined))
    while _fine_epsilon(sample_rate, sigma, steps, delta) > target:
        sigma, step = _round_up(sigma + step), 2 * step
    return sigma


# The parameter of noise_multiplier_for shadows the function of that name.
_fine_epsilon = epsilon


def rdp_epsilon(events: Sequence[GaussianEvent], delta: float) -> float:
    """The same cost by Renyi DP (Mironov et al. 2019, with the conversion of Canonne et al. 2020).

    An independent upper bound, looser than PLD; what a ledger enforces composes in this way.
    """
    import dp_accounting
    from dp_accounting import rdp

    accountant = rdp.RdpAccountant(_RDP_ORDERS)
    for event in events:
        gaussian = dp_accounting.GaussianDpEvent(event.noise_multiplier)
        accountant.compose(dp_accounting.PoissonSampledDpEvent(event.sample_rate, gaussian), event.steps)
    return float(accountant.get_epsilon(delta))


def _bracket(excess: Any, target: float) -> tuple[float, float]:
    high = math.log(1.0)
    if excess(high) > 0:
        low = high
        while excess(high) > 0:
            low, high = high, high + math.log(3.0)
            if high > math.log(_MAX_SIGMA):
                raise PrivacyError(
                    f"epsilon {target:g} cannot be reached with a noise multiplier below {_MAX_SIGMA:g}",
                    code="FK309",
                    remedy="raise privacy.epsilon, or lower federation.num_rounds or privacy.sample_rate",
                )
        return low, high
    low = high
    while excess(low) <= 0 and low > math.log(0.05):
        low, high = low - math.log(1.5), low
    return low, high


def _round_up(sigma: float) -> float:
    return math.ceil(sigma * 1e4 - 1e-9) / 1e4


@lru_cache(maxsize=4096)
def _pld_epsilon(merged: tuple[tuple[float, float, int], ...], delta: float, fineness: float) -> float:
    if not merged:
        return 0.0
    interval = _interval(merged, delta, fineness)
    total: Any = None
    for q, sigma, steps in merged:
        part = _pld(q, sigma, interval)
        part = part.self_compose(steps) if steps > 1 else part
        total = part if total is None else total.compose(part)
    return float(total.get_epsilon_for_delta(delta))


@lru_cache(maxsize=512)
def _interval(merged: tuple[tuple[float, float, int], ...], delta: float, fineness: float) -> float:
    """The discretisation: finer where one step's loss is tiny, coarser where epsilon is absurdly large.

    Either way the result stays an upper bound; only its tightness and the memory it takes are at stake.
    """
    spread = min(q * math.sqrt(math.expm1(min(1 / sigma**2, 50.0))) for q, sigma, _ in merged)
    interval = min(fineness, spread * fineness / FINE / 20)
    if any(steps > 1 for _, _, steps in merged) or merged[0][1] < 1:
        rough = rdp_epsilon([GaussianEvent(*event) for event in merged], delta)
        interval = max(interval, rough * 5e-6 * fineness / FINE)
    return interval


@lru_cache(maxsize=32)
def _pld(sample_rate: float, noise_multiplier: float, interval: float) -> Any:
    from dp_accounting.pld import privacy_loss_distribution as pld

    return pld.from_gaussian_mechanism(
        noise_multiplier,
        sampling_prob=sample_rate,
        value_discretization_interval=interval,
        pessimistic_estimate=True,
    )


def _check_delta(delta: float) -> None:
    if not (isinstance(delta, int | float) and 0 < delta < 1):
        raise PrivacyError(f"delta {delta} is not between 0 and 1", code="FK302", remedy="set privacy.delta=1e-5")


def _check_event(event: GaussianEvent) -> None:
    q, sigma, steps = event.sample_rate, event.noise_multiplier, event.steps
    if not 0 < q <= 1:
        raise PrivacyError(f"sample_rate {q:g} is not in (0, 1]", code="FK304", remedy="set privacy.sample_rate=0.05")
    if not (math.isfinite(sigma) and sigma > 0):
        raise PrivacyError(
            f"noise_multiplier {sigma:g} is not above 0", code="FK303", remedy="set privacy.noise_multiplier=1.2"
        )
    if steps != steps or steps != int(steps) or steps < 0:
        raise PrivacyError(f"steps {steps} is not a whole number of at least 0", code="FK305")
