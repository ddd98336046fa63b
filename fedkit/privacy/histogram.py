"""One noisy histogram over units: what a private evaluation releases, and all that it releases.

A unit adds a total weight of 1 whatever the number of its rows, spread over its rows in equal shares, on the integer
lattice of :mod:`fedkit.privacy.lattice`. A unit's integers are never negative and add up to at most G, so their L2 norm
is at most G: exactly, with no slack for rounding. Noise is an ideal Gaussian rounded to integers, hence
``S + N = round(S + gaussian)``, post-processing of the continuous Gaussian mechanism (Dwork and Roth 2014, A.1).
"""

from __future__ import annotations

import math

import numpy as np

from fedkit.errors import PrivacyError
from fedkit.privacy.accounting import MIN_SIGMA
from fedkit.privacy.lattice import G
from fedkit.privacy.randomness import Float64, Source
from fedkit.types import Int64

_MAX_SIGMA = 1e6


def noisy_histogram(cells: Int64, unit: Int64, size: int, noise_multiplier: float, source: Source) -> Float64:
    """Weighted numbers of units by cell, with Gaussian noise of standard deviation ``noise_multiplier`` in each.

    Args:
        cells: int64 [rows], each row's cell in 0 .. size - 1; it must follow from that row and public constants alone.
        unit: int64 [rows], the privacy unit that owns each row; any labels.
        size: a public constant, the length of the result whatever the rows.

    Returns:
        float64 [size], a multiple of 1 / G; negative where noise exceeds the count. No rows: noise alone.

    Raises:
        PrivacyError: FK312 a noise multiplier out of range, FK313 a size below 1, FK314 cells or units that do not
            belong together or lie outside the histogram (a mistake of the caller: rows cannot cause it).

    Guarantee: one Gaussian mechanism of sensitivity 1 without sampling, the event
    ``GaussianEvent(1.0, noise_multiplier, 1)``, under add/remove of one unit with any rows; none with a seeded source.

    >>> from fedkit.privacy.randomness import Secure
    >>> noisy_histogram(np.array([0, 2]), np.array([7, 7]), 3, 1.0, Secure()).shape
    (3,)
    """
    if not (math.isfinite(noise_multiplier) and MIN_SIGMA <= noise_multiplier <= _MAX_SIGMA):
        raise PrivacyError(
            f"the evaluation's noise_multiplier {noise_multiplier:g} is not between {MIN_SIGMA:g} and {_MAX_SIGMA:g}",
            code="FK312",
            remedy="set privacy.evaluation.noise_multiplier=8",
        )
    exact = integer_histogram(cells, unit, size)
    # G is a power of two: product and quotient are exact, so the released values say no more than the integers.
    return (exact + source.rounded_gaussian(size, noise_multiplier * G)) / G


def integer_histogram(cells: Int64, unit: Int64, size: int) -> Int64:
    """The histogram on the lattice before noise; int64 [size]. Sensitive: never leaves a site.

    Raises:
        PrivacyError: FK313, FK314 as :func:`noisy_histogram`.

    Guarantee: a unit adds non-negative integers that sum to at most G, which bounds their L2 norm by G.

    >>> (integer_histogram(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1]), 3) / G).round(3).tolist()
    [1.333, 0.667, 0.0]
    """
    if size < 1:
        raise PrivacyError(f"a histogram of {size} cells has nothing to release", code="FK313")
    cells, unit = np.asarray(cells), np.asarray(unit)
    whole = all(part.ndim == 1 and (np.issubdtype(part.dtype, np.integer) or not part.size) for part in (cells, unit))
    if not whole or len(cells) != len(unit) or bool(((cells < 0) | (cells >= size)).any()):
        raise PrivacyError(
            f"cells {cells.shape} and units {unit.shape} are not one whole number a row, the cells below {size}",
            code="FK314",
            remedy="take cells from fedkit.training.histograms.cells_of",
        )
    _, owner, rows = np.unique(unit, return_inverse=True, return_counts=True)
    pairs, times = np.unique(owner.astype(np.int64) * size + cells.astype(np.int64), return_counts=True)
    total = np.zeros(size, dtype=np.int64)
    # Rounded down, a unit's shares can only fall short of G; rounded to nearest they could exceed it.
    np.add.at(total, pairs % size, times.astype(np.int64) * G // rows[pairs // size])
    return total
