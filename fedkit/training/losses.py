"""The losses fedkit owns, a value for each row: no class weights, nothing of one row in another row's loss."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from fedkit.errors import TrainingError
from fedkit.types import Examples, Task

Loss = Callable[[Tensor, Tensor, str], Tensor]
"""(outputs [n, k], targets, reduction ``none``, ``sum`` or ``mean``) -> loss of each row [n], or reduced."""


def _binary(outputs: Tensor, targets: Tensor, reduction: str) -> Tensor:
    return F.binary_cross_entropy_with_logits(outputs.squeeze(1), targets, reduction=reduction)


def _multiclass(outputs: Tensor, targets: Tensor, reduction: str) -> Tensor:
    return F.cross_entropy(outputs, targets, reduction=reduction)


def _regression(outputs: Tensor, targets: Tensor, reduction: str) -> Tensor:
    return F.mse_loss(outputs.squeeze(1), targets, reduction=reduction)


LOSSES: dict[str, Loss] = {"binary": _binary, "multiclass": _multiclass, "regression": _regression}


def targets(task: Task, examples: Examples) -> Tensor:
    """What the task's loss compares outputs with: float32 [n], or int64 [n] class indices for multiclass."""
    return torch.tensor(examples.y, dtype=target_type(task))


def target_type(task: Task) -> torch.dtype:
    """The type of what the task's loss compares outputs with."""
    return torch.int64 if task.kind == "multiclass" else torch.float32


def loss(task: Task, outputs: Tensor, expected: Tensor, reduction: str) -> Tensor:
    """The task's loss of each row [n], or reduced.

    Args:
        outputs: [n, ``task.num_outputs``]: logits, or predictions on the [0, 1] scale.
        reduction: ``none``, ``sum`` or ``mean``.

    Raises:
        TrainingError: outputs of another shape.
    """
    check_outputs(task, outputs, len(expected))
    return LOSSES[task.kind](outputs, expected, reduction)


def check_outputs(task: Task, outputs: Tensor, rows: int) -> None:
    """Refuse outputs that are not [rows, num_outputs].

    Raises:
        TrainingError: outputs of another shape, or no tensor at all.
    """
    shape = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
    if shape != (rows, task.num_outputs):
        raise TrainingError(
            f"the model answers {rows} rows with {shape}; a {task.kind} task needs {(rows, task.num_outputs)}",
            code="FK403",
            remedy="let the last layer have one output for binary and regression, else one for each class",
        )
