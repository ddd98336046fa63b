"""What Poisson-sampled Gaussian steps cost: events (what happened) apart from accountants (what it costs).

Adjacency is add/remove of one unit throughout. Steps without sampling are one Gaussian, whose cost is known exactly
(:mod:`fedkit.privacy.gaussian`); all else is composed by privacy-loss distributions (PLD, :mod:`fedkit.privacy.pld`)
with pessimistic rounding, so every figure is an upper bound. It is the cost of parameters that were fixed in advance.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from fedkit.errors import PrivacyError
from fedkit.privacy import gaussian
from fedkit.privacy.pld import FINE, composed, epsilon_at, interval_of
from fedkit.privacy.rough import rough_epsilon

Merged = tuple[tuple[float, float, int], ...]
"""Sampling rate, noise multiplier and steps of each kind of step."""

ACCOUNTANT = "pld"
ADJACENCY = "add_remove"
MIN_SIGMA, MAX_SIGMA = 0.1, 1e4
"""The range over which the costs were validated (tests/privacy/test_rdp_filter.py); less noise protects nobody."""
MIN_DELTA = 1e-12
"""Below it the mass that a PLD leaves out of its tails is no longer negligible."""
MIN_RATE = 1e-6
MAX_STEPS = 10**8
_PLD_STEPS = 10**6
# What composing adds to delta, a step: 15 times the most that was found against the closed form of unsampled steps
# (tests/privacy/test_precision.py), and the largest share of delta that may be set aside for it.
_FFT_ERROR, _SHARE = 1e-15, 1e-2
# A share of delta for the sums over hundreds of thousands of losses from which it is read.
_SUM_ERROR = 1e-9
# Beyond it, at an epsilon of tens of thousands, the exponential of an interval leaves the range of a double.
_MAX_INTERVAL = 50.0
_CURVE = 100
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
        An upper bound, within .01 of the exact value for the runs that people make (epsilon below 20). The looser
        Renyi bound where a PLD would lose its precision: beyond 1e6 steps, or beyond ``delta * 1e13``.

    Raises:
        PrivacyError: a value out of its range, NaN included.

    Guarantee: the steps together are (epsilon, delta)-DP for one unit under add/remove adjacency.

    >>> round(epsilon(1.0, 10.0, 100, 1e-5), 3)
    4.377
    """
    return epsilon_of((GaussianEvent(sample_rate, noise_multiplier, steps),), delta)


def epsilon_of(events: Sequence[GaussianEvent], delta: float, fineness: float = FINE) -> float:
    """The epsilon of several events together, by PLD; cached, whatever their order.

    Args:
        fineness: the discretisation; a coarser one is faster and farther above the truth.

    Raises:
        PrivacyError: a value out of its range, NaN included.
    """
    _check_delta(delta)
    for event in events:
        check_event(event)
    return _epsilon(merged(events), float(delta), fineness)


def merged(events: Sequence[GaussianEvent]) -> Merged:
    """Equal steps together; all that are without sampling as the one Gaussian that they are, last."""
    counts: dict[tuple[float, float], int] = {}
    for event in events:
        key = (float(event.sample_rate), float(event.noise_multiplier))
        counts[key] = counts.get(key, 0) + int(event.steps)
    sampled = sorted((q, sigma, steps) for (q, sigma), steps in counts.items() if steps and q < 1)
    shift = gaussian.shift_of((sigma, steps) for (q, sigma), steps in sorted(counts.items()) if q == 1)
    return (*sampled, (1.0, 1 / shift, 1)) if shift else tuple(sampled)


