"""Metrics from predictions. One that is undefined is None, never 0 or 0.5 in its place."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedkit.training.ranking import auroc, average_precision
from fedkit.types import Int64, Metrics, Predictions, Task

MIN_CELL = 10
"""Subgroups with fewer test rows are not shown."""

_CLIP = 1e-15


def metrics(task: Task, predictions: Predictions) -> Metrics:
    """Accuracy and its relatives of a classifier, errors of a regression in the target's own units.

    Returns:
        Binary: accuracy (threshold .5), auroc, average_precision, log_loss, brier. Multiclass: accuracy, auroc (macro,
        one class against the rest, None unless every class occurs), log_loss, brier. Regression: rmse, mae, r2.
    """
    return _METRICS[task.kind](task, predictions)


def metric_names(task: Task) -> tuple[str, ...]:
    """The names that :func:`metrics` gives for a task."""
    empty: NDArray[Any] = np.zeros(0)
    shape = (0, task.num_outputs) if task.kind == "multiclass" else (0,)
    return tuple(metrics(task, Predictions(y=empty, scores=np.zeros(shape))))


def concatenate(predictions: Sequence[Predictions]) -> Predictions:
    """All sites' predictions as one, for the overall metrics.

    Raises:
        ValueError: no predictions at all.
    """
    return Predictions(
        y=np.concatenate([part.y for part in predictions]), scores=np.concatenate([part.scores for part in predictions])
    )


UNDECLARED = frozenset({"missing", "other"})
"""Labels of rows outside the declared levels; they are in the total and in no cell."""


def subgroup_metrics(
    task: Task,
    predictions: Predictions,
    labels: NDArray[np.str_],
    *,
    units: Int64 | None = None,
    order: Sequence[str] = (),
) -> dict[str, Mapping[str, float | int | bool | None]]:
    """Metrics of each subgroup of one declared column, small cells suppressed.

    Args:
        labels: str [n], the subgroup of each row; rows that are missing or undeclared form no cell.
        units: int64 [n], the privacy unit of each row; a cell is small by its units. None: a row is a unit.
        order: labels in the order in which they are declared; others follow by name.

    Returns:
        Label to ``{"n": rows, **metrics}``, or ``{"n": None, "suppressed": True}``.

    Guarantee: none in the sense of differential privacy. No shown cell covers fewer than ``MIN_CELL`` units, and the
    declared cells that are hidden cover together none or at least that many.
    """
    owner = np.arange(len(labels)) if units is None else units
    found = sorted({str(label) for label in labels} - UNDECLARED)
    names = [name for name in order if name in found] + [name for name in found if name not in order]
    sizes = {name: len(np.unique(owner[labels == name])) for name in names}
    hidden = _suppressed(sizes)
    result: dict[str, Mapping[str, float | int | bool | None]] = {}
    for name in names:
        if name in hidden:
            result[name] = {"n": None, "suppressed": True}
        else:
            rows = labels == name
            part = Predictions(y=predictions.y[rows], scores=predictions.scores[rows])
            result[name] = {"n": int(rows.sum()), **metrics(task, part)}
    return result


def _suppressed(sizes: Mapping[str, int]) -> set[str]:
    ascending = sorted(sizes, key=lambda name: (sizes[name], name))
    hidden = [name for name in ascending if sizes[name] < MIN_CELL]
    # The total is printed: what is hidden must not follow from it by subtraction.
    while hidden and len(hidden) < len(ascending) and (len(hidden) == 1 or sum(map(sizes.get, hidden)) < MIN_CELL):  # type: ignore[arg-type]
        hidden.append(ascending[len(hidden)])
    return set(hidden)


def _binary(task: Task, predictions: Predictions) -> Metrics:
    y, p = predictions.y.astype(np.int64), predictions.scores
    if not len(y):
        return dict.fromkeys(("accuracy", "auroc", "average_precision", "log_loss", "brier"))
    both = 0 < y.sum() < len(y)
    clipped = np.clip(p, _CLIP, 1 - _CLIP)
    return {
        "accuracy": float(np.mean((p >= 0.5) == (y == 1))),
        "auroc": auroc(y, p) if both else None,
        "average_precision": average_precision(y, p) if both else None,
        "log_loss": float(-np.mean(np.where(y == 1, np.log(clipped), np.log1p(-clipped)))),
        "brier": float(np.mean((p - y) ** 2)),
    }


def _multiclass(task: Task, predictions: Predictions) -> Metrics:
    y, p = predictions.y.astype(np.int64), predictions.scores
    if not len(y):
        return dict.fromkeys(("accuracy", "auroc", "log_loss", "brier"))
    classes = np.arange(p.shape[1])
    areas = [auroc(y == k, p[:, k]) if 0 < (y == k).sum() < len(y) else None for k in classes]
    known = [area for area in areas if area is not None]
    return {
        "accuracy": float(np.mean(p.argmax(1) == y)),
        "auroc": float(np.mean(known)) if len(known) == len(classes) else None,
        "log_loss": float(-np.mean(np.log(np.clip(p[np.arange(len(y)), y], _CLIP, 1.0)))),
        "brier": float(np.mean(((p - (y[:, None] == classes)) ** 2).sum(1))),
    }


def _regression(task: Task, predictions: Predictions) -> Metrics:
    if not len(predictions.y):
        return dict.fromkeys(("rmse", "mae", "r2"))
    low, high = task.range or (0.0, 1.0)
    y = predictions.y.astype(np.float64) * (high - low) + low
    errors = predictions.scores * (high - low) + low - y
    # Equal float32 targets may differ in the last bit of their mean, so constancy is asked of the targets themselves.
    constant = len(y) < 2 or bool(np.all(predictions.y == predictions.y[0]))
    return {
        "rmse": float(np.sqrt(np.mean(errors**2))),
        "mae": float(np.mean(np.abs(errors))),
        "r2": None if constant else float(1 - np.sum(errors**2) / np.sum((y - y.mean()) ** 2)),
    }


_METRICS: dict[str, Callable[[Task, Predictions], Metrics]] = {
    "binary": _binary,
    "multiclass": _multiclass,
    "regression": _regression,
}
