"""Logistic (for a number: linear) regression: one layer, torch's own initialisation."""

from __future__ import annotations

import math

from torch import nn


def logistic(input_shape: tuple[int, ...], num_outputs: int) -> nn.Module:
    """One Linear from the flattened input to the outputs (logits, or a prediction on the [0, 1] scale)."""
    linear = nn.Linear(math.prod(input_shape), num_outputs)
    return linear if len(input_shape) == 1 else nn.Sequential(nn.Flatten(), linear)
