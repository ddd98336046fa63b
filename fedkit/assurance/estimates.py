"""Counts, means, variances, quantiles and shares from noisy histograms, each with a 95 % interval.

All of it is post-processing: it costs no privacy. An interval holds the noise and the width of a bin: a number in a bin
may lie anywhere in it, so half a bin is added on both sides. It is about the records that were counted, numbers clipped
to their declared range, and says nothing of a population that they may be a sample of. Each unit counts once, its rows
share it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedkit.assurance.cells import ColumnCells
from fedkit.assurance.intervals import NoisyCells, Total, Z, adjusted, combined_total, nearest_shares

Float64 = NDArray[np.float64]
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_FEW = 10.0
_DEVIATIONS = 2.0


@dataclass(frozen=True)
class Figure:
    """An estimate.

    Attributes:
        value: None where it is suppressed.
        low, high: its 95 % interval.
        suppressed: the count that it rests on is below ``below``, a public number. For readability and courtesy: what
            protects a person is the noise.
    """

    value: float | None
    low: float | None
    high: float | None
    suppressed: bool
    below: float


@dataclass(frozen=True)
class CellFigures:
    """One cell; ``share`` is of the units whose value is not missing. ``low`` and ``high`` bound a bin."""

    label: str
    low: float | None
    high: float | None
    count: Figure
    share: Figure


@dataclass(frozen=True)
class ColumnFigures:
    """One column.

    Attributes:
        missing_share: of all units.
        outside, outside_share: numbers outside their declared range, and their share of those that are not missing;
            None where they are not told apart.
        mean, variance, quantiles: of numbers only, of the values that are not missing.
        cells: without ``missing``.
    """

    name: str
    role: str
    missing: Figure
    missing_share: Figure
    mean: Figure | None
    variance: Figure | None
    quantiles: Mapping[str, Figure]
    cells: tuple[CellFigures, ...]
    outside: Figure | None = None
    outside_share: Figure | None = None


@dataclass(frozen=True)
class ScopeFigures:
    """One site, or all together; ``noise`` is the standard deviation of one cell's noise, in units."""

    count: Figure
    noise: float
    columns: tuple[ColumnFigures, ...]


def scope_figures(columns: Sequence[ColumnCells], counts: Float64, noise: float) -> ScopeFigures:
    """Everything that follows from the noisy histograms of one scope.

    Args:
        counts: float64 [sum of cells], noisy counts in units, column after column.
        noise: standard deviation of the noise on each of them.

    Returns:
        Figures; the total is estimated from all columns together and shared by all of them.
    """
    parts = np.split(np.asarray(counts, dtype=np.float64), np.cumsum([column.cells for column in columns])[:-1])
    total = combined_total(parts, noise**2)
    figures = (_column(column, adjusted(part, noise**2, total)) for column, part in zip(columns, parts, strict=True))
    return ScopeFigures(_total(total), noise, tuple(figures))


def threshold(deviation: float) -> float:
    """Below it a count is not shown: 10 units, or two standard deviations of its noise; a public number."""
    return max(_FEW, _DEVIATIONS * deviation)


def _total(total: Total) -> Figure:
    return _counted(total.value, math.sqrt(total.variance))


def _counted(value: float, deviation: float) -> Figure:
    below = threshold(deviation)
    if value < below:
        return Figure(None, None, None, True, below)
    return Figure(value, max(0.0, value - Z * deviation), value + Z * deviation, False, below)


def _column(column: ColumnCells, noisy: NoisyCells) -> ColumnFigures:
    everyone = np.ones(column.cells)
    absent = np.zeros(column.cells)
    absent[-1] = 1.0
    present = everyone - absent
    missing = _count(noisy, absent)
    cells = []
    for index, label in enumerate(column.labels[:-1]):
        one = np.zeros(column.cells)
        one[index] = 1.0
        low, high = _bounds(column, index)
        count = _count(noisy, one)
        cells.append(CellFigures(label, low, high, count, _share(noisy, one, present, count)))
    mean = variance = None
    quantiles: dict[str, Figure] = {}
    if column.edges:
        basis = _count(noisy, present)
        mean, variance = _moments(column, noisy, present, basis)
        quantiles = {f"{q:g}": _quantile(column, noisy, q, basis) for q in QUANTILES}
    missing_share = _share(noisy, absent, everyone, missing)
    outside = outside_share = None
    if column.outside:
        beyond = np.zeros(column.cells)
        beyond[[0, -2]] = 1.0
        outside = _count(noisy, beyond)
        outside_share = _share(noisy, beyond, present, outside)
    return ColumnFigures(
        column.name, column.role, missing, missing_share, mean, variance, quantiles, tuple(cells), outside,
        outside_share,
    )  # fmt: skip


