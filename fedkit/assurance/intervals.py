"""Linear figures of one noisy histogram, their variance, and intervals of their ratios."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]
Z = 1.959963984540054
"""Half the width of a 95 % interval, in standard deviations."""


@dataclass(frozen=True)
class Total:
    """How many units there are, from the totals of all columns together.

    Attributes:
        variance: of ``value``, from the noise.
    """

    value: float
    variance: float


@dataclass(frozen=True)
class NoisyCells:
    """A column's cells, adjusted so that they add up to the estimated number of units.

    Attributes:
        counts: float64 [cells]; unbiased, may be negative.
        noise_variance: of one cell before the adjustment.
    """

    counts: Float64
    noise_variance: float
    total: Total

    def value(self, a: Float64) -> float:
        """The figure ``sum(a * counts)``."""
        return float(a @ self.counts)

    def covariance(self, a: Float64, b: Float64) -> float:
        """Of two figures: what the adjustment leaves of the cells' own noise, and that of the total."""
        left, right = float(a.mean()), float(b.mean())
        return self.noise_variance * float((a - left) @ (b - right)) + left * right * self.total.variance

    def deviation(self, a: Float64) -> float:
        """Standard deviation of ``value(a)``."""
        return math.sqrt(max(0.0, self.covariance(a, a)))

    def ratio(self, a: Float64, b: Float64, z: float = Z) -> tuple[float, float]:
        """The interval of ``value(a) / value(b)`` (Fieller 1954): exact for Gaussian noise, however large.

        Returns:
            Low and high; infinite where the denominator cannot be told from 0.
        """
        top, bottom = self.value(a), self.value(b)
        square = bottom**2 - z**2 * self.covariance(b, b)
        if square <= 0 or bottom <= 0:
            return -math.inf, math.inf
        middle = (top * bottom - z**2 * self.covariance(a, b)) / square
        rest = (top**2 - z**2 * self.covariance(a, a)) / square
        half = math.sqrt(max(0.0, middle**2 - rest))
        return middle - half, middle + half

    def below_edges(self, q: float) -> tuple[Float64, Float64]:
        """How many more than a share q of the values lie below each edge of the bins; the last cell is no bin.

        Returns:
            Excess and its standard deviation, float64 [bins + 1]: ``value`` and ``deviation`` of a figure an edge.
        """
        present = self.counts[:-1]
        bins, edges = len(present), np.arange(len(self.counts))
        mean = (edges - q * bins) / len(self.counts)
        squares = edges * (1 - q) ** 2 + (bins - edges) * q**2
        own = self.noise_variance * (squares - len(self.counts) * mean**2)
        excess = np.append(0.0, np.cumsum(present)) - q * present.sum()
        return excess, np.sqrt(np.maximum(own + mean**2 * self.total.variance, 0.0))


def combined_total(columns: list[Float64], noise_variance: float) -> Total:
    """The number of units by least squares: each column's total estimates it, with k times the noise of its k cells.

    >>> round(combined_total([np.array([3.0, 5.0]), np.array([4.0, 4.0, 2.0])], 1.0).variance, 6)
    1.2
    """
    weights = np.array([1 / len(counts) for counts in columns])
    totals = np.array([counts.sum() for counts in columns])
    return Total(float(weights @ totals / weights.sum()), noise_variance / float(weights.sum()))


def adjusted(counts: Float64, noise_variance: float, total: Total) -> NoisyCells:
    """A column's cells by least squares, given the total of all columns."""
    return NoisyCells(counts + (total.value - counts.sum()) / len(counts), noise_variance, total)


def nearest_shares(counts: Float64) -> Float64:
    """The nearest histogram without negative cells and of the same total, as shares (Euclidean projection).

    >>> nearest_shares(np.array([6.0, 3.0, -1.0])).tolist()
    [0.6875, 0.3125, 0.0]
    """
    total = max(float(counts.sum()), 1e-12)
    ordered = np.sort(counts)[::-1]
    excess = (np.cumsum(ordered) - total) / np.arange(1, len(counts) + 1)
    last = int(np.flatnonzero(ordered > excess).max(initial=0))
    kept = np.maximum(counts - excess[last], 0.0)
    shares: Float64 = kept / max(float(kept.sum()), 1e-300)
    return shares
