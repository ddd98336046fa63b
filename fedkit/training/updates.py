"""How a gradient changes a model: SGD or Adam on the flat parameters, with FedProx's term.

Adam as in Kingma and Ba 2015 with torch's defaults; FedProx as in Li et al. 2020.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from fedkit.errors import TrainingError

Update = Callable[[Tensor], None]
"""Takes a gradient float32 [d], which it may overwrite, and moves the parameters; one of fewer sites moves the first
sites' alone."""


def updater(flat: Tensor, optimizer: str, learning_rate: float, proximal_mu: float) -> Update:
    """An update of ``flat`` in place; FedProx's anchor is ``flat`` as it is now, the model as received.

    Args:
        flat: float32 [d], the parameters; or [sites, ...], those of several sites.
        optimizer: ``sgd`` or ``adam``; Adam's moments start at zero and last as long as the returned function.

    Raises:
        TrainingError: another optimizer, or a learning rate that is not above 0.
    """
    if optimizer not in UPDATES:
        message = f"training.optimizer {optimizer} is not one of {', '.join(UPDATES)}"
        raise TrainingError(message, code="FK408", remedy="set training.optimizer=sgd")
    if not (math.isfinite(learning_rate) and learning_rate > 0):
        message = f"training.learning_rate {learning_rate:g} is not above 0"
        raise TrainingError(message, code="FK408", remedy="set training.learning_rate=0.1")
    step = UPDATES[optimizer](flat, learning_rate)
    if not proximal_mu:
        return step
    received = flat.clone()

    def proximal(gradient: Tensor) -> None:
        part = slice(len(gradient))
        step(gradient.add_(flat[part] - received[part], alpha=proximal_mu))

    return proximal


def _sgd(flat: Tensor, learning_rate: float) -> Update:
    def step(gradient: Tensor) -> None:
        flat[: len(gradient)].add_(gradient, alpha=-learning_rate)

    return step


def _adam(flat: Tensor, learning_rate: float) -> Update:
    first, second = torch.zeros_like(flat), torch.zeros_like(flat)
    count = 0

    def step(gradient: Tensor) -> None:
        nonlocal count
        count += 1
        moved, mean, square = (held[: len(gradient)] for held in (flat, first, second))
        mean.lerp_(gradient, 1 - 0.9)
        square.mul_(0.999).addcmul_(gradient, gradient, value=1 - 0.999)
        scale = (square.sqrt() / math.sqrt(1 - 0.999**count)).add_(1e-8)
        moved.addcdiv_(mean, scale, value=-learning_rate / (1 - 0.9**count))

    return step


UPDATES: dict[str, Callable[[Tensor, float], Update]] = {"sgd": _sgd, "adam": _adam}
