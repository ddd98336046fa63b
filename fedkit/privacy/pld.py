"""Privacy-loss distributions of Poisson-sampled Gaussian steps: how fine, how composed, what epsilon they come to.

The algorithms are those of Google's dp-accounting: "Connect the dots" for one step (Doroshenko et al. 2022, Algorithm
1), a Fourier transform for many (Koskela et al. 2020), a Chernoff bound for what is cut off the tails. They are written
in whole arrays, so that a plan takes a tenth of the time, and without SciPy, whose import takes longer still;
dp-accounting is the oracle that they are held to (tests/privacy/test_pld.py). Rounding is pessimistic throughout.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]

FINE = 1e-4
"""Discretisation of the figures that are reported; the search for sigma and curves use ten times as much."""
TAIL = 1e-15
"""Mass that one composition may cut off; it counts as an infinite loss."""
_BUCKETS = 2**17
# The normal quantile of exp(-50) / 2: what lies beyond it on either side is no part of any double.
_REACH = 9.745474864965935
_ORDERS = 20
# Of losses above, the exponential counts as 0: so it is left out while it still has all its digits.
_VANISHED = 650.0
_CHUNK = 2**13


@dataclass(frozen=True, eq=False)
class Losses:
    """A pessimistic distribution of privacy losses on the whole multiples of an interval.

    Attributes:
        first: the least loss, in intervals.
        masses: float64[n], the chance of each loss from the first on; rounding may leave one a hair below 0.
        infinite: the chance of an infinite loss.
    """

    interval: float
    first: int
    masses: Float64
    infinite: float


Pair = tuple[Losses, ...]
"""The losses of a mechanism where a unit is removed and where one is added; one alone where both are alike."""


def interval_of(merged: tuple[tuple[float, float, int], ...], rough: float, fineness: float) -> float:
    """The discretisation: finer where one step's loss is tiny, coarser where losses span an absurdly large range.

    Args:
        merged: sampling rate, noise multiplier and steps of each kind of step.
        rough: a Renyi bound on their epsilon.

    Either way the result stays an upper bound; only its tightness and the memory it takes are at stake.
    """
    spread = min(q * math.sqrt(math.expm1(min(1 / sigma**2, 50.0))) for q, sigma, _ in merged)
    interval = min(fineness, spread * fineness / FINE / 20)
    interval = max(interval, max(_reach(q, sigma) for q, sigma, _ in merged) * fineness / FINE / _BUCKETS)
    if any(steps > 1 for _, _, steps in merged) or merged[0][1] < 1:
        # In steps of a tenth, so that distributions are shared by what costs nearly the same.
        least = rough * 5e-6 * fineness / FINE
        interval = max(interval, 1.1 ** math.ceil(math.log(least, 1.1)) if least > interval else 0.0)
    return interval


def _reach(q: float, sigma: float) -> float:
    """The largest privacy loss of one step that is not cut off as an all but impossible tail (10 sigma)."""
    most = (1 + 20 * sigma) / (2 * sigma**2)
    return most + math.log(q) if most + math.log(q) > 1 else math.log1p(q * math.expm1(min(most, 50.0)))


@lru_cache(maxsize=8)
def one_step(sample_rate: float, noise_multiplier: float, interval: float) -> Pair:
    """The pessimistic distributions of one step; the unit's contribution has length 1."""
    first, deltas = _removed(sample_rate, noise_multiplier, interval)
    removed = _connected(interval, first, deltas)
    if sample_rate == 1:
        return (removed,)
    last = first + len(deltas) - 1
    return removed, _connected(interval, -last, _added(sample_rate, noise_multiplier, interval, first, deltas))


def composed(kinds: tuple[tuple[float, float, int], ...], interval: float) -> Pair:
    """The distributions of several kinds of steps together, each its sampling rate, noise multiplier and steps."""
    singles = [(one_step(q, sigma, interval), steps) for q, sigma, steps in kinds]
    alike = all(len(single) == 1 for single, _ in singles)
    return tuple(_sum([(single[way], steps) for single, steps in singles]) for way in ((0,) if alike else (0, -1)))


