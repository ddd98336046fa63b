"""What a model predicts for given examples."""

from __future__ import annotations

from contextlib import ExitStack

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from fedkit.errors import TrainingError
from fedkit.models.flat import split
from fedkit.privacy.placement import columns_of
from fedkit.privacy.randomness import Source
from fedkit.training.losses import check_outputs
from fedkit.types import Examples, Float32, Predictions, Task

_ROWS = 4096
_WIDTH = 64


def predict(
    model: nn.Module, parameters: Float32, task: Task, examples: Examples, *, places: Source | None = None
) -> Predictions:
    """Scores of the model with the given parameters, in evaluation mode.

    Args:
        model: the architecture; its own parameters and mode are left as found.
        parameters: float32 [d].
        places: of a private evaluation. Each row is then scored at a place drawn from it, in arrays of one public
            shape, so that no row's score depends on another row; and scores may be anything, since whether one is
            finite depends on a record.

    Returns:
        Labels and float64 scores: probabilities, or predictions on the [0, 1] scale of the target.

    Raises:
        TrainingError: parameters of another size, outputs of another shape, scores that are not finite.
    """
    named = split(model, parameters)
    modes = [(module, module.training) for module in model.modules()]
    threads = torch.get_num_threads()
    inputs = torch.tensor(examples.x, dtype=torch.float32)
    width = (task.num_outputs,) if task.kind == "multiclass" else ()
    scores = torch.zeros((len(examples), *width), dtype=torch.float64)
    with ExitStack() as stack, torch.no_grad():
        stack.callback(_restore, modes)
        stack.enter_context(torch.random.fork_rng(devices=[]))
        stack.callback(torch.set_num_threads, threads)
        torch.set_num_threads(1)
        model.eval()

        def scored(x: Tensor, named: dict[str, Tensor]) -> Tensor:
            outputs = functional_call(model, named, (x,))
            check_outputs(task, outputs, len(x))
            return _SCORES[task.kind](outputs.double())

        if places is None:
            for first in range(0, len(examples), _ROWS):
                scores[first : first + _ROWS] = scored(inputs[first : first + _ROWS], named)
        else:
            for block in columns_of(len(examples), places, _WIDTH):
                rows, at = torch.from_numpy(block.rows), torch.from_numpy(block.places)
                x = torch.zeros((block.size, *inputs.shape[1:]))
                x[at] = inputs[rows]
                # Copies of their own: what forward wrote into them for these rows would reach the next block's.
                scores[rows] = scored(x, split(model, parameters))[at]
    result = scores.numpy()
    if places is None and not np.isfinite(result).all():
        raise TrainingError(
            "the model's predictions are not finite", code="FK405", remedy="lower training.learning_rate"
        )
    return Predictions(y=examples.y, scores=result)


def _binary(outputs: Tensor) -> Tensor:
    return torch.sigmoid(outputs.squeeze(1))


def _multiclass(outputs: Tensor) -> Tensor:
    return torch.softmax(outputs, 1)


def _regression(outputs: Tensor) -> Tensor:
    return outputs.squeeze(1)


_SCORES = {"binary": _binary, "multiclass": _multiclass, "regression": _regression}


def _restore(modes: list[tuple[nn.Module, bool]]) -> None:
    for module, mode in modes:
        module.training = mode
