"""A second accountant that bounds epsilon from BELOW, written from the definition: it shares no code with the first.

The privacy loss of one Poisson-sampled Gaussian step (both directions of add/remove) is put on a grid, every loss
rounded DOWN, and composed by one FFT. The result never exceeds the true epsilon, so a claim below it is false.
(Koskela et al. 2020 bound from above by rounding up.)
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

Float64 = NDArray[np.float64]

MIN_SIGMA = 0.05
"""Losses below this noise overflow; a mechanism with less noise costs at least as much as one with this."""
_CELLS = 2**18
_WINDOW = 2**21
_ROUNDING = 0.01
_REACH = 8.5


Steps = tuple[float, float, int]
"""Sampling rate, noise over sensitivity, and how many such steps."""


@lru_cache(maxsize=256)
def epsilon_at_least(events: tuple[Steps, ...], delta: float) -> float:
    """A lower bound on the epsilon of Poisson-sampled Gaussian steps together at ``delta``, add/remove of one unit.

    Args:
        events: (sampling rate, noise over sensitivity, steps) each; noise below .05 counts as .05, which only lowers
            the bound.

    Returns:
        At most the true value; .005 below it for a few hundred steps, .01 to .08 for thousands. 0 where delta is too
        small for double precision (below about 1e-11 a thousand steps). Never above 700.

    >>> 4.36 < epsilon_at_least(((1.0, 10.0, 100),), 1e-5) <= 4.37718  # the closed form of one Gaussian of sigma 1
    True
    """
    kept = [(min(float(q), 1.0), max(float(sigma), MIN_SIGMA), int(steps)) for q, sigma, steps in events]
    kept = [event for event in kept if event[0] > 0 and event[2] > 0]
    return max((_one_direction(kept, delta, remove) for remove in (True, False)), default=0.0) if kept else 0.0


def _one_direction(events: list[Steps], delta: float, remove: bool) -> float:
    count = sum(steps for _, _, steps in events)
    spread = math.sqrt(sum(steps * q**2 * math.expm1(min(1 / sigma**2, 50.0)) for q, sigma, steps in events))
    h = max(min(_ROUNDING / count, 0.04 * spread / count), max(_range(q, s, remove)[2] for q, s, _ in events) / _CELLS)
    parts = [(*_one_step(q, sigma, h, remove), steps) for q, sigma, steps in events]
    low, high = _window(parts, h)
    if high - low > _WINDOW * h:
        h *= (high - low) / (_WINDOW * h) * 1.01
        parts = [(*_one_step(q, sigma, h, remove), steps) for q, sigma, steps in events]
        low, high = _window(parts, h)
    lowest, total = _composed(parts, h, low, high)
    # What the transform's own rounding may have added.
    return _solve(lowest, total, h, delta + max(1e-3 * delta, 1e-14 * count))


def _range(q: float, sigma: float, remove: bool) -> tuple[float, float, float]:
    """Least and largest loss of one step but for the far tails, and their distance."""
    reach = _REACH * sigma
    if remove:
        least, most = _loss(-reach, q, sigma), _loss(1 + reach, q, sigma)
    else:
        least, most = -_loss(reach, q, sigma), -_loss(-reach, q, sigma)
    return least, most, most - least


def _one_step(q: float, sigma: float, h: float, remove: bool) -> tuple[int, Float64]:
    """Grid index of the first loss, and the masses from there; every loss rounded down, the far tails left out."""
    least, most, _ = _range(q, sigma, remove)
    first, last = math.floor(least / h), math.ceil(most / h)
    edges: Float64 = h * np.arange(first, last + 2, dtype=np.float64)
    if remove:
        x = _where(edges, q, sigma)
        below = (1 - q) * ndtr(x / sigma) + q * ndtr((x - 1) / sigma)
        above = (1 - q) * ndtr(-x / sigma) + q * ndtr((1 - x) / sigma)
    else:
        x = _where(-edges, q, sigma)
        below, above = ndtr(-x / sigma), ndtr(x / sigma)
    # Differences on the side where they are small numbers, not nearly 1.
    masses = np.where(below[:-1] < 0.5, np.diff(below), -np.diff(above))
    return first, np.maximum(masses, 0.0)


def _loss(x: float, q: float, sigma: float) -> float:
    return float(np.logaddexp(math.log1p(-q) if q < 1 else -math.inf, math.log(q) + (2 * x - 1) / (2 * sigma**2)))


def _where(loss: Float64, q: float, sigma: float) -> Float64:
    """The outcome with a given log of (mixture density over plain density); -inf below what is possible."""
    with np.errstate(invalid="ignore", divide="ignore"):
        # log(e^loss - (1 - q)), stable for large and for small losses.
        inner = np.where(loss > 1, loss + np.log1p(-(1 - q) * np.exp(-loss)), np.log(np.expm1(np.minimum(loss, 1)) + q))
    inner = np.where(np.isnan(inner), -np.inf, inner)
    return sigma**2 * (inner - math.log(q)) + 0.5


def _window(parts: list[tuple[int, Float64, int]], h: float) -> tuple[float, float]:
    """What the sum of all losses leaves with chance below 2e-15."""
    return -_tail(parts, -h), _tail(parts, h)


def _tail(parts: list[tuple[int, Float64, int]], h: float) -> float:
    """A value that the sum of all losses times the sign of h exceeds with chance below 1e-15 (Chernoff)."""
    coarse = []
    best = 0.0
    for first, masses, steps in parts:
        values = h * np.arange(first, first + len(masses), dtype=np.float64)
        best += steps * float(values.max())
        # Masses of neighbours together at the largest of their losses: an upper bound still.
        starts = np.arange(0, len(values), len(values) // 20_000 + 1)
        together = np.add.reduceat(masses, starts)
        kept = together > 0
        coarse.append((np.log(together[kept]), np.maximum.reduceat(values, starts)[kept], steps))
    for exponent in np.geomspace(1e-3, 1e3, 61):
        total = 34.6
        for logs, values, steps in coarse:
            terms = logs + exponent * values
            total += steps * float(terms.max() + np.log(np.exp(terms - terms.max()).sum()))
        best = min(best, total / float(exponent))
    return best


def _composed(parts: list[tuple[int, Float64, int]], h: float, low: float, high: float) -> tuple[float, Float64]:
    """The sum of all losses: its smallest value within the window, and the masses from there."""
    start = math.floor(low / h)
    size = 2 ** math.ceil(math.log2(max(2, math.ceil(high / h) - start + 2)))
    product, offset = np.ones(size // 2 + 1, dtype=np.complex128), start
    for first, masses, steps in parts:
        centre = first + len(masses) // 2
        wrapped = np.bincount((np.arange(len(masses)) + first - centre) % size, masses, size)
        product *= np.fft.rfft(wrapped) ** steps
        offset -= steps * centre
    return start * h, np.roll(np.fft.irfft(product, size), -(offset % size))


def _solve(lowest: float, masses: Float64, h: float, delta: float) -> float:
    """The largest grid point at which the hockey-stick divergence still reaches delta; 0 if none."""
    losses = lowest + h * np.arange(len(masses))
    positive = losses > 0
    losses, masses = losses[positive], np.maximum(masses[positive], 0.0)
    if not len(losses):
        return 0.0
    above = np.cumsum(masses[::-1])[::-1]
    # Scaled by the largest loss, else exp overflows.
    discounted = np.cumsum((masses * np.exp(-np.minimum(losses, 700.0)))[::-1])[::-1]
    divergence = above - np.exp(np.minimum(losses, 700.0)) * discounted
    reached = np.flatnonzero(divergence >= delta)
    return float(losses[reached[-1]]) if len(reached) else 0.0
