"""The public shape of the histograms that a private evaluation releases, and the cell of each row.

A run releases one histogram over all rows in fine cells, and coarse ones in as few cells as metrics need: one for each
declared subgroup column, or one over all rows where no column is declared. Every cell carries the same noise, so a
metric is as noisy as it has cells; all histograms count the same units, and their agreement sharpens the overall
metrics. Measured on heart disease with two columns at an equal total cost, this halves the error of accuracy and takes
a third off that of AUROC, against fine cells crossed with each column; without columns the coarse histogram takes a
fifth to a half off the error of accuracy.

Binning error. A binary score is binned at equal widths of its logit over (-4, 4), open at both ends, so .5 is an edge
and accuracy is exact. Measured without noise on models trained at epsilon 1 and 3 (heart disease, breast cancer; mean,
and the worst of 24): AUROC falls by .003 (.009) with 10 bins, .007 (.019) with 6, .001 (.005) with 20; at equal widths
of the probability by .006 (.021) with 10. The calibration error moves by .002 (.006) with 10 bins. A model whose logits
all lie within one bin of 8 / bins loses more: its ties count one half. A regression's residual lies in bins that narrow
towards 0 (edges at plus and minus the squares of equal steps), and one beyond the declared range counts as the range.
With 10 bins, rmse is within 3 % and mae within 8 % for normal and Laplace residuals of .1 to .3 of the range; at .05
both are up to 25 % too large, and residuals smaller than the innermost bin (4 / bins^2) cannot be told apart.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedkit.errors import TrainingError
from fedkit.types import Int64, Predictions, Task

Float64 = NDArray[np.float64]

REST = "other or missing"
"""The level of rows whose subgroup is missing or not declared; every subgroup's histogram ends in it."""
MAX_CELLS = 20_000
_LOGITS = 4.0
_NO_LABELS: NDArray[np.str_] = np.zeros(0, dtype=np.str_)


@dataclass(frozen=True)
class HistogramSpec:
    """One histogram, by public constants alone.

    Attributes:
        bins: even number of bins of the score (binary), of the top class's probability (multiclass, where fine) or of
            the residual (regression).
        coarse: without what only overall metrics need.
        subgroup: the declared column that the rows are parted by; None for all rows together.
        levels: its declared labels and, last, :data:`REST`; empty without a column.
    """

    task: Task
    bins: int
    coarse: bool = False
    subgroup: str | None = None
    levels: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of cells along each axis.

        Fine and coarse, binary: (label, bin); multiclass: (label, predicted class, bin) and (wrong or right);
        regression: (target bin, residual bin) and (residual bin). With a subgroup, levels are the last axis.
        """
        k = len(self.task.classes)
        fine, coarse = {
            "binary": ((2, self.bins), (2, self.bins)),
            "multiclass": ((k, k, self.bins), (2,)),
            "regression": ((max(1, self.bins // 2), self.bins), (self.bins,)),
        }[self.task.kind]
        return (*(coarse if self.coarse else fine), *([len(self.levels)] if self.levels else []))

    @property
    def size(self) -> int:
        """Number of cells: the length of what is released, whatever the rows."""
        return math.prod(self.shape)


def specs_of(
    task: Task, subgroups: Mapping[str, Sequence[str]], bins: int, *, subgroup_bins: int = 2
) -> tuple[HistogramSpec, ...]:
    """The histograms of one evaluation: the fine one, then the coarse ones. Each is charged.

    Args:
        subgroups: declared column to its declared labels, in order.
        bins: of the fine histogram, even.
        subgroup_bins: bins of a binary score in the coarse histograms, even. 2 gives accuracy, sensitivity and
            specificity by level; AUROC and calibration by level need 4 or more, and many units.

    Raises:
        TrainingError: FK413, a shape that cannot be.

    >>> [spec.shape for spec in specs_of(Task("binary", ("no", "yes")), {"sex": ["f", "m"]}, 10)]
    [(2, 10), (2, 2, 3)]
    """
    _check(task, subgroups, bins, subgroup_bins)
    parted = subgroup_bins if task.kind == "binary" else bins
    coarse = [HistogramSpec(task, parted, True, name, (*levels, REST)) for name, levels in subgroups.items()]
    specs = (HistogramSpec(task, bins), *(coarse or [HistogramSpec(task, parted, True)]))
    for spec in specs:
        if spec.size > MAX_CELLS:
            raise TrainingError(
                f"the evaluation's histogram of shape {spec.shape} has more than {MAX_CELLS} cells",
                code="FK413",
                remedy="lower privacy.evaluation.bins, or declare fewer classes or levels",
            )
    return specs


def cells_of(spec: HistogramSpec, predictions: Predictions, subgroups: Mapping[str, NDArray[np.str_]]) -> Int64:
    """Each row's cell; it depends on that row and the spec alone, and no value of a row is an error.

    A score that is no number counts as the lowest one (the first class, where there are several). A label that is no
    declared level counts as :data:`REST`.

    Args:
        subgroups: column to label, str [n], as in :class:`fedkit.types.Examples`.

    Returns:
        int64 [n], below ``spec.size``.

    Raises:
        TrainingError: FK414, arrays of different lengths or a column that is absent.
    """
    rows = len(predictions.y)
    width = (len(spec.task.classes),) if spec.task.kind == "multiclass" else ()
    labels = subgroups.get(spec.subgroup, _NO_LABELS) if spec.subgroup else None
    scores = predictions.scores.shape
    if scores != (rows, *width) or (labels is not None and len(labels) != rows):
        raise TrainingError(
            f"{rows} rows, scores of shape {scores} and labels of subgroup {spec.subgroup} do not fit together",
            code="FK414",
        )
    parts = {"binary": _binary, "multiclass": _multiclass, "regression": _regression}[spec.task.kind](spec, predictions)
    if labels is not None:
        index = {level: code for code, level in enumerate(spec.levels)}
        parts = (*parts, np.array([index.get(str(label), len(index) - 1) for label in labels], dtype=np.int64))
    cells: Int64 = np.ravel_multi_index(parts, spec.shape).astype(np.int64)
    return cells


def score_edges(bins: int) -> Float64:
    """Edges of a binary score's bins from 0 to 1; float64 [bins + 1].

    >>> score_edges(4).round(3).tolist()
    [0.0, 0.119, 0.5, 0.881, 1.0]
    """
    half = bins // 2
    logits = _LOGITS * np.arange(1 - half, half) / half
    return np.concatenate([[0.0], 1 / (1 + np.exp(-logits)), [1.0]])


def confidence_edges(classes: int, bins: int) -> Float64:
    """Edges of the top class's probability, equal widths from 1 / classes to 1; float64 [bins + 1]."""
    return np.linspace(1 / classes, 1.0, bins + 1)


