"""How well scores rank two classes, in whole numbers of pairs; equal scores are half right."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def auroc(y: NDArray[Any], scores: NDArray[np.float64]) -> float:
    """The chance that a row of class 1 is scored above one of class 0.

    Args:
        y: [n], 0 or 1, both of which occur.

    Raises:
        ValueError: a score that is not finite.

    >>> auroc(np.array([0, 0, 1, 1]), np.array([0.1, 0.6, 0.5, 0.9]))
    0.75
    """
    right, wrong = _by_score(y, scores)
    below = np.cumsum(wrong[::-1])[::-1] - wrong
    # Twice the pairs, which are whole numbers far below 2**53.
    return float(np.sum(right * (2 * below + wrong)) / (2 * right.sum() * wrong.sum()))


def average_precision(y: NDArray[Any], scores: NDArray[np.float64]) -> float:
    """Mean precision over the rows of class 1, each at its own score as threshold.

    Args:
        y: [n], 0 or 1, both of which occur.

    Raises:
        ValueError: a score that is not finite.

    >>> average_precision(np.array([0, 1]), np.array([0.5, 0.5]))
    0.5
    """
    right, wrong = _by_score(y, scores)
    found = np.cumsum(right)
    return float(np.sum(right * (found / (found + np.cumsum(wrong)))) / right.sum())


def _by_score(y: NDArray[Any], scores: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """How many rows of class 1 and of class 0 have each score that occurs, from the highest down."""
    if not np.isfinite(scores).all():
        raise ValueError("a score is not finite")
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    starts = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]])
    right = np.add.reduceat(y[order].astype(np.int64), starts)
    return right, np.diff(np.r_[starts, len(y)]) - right
