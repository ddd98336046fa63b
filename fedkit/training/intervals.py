"""Estimates with 95 % intervals from statistics that carry noise.

Every metric is a ratio of two noisy statistics, and the denominator may itself be near 0. Fieller's interval (1954)
holds there too: it keeps each ratio r for which ``numerator - r * denominator`` is within 1.96 of its own standard
deviations of 0, and is unbounded where the denominator cannot be told from 0.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]

Z = 1.959963984540054
_LEVELS = (0.025, 0.5, 0.975)
_GRID = 65


@dataclass(frozen=True)
class Estimate:
    """A metric and its 95 % interval; all three None where it is undefined or the interval excludes nothing."""

    value: float | None
    low: float | None
    high: float | None


UNKNOWN = Estimate(None, None, None)


def bounded(value: float, half_width: float, low: float, high: float) -> Estimate:
    """An estimate and its symmetric interval within the range of the metric; see :func:`_within`."""
    return _within(value, value - half_width, value + half_width, low, high)


def ratio(point: Float64, replicates: Float64, low: float, high: float) -> Estimate:
    """Numerator over denominator with Fieller's interval, cut to the metric's range.

    Args:
        point: float64 [2], numerator and denominator as observed.
        replicates: float64 [r, 2], the same with noise and sampling drawn anew around what was observed.
        low: least possible value; -inf where there is none.
        high: largest possible value.

    Returns:
        Unknown where the interval is unbounded, or covers the whole range.

    >>> ratio(np.array([75.0, 100.0]), np.array([[74.0, 100.0], [76.0, 100.0]]), 0.0, 1.0).value
    0.75
    """
    n, d = float(point[0]), float(point[1])
    (vn, cov), (_, vd) = np.cov(replicates, rowvar=False)
    a = d * d - Z * Z * vd
    if d <= 0 or a <= 0:
        return UNKNOWN
    b, c = n * d - Z * Z * cov, n * n - Z * Z * vn
    root = math.sqrt(max(b * b - a * c, 0.0))
    return _within(n / d, (b - root) / a, (b + root) / a, low, high)


def total_deviation(deviations: Float64, replicates: Float64, count: Float64, count_replicates: Float64) -> Estimate:
    """Sum of absolute deviations over a count, such as the expected calibration error: the noise's share taken out.

    The sum of absolute noisy deviations is biased upwards. The lower end subtracts what noise alone can add (triangle
    inequality); the value and the upper end are those sums that, spread over the bins in proportion to their noise,
    reach what was observed in half and in 2.5 % of draws.

    Args:
        deviations: float64 [bins], observed.
        replicates: float64 [r, bins], redrawn around the observed ones.
        count: float64 scalar, the observed number of units.
        count_replicates: float64 [r].
    """
    n = float(count)
    if n <= Z * float(np.std(count_replicates)):
        return UNKNOWN
    errors = replicates - deviations
    observed = float(np.abs(deviations).sum())
    scale = errors.std(0)
    shares = scale / scale.sum() if scale.sum() > 0 else np.full(len(scale), 1 / len(scale))
    grid = np.linspace(0.0, 1.0, _GRID) * n
    drawn = np.abs(grid[:, None, None] * shares + errors[None, :256]).sum(2)
    least, middle, _ = np.quantile(drawn, _LEVELS, axis=1)
    noise_alone = float(np.quantile(np.abs(errors).sum(1), _LEVELS[2]))
    value = float(np.interp(observed, np.maximum.accumulate(middle), grid))
    high = float(np.interp(observed, np.maximum.accumulate(least), grid))
    return _within(value / n, min(value, observed - noise_alone) / n, max(value, high) / n, 0.0, 1.0)


def _within(value: float, low: float, high: float, least: float, most: float) -> Estimate:
    """Cut to [least, most]; an estimate beyond it takes its interval along to the bound, lest it shrink to a point."""
    if value > most:
        low, value = min(low, most - (value - low)), most
    if value < least:
        high, value = max(high, least + (high - value)), least
    low, high = float(max(low, least)), float(min(high, most))
    if low <= least and high >= most:
        return UNKNOWN
    return Estimate(float(value), low, high)