def residual_edges(bins: int) -> Float64:
    """Edges of a residual's bins from -1 to 1 on the scale of the declared range; float64 [bins + 1].

    >>> residual_edges(4).tolist()
    [-1.0, -0.25, 0.0, 0.25, 1.0]
    """
    steps = np.arange(-(bins // 2), bins // 2 + 1) / (bins // 2)
    edges: Float64 = np.sign(steps) * steps**2
    return edges


def bin_of(values: Float64, edges: Float64) -> Int64:
    """The bin of each value, an edge belonging to the bin above it; values beyond the ends fall into the end bins."""
    found: Int64 = np.searchsorted(edges[1:-1], values, side="right").astype(np.int64)
    return found


def _binary(spec: HistogramSpec, predictions: Predictions) -> tuple[Int64, ...]:
    scores = np.where(np.isnan(predictions.scores), 0.0, predictions.scores)
    return _classes(predictions, 2), bin_of(scores, score_edges(spec.bins))


def _multiclass(spec: HistogramSpec, predictions: Predictions) -> tuple[Int64, ...]:
    k = len(spec.task.classes)
    scores = np.where(np.isnan(predictions.scores).any(1, keepdims=True), 0.0, predictions.scores)
    label, top = _classes(predictions, k), scores.argmax(1).astype(np.int64)
    if spec.coarse:
        return ((label == top).astype(np.int64),)
    return label, top, bin_of(scores.max(1), confidence_edges(k, spec.bins))


def _regression(spec: HistogramSpec, predictions: Predictions) -> tuple[Int64, ...]:
    y = np.nan_to_num(predictions.y.astype(np.float64))
    scores = np.nan_to_num(predictions.scores)
    residual = bin_of(scores - y, residual_edges(spec.bins))
    if spec.coarse:
        return (residual,)
    return bin_of(y, np.linspace(0.0, 1.0, spec.shape[0] + 1)), residual


def _classes(predictions: Predictions, k: int) -> Int64:
    return np.clip(predictions.y.astype(np.int64), 0, k - 1)


def _check(task: Task, subgroups: Mapping[str, Sequence[str]], bins: int, subgroup_bins: int) -> None:
    problems = []
    for name, value in (("bins", bins), ("subgroup_bins", subgroup_bins)):
        if value < 2 or value % 2:
            problems.append(f"privacy.evaluation.{name} {value} is not an even number of at least 2")
    if task.kind == "multiclass" and len(task.classes) < 2:
        problems.append(f"a multiclass task of {len(task.classes)} classes has nothing to tell apart")
    for name, levels in subgroups.items():
        twice = [a for a, b in itertools.pairwise(sorted((*levels, REST))) if a == b]
        if twice:
            problems.append(f"level {twice[0]} of subgroup {name} stands twice")
    if problems:
        raise TrainingError("; ".join(problems), code="FK413", remedy="set privacy.evaluation.bins=10")