def epsilon_curve(
    sample_rate: float, noise_multiplier: float, steps: Sequence[int], delta: float, *, coarse: bool = False
) -> list[float]:
    """The epsilon after each of several ascending step counts, for a curve over rounds.

    The last value equals :func:`epsilon`; those before it, and with ``coarse`` the last too, are up to .02 above.

    Raises:
        PrivacyError: a value out of its range, or counts that do not ascend.
    """
    counts = [int(count) for count in steps]
    if any(b < a for a, b in itertools.pairwise(counts)):
        raise PrivacyError("step counts of a curve must ascend", code="FK305", remedy="sort them")
    if not counts:
        return []
    _check_delta(delta)
    check_event(GaussianEvent(sample_rate, noise_multiplier, counts[-1]))
    shown = sorted(set(counts))
    # A long curve is computed at some of its counts, the last among them; those between take the next one's.
    shown = shown[:: -max(1, len(shown) // _CURVE)][::-1]
    values = _curve(float(sample_rate), float(noise_multiplier), shown, float(delta))
    last = values[-1] if coarse else epsilon(sample_rate, noise_multiplier, counts[-1], delta)
    curve = [min(values[bisect_left(shown, count)], last) if count else 0.0 for count in counts]
    curve[-1] = last
    return curve


def _curve(q: float, sigma: float, counts: Sequence[int], delta: float) -> list[float]:
    whole = ((q, sigma, counts[-1]),)
    if q == 1:
        return [epsilon(q, sigma, count, delta) for count in counts]
    if not counts[-1] or not _holds(whole, delta):
        return [_without_pld(((q, sigma, count),), delta) if count else 0.0 for count in counts]
    interval = interval_of(whole, rough_epsilon(whole, delta), 10 * FINE)
    if interval > _MAX_INTERVAL:
        return [_without_pld(((q, sigma, count),), delta) if count else 0.0 for count in counts]
    curve = []
    for count in counts:
        part = composed(((q, sigma, count),), interval) if count else None
        value = 0.0 if part is None else epsilon_at(part, _exact_part(delta, count))
        curve.append(value if math.isfinite(value) else _without_pld(((q, sigma, count),), delta))
    return curve


def rdp_epsilon(events: Sequence[GaussianEvent], delta: float) -> float:
    """The same cost by Renyi DP (Mironov et al. 2019, with the conversion of Canonne et al. 2020).

    An independent upper bound, looser than PLD; what a ledger enforces composes in this way.
    """
    import dp_accounting
    from absl import logging
    from dp_accounting import rdp

    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        accountant = rdp.RdpAccountant(_RDP_ORDERS)
        for event in events:
            gaussian = dp_accounting.GaussianDpEvent(event.noise_multiplier)
            accountant.compose(dp_accounting.PoissonSampledDpEvent(event.sample_rate, gaussian), event.steps)
        return float(accountant.get_epsilon(delta))
    finally:
        logging.set_verbosity(verbosity)


@lru_cache(maxsize=4096)
def _epsilon(merged: Merged, delta: float, fineness: float) -> float:
    if not merged:
        return 0.0
    if merged[0][0] == 1:
        return gaussian.epsilon_at(1 / merged[0][1], delta)
    if not _holds(merged, delta):
        return _without_pld(merged, delta)
    interval = interval_of(merged, rough_epsilon(merged, delta), fineness)
    if interval > _MAX_INTERVAL:
        return _without_pld(merged, delta)
    found = epsilon_at(composed(merged, interval), _exact_part(delta, sum(steps for *_, steps in merged)))
    return found if math.isfinite(found) else _without_pld(merged, delta)


def _without_pld(merged: Merged, delta: float) -> float:
    found = _rdp(merged, delta)
    if found > 0:
        return found
    # Zero is what the library answers where its sums cancel; sampling only ever lowers the cost of a step.
    return gaussian.epsilon_at(gaussian.shift_of((sigma, steps) for _, sigma, steps in merged), delta)


def _holds(merged: Merged, delta: float) -> bool:
    """Whether a PLD keeps its precision: the FFT's rounding errors grow with the steps, and delta must dwarf them."""
    return sum(steps for _, _, steps in merged) <= min(_PLD_STEPS, delta * _SHARE / _FFT_ERROR)


def _exact_part(delta: float, steps: int) -> float:
    """What of delta is left once the rounding errors of composing so many steps and of sums are set aside."""
    return delta * (1 - _SUM_ERROR) - steps * _FFT_ERROR


@lru_cache(maxsize=4096)
def _rdp(merged: Merged, delta: float) -> float:
    return rdp_epsilon([GaussianEvent(*event) for event in merged], delta)


def _check_delta(delta: float) -> None:
    if not (isinstance(delta, int | float) and 0 < delta < 1):
        raise PrivacyError(f"delta {delta} is not between 0 and 1", code="FK302", remedy="set privacy.delta=1e-5")
    if delta < MIN_DELTA:
        message = f"delta {delta:g} is below {MIN_DELTA:g}, the least that can be computed"
        raise PrivacyError(message, code="FK302", remedy="set privacy.delta=1e-9")


def shown_count(count: float) -> str:
    """A count for people; whole numbers may be larger than any float.

    >>> shown_count(1900), shown_count(10**400)
    ('1900', 'more than 1e+300')
    """
    return "more than 1e+300" if isinstance(count, int) and count > 1e300 else f"{float(count):g}"


def check_event(event: GaussianEvent) -> None:
    """Refuse an event that cannot be priced.

    Raises:
        PrivacyError: FK303, FK304, FK305.
    """
    q, sigma, steps = event.sample_rate, event.noise_multiplier, event.steps
    if not 0 < q <= 1:
        raise PrivacyError(f"sample_rate {q:g} is not in (0, 1]", code="FK304", remedy="set privacy.sample_rate=0.05")
    if q < MIN_RATE:
        message = f"sample_rate {q:g} is below {MIN_RATE:g}"
        raise PrivacyError(message, code="FK304", remedy="set privacy.sample_rate=0.05")
    if not (math.isfinite(sigma) and sigma >= MIN_SIGMA):
        raise PrivacyError(
            f"noise_multiplier {sigma:g} is not at least {MIN_SIGMA:g}: less noise protects nobody",
            code="FK303",
            remedy="set privacy.noise_multiplier=1.2, or privacy=none",
        )
    if sigma > MAX_SIGMA:
        message = f"noise_multiplier {sigma:g} is above {MAX_SIGMA:g}"
        raise PrivacyError(message, code="FK303", remedy="set privacy.noise_multiplier=1.2")
    if steps != steps or steps < 0 or (steps <= MAX_STEPS and steps != int(steps)):
        raise PrivacyError(
            f"steps {steps} is not a whole number of at least 0", code="FK305", remedy="set training.local_steps=1"
        )
    if steps > MAX_STEPS:
        raise PrivacyError(
            f"{shown_count(steps)} steps in all rounds together are above {MAX_STEPS:g}",
            code="FK305",
            remedy="lower federation.num_rounds, training.local_steps or training.local_epochs",
        )