def _bounds(column: ColumnCells, index: int) -> tuple[float | None, float | None]:
    """Of a bin; a cell that is none has not both."""
    at = index - column.outside
    low = column.edges[at] if column.edges and at >= 0 else None
    high = column.edges[at + 1] if column.edges and at < column.bins else None
    return low, high


def _count(noisy: NoisyCells, of: Float64) -> Figure:
    return _counted(noisy.value(of), noisy.deviation(of))


def _share(noisy: NoisyCells, part: Float64, whole: Float64, basis: Figure) -> Figure:
    bottom = noisy.value(whole)
    if basis.suppressed or bottom <= 0:
        return _suppressed(basis)
    low, high = noisy.ratio(part, whole)
    return _shown(noisy.value(part) / bottom, _within(low, 0.0, 1.0), _within(high, 0.0, 1.0), basis)


def _moments(column: ColumnCells, noisy: NoisyCells, present: Float64, basis: Figure) -> tuple[Figure, Figure]:
    if basis.suppressed:
        return _suppressed(basis), _suppressed(basis)
    least, most = column.edges[0], column.edges[-1]
    half = (column.edges[1] - least) / 2
    middles = np.append((np.array(column.edges[:-1]) + np.array(column.edges[1:])) / 2, 0.0)
    if column.outside:
        # Clipped, they lie on the bounds.
        middles = np.concatenate([[least], middles[:-1], [most, 0.0]])
    count = noisy.value(present)
    center = noisy.value(middles * present) / count
    low, high = noisy.ratio(middles * present, present)
    mean = _shown(center, _within(low - half, least, most), _within(high + half, least, most), basis)
    squares = (middles - center) ** 2 * present
    below, above = noisy.ratio(squares, present)
    # The variance about the estimated center is low by the square of the center's own error, at most:
    drift = max(high - center, center - low) ** 2
    spread = noisy.deviation((middles - center) * present) / count
    # A bin moves a standard deviation by half its width at most (Minkowski).
    narrow = max(0.0, math.sqrt(max(0.0, below - drift)) - half) ** 2
    wide = (math.sqrt(max(0.0, above + drift)) + half) ** 2 if math.isfinite(above) else math.inf
    widest = ((most - least) / 2) ** 2
    value = noisy.value(squares) / count + spread**2
    return mean, _shown(value, min(narrow, widest), min(wide, widest), basis)


def _quantile(column: ColumnCells, noisy: NoisyCells, q: float, basis: Figure) -> Figure:
    """The smallest value that a share q of the values does not exceed.

    Each inner edge is tested: are significantly fewer, or more, than q of the values below it? From either end of the
    range the interval begins before the first edge that passes: it misses the truth only if one edge is misjudged.
    """
    if basis.suppressed:
        return _suppressed(basis)
    edges, bins = column.edges, column.bins
    excess, deviation = noisy.below_edges(q)
    # Clipped, what lies outside lies on the bounds: below every inner edge, or above all of them.
    within = slice(1, -1) if column.outside else slice(None)
    excess, deviation = excess[within], deviation[within]
    sure = Z * deviation
    first = next((edge for edge in range(1, bins) if excess[edge] + sure[edge] >= 0), bins)
    last = next((edge for edge in range(bins - 1, 0, -1) if excess[edge] - sure[edge] < 0), 0)
    low, high = edges[first - 1], edges[last + 1]
    shares = nearest_shares(noisy.counts[:-1])
    ends = (edges[0], *edges, edges[-1]) if column.outside else edges
    value = float(np.interp(q, np.append(0.0, np.cumsum(shares)), ends))
    # Where the edges contradict each other there is no interval but the whole range.
    return _shown(value, low, high, basis) if low < high else _shown(value, edges[0], edges[-1], basis)


def _within(value: float, least: float, most: float) -> float:
    return min(max(value, least), most)


def _shown(value: float, low: float, high: float, basis: Figure) -> Figure:
    return Figure(_within(value, low, high), low, high, False, basis.below)


def _suppressed(basis: Figure) -> Figure:
    return Figure(None, None, None, True, basis.below)
