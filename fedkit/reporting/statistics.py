"""What the figures need of predictions: ROC curves and calibration bins."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedkit.types import Predictions

Float64 = NDArray[np.float64]
SMALL = 10
"""Cells and bins with fewer test rows are not shown."""
_GRID = np.linspace(0, 1, 101)


def pooled(predictions: list[Predictions]) -> Predictions:
    """The test rows of several sites as one."""
    return Predictions(np.concatenate([p.y for p in predictions]), np.concatenate([p.scores for p in predictions]))


def roc(predictions: Predictions) -> tuple[Float64, Float64] | None:
    """Receiver operating characteristic; for several classes the macro average of one-vs-rest curves.

    Returns:
        False and true positive rates, both [m] from (0, 0) to (1, 1); None where it is undefined, that is where
        some class has no test row or all have.

    >>> fpr, tpr = roc(Predictions(np.array([0, 1, 1]), np.array([0.2, 0.1, 0.9])))
    >>> fpr.tolist(), tpr.tolist()
    ([0.0, 0.0, 1.0, 1.0], [0.0, 0.5, 0.5, 1.0])
    """
    if predictions.scores.ndim == 1:
        return _binary_roc(predictions.y == 1, predictions.scores)
    curves = [_binary_roc(predictions.y == k, predictions.scores[:, k]) for k in range(predictions.scores.shape[1])]
    known = [c for c in curves if c is not None]
    if len(known) < len(curves):
        return None
    mean = np.mean([np.interp(_GRID, fpr, tpr) for fpr, tpr in known], axis=0)
    return np.concatenate([[0.0], _GRID]), np.concatenate([[0.0], mean])


def _binary_roc(positive: NDArray[np.bool_], scores: Float64) -> tuple[Float64, Float64] | None:
    total, rest = int(positive.sum()), int((~positive).sum())
    if not total or not rest:
        return None
    order = np.argsort(-scores, kind="stable")
    hits, ranked = np.cumsum(positive[order]), scores[order]
    # Equal scores are one threshold: only the last of a tie is a point of the curve.
    last = np.append(np.flatnonzero(np.diff(ranked)), len(ranked) - 1)
    tpr = np.append(0.0, hits[last] / total)
    fpr = np.append(0.0, (last + 1 - hits[last]) / rest)
    return fpr, tpr


def calibration(predictions: Predictions, kind: str) -> tuple[Float64, Float64] | None:
    """Reliability in bins of equal size: mean prediction against what was observed.

    Binary: probability against the share of positives. Multiclass: confidence in the predicted class against its
    accuracy. Regression: prediction against the mean outcome, both on the [0, 1] scale.

    Returns:
        Two arrays [bins], at most ten bins of at least SMALL rows each; None where there are fewer rows than that.
    """
    scores, outcome = predictions.scores, predictions.y.astype(float)
    if kind == "multiclass":
        outcome = (scores.argmax(1) == predictions.y).astype(float)
        scores = scores.max(1)
    if len(scores) < SMALL:
        return None
    order = np.argsort(scores, kind="stable")
    parts = np.array_split(order, min(10, len(scores) // SMALL))
    return np.array([scores[p].mean() for p in parts]), np.array([outcome[p].mean() for p in parts])