def epsilon_at(pair: Pair, delta: float) -> float:
    """The least epsilon of at least 0 at ``delta``; infinite where the infinite losses alone exceed it."""
    return max(_epsilon(losses, delta) for losses in pair)


def _removed(q: float, sigma: float, interval: float) -> tuple[int, Float64]:
    """First loss and hockey-stick divergences of (1-q) N(0) + q N(-1) from N(0), which a loss is largest below."""
    least, most = _loss(q, sigma, _REACH * sigma), _loss(q, sigma, -_REACH * sigma - 1)
    first, last = math.floor(least / interval), math.ceil(most / interval)
    losses: Float64 = np.arange(first, last + 1, dtype=np.float64) * interval
    deltas: Float64 = -np.expm1(np.minimum(losses, 0.0))
    inside = losses > (math.log1p(-q) if q < 1 else -math.inf)
    losses = losses[inside]
    x = -0.5 - sigma**2 * _unsampled(losses, q)
    near, far = _below(x / sigma), _below((x + 1) / sigma)
    deltas[inside] = (1 - q) * near + q * far - _scaled(losses, near)
    return first, deltas


def _added(q: float, sigma: float, interval: float, first: int, removed: Float64) -> Float64:
    """The same of N(0) from (1-q) N(0) + q N(1) on the mirrored grid; q is below 1, and no loss above -log(1-q)."""
    losses: Float64 = -np.arange(first, first + len(removed), dtype=np.float64) * interval
    # The two distributions change places: a sum of what is positive for losses up to 0.
    deltas: Float64 = -np.expm1(losses) + np.exp(losses) * removed
    deltas[losses >= -math.log1p(-q)] = 0.0
    inside = (losses > 0) & (losses < -math.log1p(-q))
    losses = losses[inside]
    x = 0.5 + sigma**2 * _unsampled(-losses, q)
    near = _below(x / sigma)
    deltas[inside] = near - _scaled(losses, (1 - q) * near + q * _below((x - 1) / sigma))
    return deltas[::-1]


def _loss(q: float, sigma: float, x: float) -> float:
    """log((1-q) + q N(-1) / N(0)) at x."""
    whole = (-0.5 - x) / sigma**2
    if q == 1:
        return whole
    return float(np.logaddexp(math.log(q) + whole, math.log1p(-q)))


def _unsampled(losses: Float64, q: float) -> Float64:
    """The loss without sampling that sampling makes of: log(1 + (exp(loss) - 1) / q)."""
    if q == 1:
        return losses
    with np.errstate(divide="ignore"):  # a loss at the edge comes from an infinite one
        return np.log1p(np.maximum(np.expm1(losses) / q, -1.0))


def _below(x: Float64) -> Float64:
    """The standard normal distribution function, by the C library's erfc: within its last bit far into the tail."""
    return 0.5 * np.fromiter(map(math.erfc, (x * -math.sqrt(0.5)).tolist()), np.float64, len(x))


def _scaled(losses: Float64, chances: Float64) -> Float64:
    """exp(loss) * chance, always subtracted: none where a chance has lost its digits, at the end of a double."""
    half = np.exp(np.minimum(losses / 2, 700.0))  # the whole exponential may leave the range of a double
    return half * np.where(chances < 1e-300, 0.0, chances) * half


def _connected(interval: float, first: int, deltas: Float64) -> Losses:
    """Connect the dots: the distribution on the grid whose divergences at its points are those given."""
    deltas = np.minimum.accumulate(np.clip(deltas, 0.0, 1.0))
    if len(deltas) == 1:
        return Losses(interval, first, 1 - deltas, float(deltas[0]))
    steps, more = np.diff(deltas), math.expm1(interval)
    masses = np.empty_like(deltas)
    masses[0] = 1 - deltas[0] + steps[0] / more
    # Not by exp(interval), of which the last bit alone is a share of 1e-16 / interval of every mass.
    masses[1:-1] = (steps[1:] - steps[:-1]) / more - steps[:-1]
    masses[-1] = steps[-1] / math.expm1(-interval)
    return Losses(interval, first, np.maximum(masses, 0.0), float(deltas[-1]))


