"""Noisy histograms of a table's columns, to each of which a privacy unit adds a total weight of 1 whatever its rows.

The weights are those of :func:`fedkit.privacy.histogram.integer_histogram`: whole numbers of at least 0 in units of
1 / G, of which a unit adds at most G to each column, so that their norm is at most G, exactly. Noise is an ideal
Gaussian of standard deviation ``sigma * G`` rounded to integers: ``S + N = round(S + gaussian)``, post-processing of
the Gaussian mechanism (Dwork and Roth 2014, appendix A) with q = 1 and sensitivity 1. Each column is one such release;
whatever is computed from the noisy sums alone costs nothing more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedkit.errors import PrivacyError
from fedkit.privacy.accounting import GaussianEvent
from fedkit.privacy.calibration import noise_multiplier_for
from fedkit.privacy.events import gaussian_delta
from fedkit.privacy.histogram import integer_histogram
from fedkit.privacy.lattice import G
from fedkit.privacy.randomness import Source
from fedkit.types import Int64


@dataclass(frozen=True)
class CodedColumn:
    """One column of some rows as cells of its histogram.

    Attributes:
        codes: int64 [n], the cell of each row, 0 .. cells - 1.
        cells: how many cells the declaration gives the column, seen or not.
    """

    codes: Int64
    cells: int


def column_sums(columns: Sequence[CodedColumn], of_row: Int64) -> Int64:
    """The exact weights of all columns' cells, in units of 1 / G.

    Args:
        of_row: int64 [n], the unit that owns each row.

    Returns:
        int64 [sum of cells], column after column. Sensitive: add noise before anything else is done with it.

    Raises:
        PrivacyError: FK313, FK314, codes that lie outside their column's cells (a mistake of the caller).

    Guarantee: adding or removing a unit with all its rows changes each column's part by at most G in norm, and by
    numbers of one sign whose sum is at most G.

    >>> two_rows_of_one_unit = CodedColumn(np.array([0, 2]), 3)
    >>> (column_sums([two_rows_of_one_unit], np.array([0, 0])) / G).tolist()
    [0.5, 0.0, 0.5]
    """
    return np.concatenate([integer_histogram(column.codes, of_row, column.cells) for column in columns])


def noisy_sums(sums: Int64, noise_multiplier: float, source: Source) -> Int64:
    """The sums with independent Gaussian noise of standard deviation ``noise_multiplier * G`` on each cell.

    Returns:
        int64 like ``sums``; divide by G for counts of units.

    Raises:
        PrivacyError: FK303, a noise multiplier that is no number above 0.

    Guarantee: with a secure source, k columns together are what ``histogram_event(noise_multiplier, k)`` says.
    """
    if not (math.isfinite(noise_multiplier) and noise_multiplier > 0):
        raise PrivacyError(f"noise_multiplier {noise_multiplier:g} is not above 0", code="FK303")
    return sums + source.rounded_gaussian(len(sums), noise_multiplier * G)


def histogram_event(noise_multiplier: float, columns: int) -> GaussianEvent:
    """What happened once the noisy histograms of some columns were released: one Gaussian step a column.

    >>> histogram_event(8.0, 12)
    GaussianEvent(sample_rate=1.0, noise_multiplier=8.0, steps=12)
    """
    return GaussianEvent(1.0, float(noise_multiplier), columns)


def histogram_noise(epsilon: float, delta: float, columns: int) -> float:
    """The noise multiplier, rounded up, at which the histograms of all columns cost at most ``epsilon`` together.

    Args:
        delta: of the whole answer; what the sampler of the noise takes of it is set aside.

    Raises:
        PrivacyError: a target out of range (FK301, FK302) or out of reach (FK309).
    """
    try:
        return noise_multiplier_for(epsilon, gaussian_delta(delta), 1.0, columns)
    except PrivacyError as error:
        if error.code != "FK309":
            raise
        remedy = "raise epsilon, or ask for fewer columns"
        raise PrivacyError(error.message, code=error.code, remedy=remedy) from None
