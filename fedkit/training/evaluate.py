"""What a model predicts for given examples."""

from __future__ import annotations

from contextlib import ExitStack

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from fedkit.errors import TrainingError
from fedkit.models.flat import split
from fedkit.training.losses import check_outputs
from fedkit.types import Examples, Float32, Predictions, Task

_ROWS = 4096


def predict(
    model: nn.Module, parameters: Float32, task: Task, examples: Examples, *, finite: bool = True
) -> Predictions:
    """Scores of the model with the given parameters, in evaluation mode.

    Args:
        model: the architecture; its own parameters and mode are left as found.
        parameters: float32 [d].
        finite: refuse scores that are not finite. A private evaluation must not: whether one is depends on a record.

    Returns:
        Labels and float64 scores: probabilities, or predictions on the [0, 1] scale of the target.

    Raises:
        TrainingError: parameters of another size, outputs of another shape, scores that are not finite.
    """
    named = split(model, parameters)
    modes = [(module, module.training) for module in model.modules()]
    threads = torch.get_num_threads()
    parts: list[Tensor] = []
    with ExitStack() as stack, torch.no_grad():
        stack.callback(_restore, modes)
        stack.enter_context(torch.random.fork_rng(devices=[]))
        stack.callback(torch.set_num_threads, threads)
        torch.set_num_threads(1)
        model.eval()
        for first in range(0, len(examples), _ROWS):
            x = torch.tensor(examples.x[first : first + _ROWS], dtype=torch.float32)
            outputs = functional_call(model, named, (x,))
            check_outputs(task, outputs, len(x))
            parts.append(outputs.double())
    outputs = torch.cat(parts) if parts else torch.zeros((0, task.num_outputs), dtype=torch.float64)
    if task.kind == "binary":
        scores = torch.sigmoid(outputs.squeeze(1))
    elif task.kind == "multiclass":
        scores = torch.softmax(outputs, 1)
    else:
        scores = outputs.squeeze(1)
    result = scores.numpy()
    if finite and not np.isfinite(result).all():
        raise TrainingError(
            "the model's predictions are not finite", code="FK405", remedy="lower training.learning_rate"
        )
    return Predictions(y=examples.y, scores=result)


def _restore(modes: list[tuple[nn.Module, bool]]) -> None:
    for module, mode in modes:
        module.training = mode