def _sum(parts: list[tuple[Losses, int]]) -> Losses:
    """The distribution of the sum of so many losses of each kind."""
    (only, count), interval = parts[0], parts[0][0].interval
    if len(parts) == 1 and count == 1:
        return only
    low, high = _kept(parts)
    # What lies outside wraps around; it is at most TAIL, which is added to the infinite losses.
    size = _fast_size(max(high - low + 1, *(len(losses.masses) for losses, _ in parts)))
    spectra = [_power(np.fft.rfft(losses.masses, size), steps) for losses, steps in parts]
    masses = np.fft.irfft(math.prod(spectra[1:], start=spectra[0]), size)
    kept = np.roll(masses, -(low % size))[: high - low + 1]
    infinite = TAIL - math.expm1(sum(steps * math.log1p(-losses.infinite) for losses, steps in parts))
    return Losses(interval, sum(losses.first * steps for losses, steps in parts) + low, kept, infinite)


def _kept(parts: list[tuple[Losses, int]]) -> tuple[int, int]:
    """Chernoff bounds: the sum of so many indices of each kind lies outside with a chance of at most TAIL."""
    length = max(len(losses.masses) for losses, _ in parts)
    grown = sum(steps * _log_moments(losses, length) for losses, steps in parts)
    high, low = (grown + math.log(2 / TAIL)) * length / np.arange(1, _ORDERS + 1) * [[1], [-1]]
    most = sum((len(losses.masses) - 1) * steps for losses, steps in parts)
    return max(0, math.floor(low.max())), min(most, math.ceil(high.min()))


@lru_cache(maxsize=8)
def _log_moments(losses: Losses, length: int) -> Float64:
    """float64[2, 20]: the logarithm of the mean of exp(k index / length) for k from 1 on, and for k from -1 down."""
    growth = np.exp(np.arange(len(losses.masses)) / length)
    totals = np.empty((2, _ORDERS))
    for way, factor in enumerate((growth, 1 / growth)):
        moments = losses.masses
        for order in range(_ORDERS):
            moments = moments * factor
            totals[way, order] = moments.sum()
    return np.log(totals)


def _power(values: NDArray[np.complex128], exponent: int) -> NDArray[np.complex128]:
    """By squaring: faster than a complex power and as exact."""
    result: NDArray[np.complex128] | None = None
    while True:
        if exponent & 1:
            result = values if result is None else result * values
        exponent >>= 1
        if not exponent and result is not None:
            return result
        values = values * values


def _fast_size(least: int) -> int:
    """The smallest size of at least so many that has the factors 2, 3 and 5 only."""
    best = 1 << (least - 1).bit_length()
    for threes in range(10):
        for fives in range(7):
            odd = 3**threes * 5**fives
            best = min(best, odd << max(0, (-(-least // odd) - 1).bit_length()))
    return best


def _epsilon(losses: Losses, delta: float) -> float:
    """From the largest loss down: at epsilon, delta is the sum of (1 - exp(epsilon - loss)) over the larger losses."""
    if losses.infinite > delta:
        return math.inf
    upper, lower = losses.infinite, 0.0
    most = losses.first + len(losses.masses) - 1
    for start in range(0, min(len(losses.masses), most), _CHUNK):  # losses above 0 only
        at = np.arange(most - start, max(0, losses.first - 1, most - start - _CHUNK), -1) * losses.interval
        masses, falls = losses.masses[::-1][start : start + len(at)], np.exp(-at)
        falls[at > _VANISHED] = 0.0
        uppers = np.cumsum(np.concatenate(([upper], masses)))
        lowers = np.cumsum(np.concatenate(([lower], masses * falls)))
        # Losses so large that their exponential vanishes: epsilon is one of them.
        if not falls[0] and len(vanished := np.flatnonzero((lowers[1:] == 0) & (uppers[1:] >= delta))):
            return float(at[vanished[0]])
        # The first loss that is not above the epsilon that those before it make.
        reached = (lowers[:-1] > 0) & ((uppers[:-1] - delta) * falls >= lowers[:-1])
        if reached[index := int(np.argmax(reached))]:
            return math.log(uppers[index] - delta) - math.log(lowers[index])
        upper, lower = float(uppers[-1]), float(lowers[-1])
    return math.log((upper - delta) / lower) if upper - lower > delta else 0.0
