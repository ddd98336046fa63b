"""Multilayer perceptron with ReLU between layers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import nn

from fedkit.errors import TrainingError
from fedkit.models.limits import MOST_PARAMETERS


def mlp(input_shape: tuple[int, ...], num_outputs: int, hidden: Any = (32,)) -> nn.Module:
    """Flatten, then a Linear and a ReLU for each hidden width, then a Linear to the outputs.

    Raises:
        TrainingError: a width that is not a whole number of at least 1; more parameters than an update may have.
    """
    if isinstance(hidden, str) or not isinstance(hidden, Sequence):
        raise TrainingError(f"hidden {hidden!r} is not a list of widths", code="FK402", remedy="set hidden: [32]")
    layers: list[nn.Module] = [nn.Flatten()]
    width, count = math.prod(input_shape), 0
    for size in hidden:
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            message = f"hidden width {size!r} is not a whole number of at least 1"
            raise TrainingError(message, code="FK402", remedy="set hidden: [32]")
        count += (width + 1) * size
        if count > MOST_PARAMETERS:
            raise TrainingError(
                f"hidden {list(hidden)!r} makes more than {MOST_PARAMETERS:,} parameters, the most that an update may"
                " have",
                code="FK402",
                remedy="set hidden: [32], or narrower layers",
            )
        layers += [nn.Linear(width, size), nn.ReLU()]
        width = size
    return nn.Sequential(*layers, nn.Linear(width, num_outputs))
