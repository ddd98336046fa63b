"""Encoded rows to sites: parts, z-scores, fingerprints."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedkit.data.units import Units, in_order_of_appearance
from fedkit.types import Examples, Float32, Int64, Site

# FLamby's guard against a feature without spread.
_TINY = 1e-9


@dataclass(frozen=True)
class Rows:
    """Encoded rows of one or all sites; all arrays have one length n."""

    x: Float32
    y: NDArray[np.number]
    units: Units
    subgroups: Mapping[str, NDArray[np.str_]]

    def __len__(self) -> int:
        return len(self.x)

    def take(self, rows: Int64) -> Rows:
        """Only the given rows, in the given order."""
        groups = {name: labels[rows] for name, labels in self.subgroups.items()}
        return Rows(self.x[rows], self.y[rows], self.units.take(rows), groups)

    def examples(self, marked: NDArray[np.bool_]) -> Examples:
        """The marked rows as one part, its units numbered from 0 in order of appearance."""
        rows = np.flatnonzero(marked)
        groups = {name: labels[rows] for name, labels in self.subgroups.items()}
        return Examples(self.x[rows], self.y[rows], in_order_of_appearance(self.units.of_row[rows])[1], groups)


def z_scores(x: Float32, statistics_of: NDArray[np.bool_]) -> Float32:
    """Standardise every column by the marked rows, as FLamby does: (x - mean) / (std + 1e-9), std with n - 1.

    Args:
        x: float32 [n, d].
        statistics_of: bool [n], the training rows.

    Returns:
        float32 [n, d]; unchanged where fewer than two rows are marked.
    """
    if statistics_of.sum() < 2:
        return x
    known = x[statistics_of].astype(np.float64)
    mean, deviation = known.mean(axis=0), known.std(axis=0, ddof=1)
    scaled: Float32 = ((x - mean) / (deviation + _TINY)).astype(np.float32)
    return scaled


def make_site(name: str, rows: Rows, held_out: NDArray[np.bool_], declared: int | None) -> Site:
    """One site from its rows; the true number of units stands in where no count is declared."""
    records = len(rows.units) if declared is None else declared
    return Site(name, rows.examples(~held_out), rows.examples(held_out), records, declared is not None)


def fingerprint(site: Site) -> str:
    """SHA-256 of a site's encoded arrays, train then test."""
    digest = hashlib.sha256()
    for part in (site.train, site.test):
        for array in (part.x, part.y, part.unit):
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
