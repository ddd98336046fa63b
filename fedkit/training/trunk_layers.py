"""Passes of a trunk's layers, of many rows at a call, in arithmetic that a row has for itself.

Arrays are [rows, height, width, channels], a signal's height is 1. What rounds in an order that a library chooses is
called once a row, with operands of one shape that begin on a boundary of ``GRAIN`` numbers: the same call for every
row, whichever rows there are and however many. What is called for many rows at once moves numbers, takes the larger of
two, or lets a number pass or not: nothing in it rounds, so it does not matter what stands beside. One thread, as all of
training. That a library's call on the same values gives the same bits is what all of fedkit's privacy assumes on one
machine; :mod:`fedkit.training.trunk_probe` asks for it before records are seen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from fedkit.privacy.tap_sum import Explicit, Part
from fedkit.training.windows import Shape, Windows, image, on_boundaries, slabs


class Stage(Protocol):
    """A module of a trunk. Between forward and backward of the same rows no other rows pass.

    Attributes:
        seconds: that a row takes, about, beside its multiplications.
        parts: of its rows' gradients. tells: the shape in which it tells each of a row.
    """

    seconds: float
    parts: list[Part]
    tells: list[Shape]

    def begin(self, rows: int, piece: int) -> None:
        """Parameters have moved, and so many rows may pass before the next call, in pieces of so many."""
        ...

    def forward(self, x: Tensor, first: int) -> Tensor:
        """Outputs of the rows from ``first`` on; it may overwrite ``x``."""
        ...

    def backward(self, error: Tensor, first: int, told: Sequence[Sequence[Tensor]]) -> Tensor | None:
        """The derivative by the input, given that by the output; ``told``, of each part a tensor a row, is written."""
        ...


def is_windows(part: nn.Module) -> bool:
    """Whether a module is a convolution that :class:`Convolution` makes."""
    # A frozen layer is no tap, so nobody has asked yet what stands around its images.
    return type(part) in (nn.Conv1d, nn.Conv2d) and bool(part.groups == 1 and part.padding_mode == "zeros")


def is_relu(part: nn.Module) -> bool:
    """Whether a module is that of :class:`Relu`."""
    return type(part) is nn.ReLU


class Convolution:
    """Each row's windows side by side, and three matrix products a row: outputs, and both derivatives.

    A bias is the last line of the weights, and the last number of each window a 1. The derivative by the input is the
    turned kernel's convolution of that by the output, with zeros between its numbers where windows are strides apart.
    """

    seconds = 9e-6

    def __init__(self, layer: Any, taken: Shape, given: Shape, *, first: bool) -> None:
        self._layer, self._first = layer, first
        self._taken, (self._outputs, high, wide) = image(taken), image(given)
        kernel, stride, dilation = (
            (1, *pair) if len(pair) == 1 else pair for pair in (layer.kernel_size, layer.stride, layer.dilation)
        )
        self._kernel = kernel
        left, _, top, _ = (*layer._reversed_padding_repeated_twice, 0, 0)[:4]
        self._numbers = self._taken[0] * math.prod(kernel)
        self._bias = layer.bias is not None
        width = self._numbers + self._bias
        trained = layer.weight.requires_grad
        self.parts: list[Part] = [Explicit(width * self._outputs)] if trained else []
        self.tells: list[Shape] = [(width, self._outputs)] if trained else []
        self._windows = Windows(self._taken, (high, wide), kernel, stride, dilation, (top, left), ones=self._bias)
        around = dilation[0] * (kernel[0] - 1) - top, dilation[1] * (kernel[1] - 1) - left
        self._errors = Windows(
            (self._outputs, high, wide), self._taken[1:], kernel, (1, 1), dilation, around, apart=stride
        )
        self.passing = 0 if first else self._errors.numbers
        self._weight, self._turned = torch.zeros(width, self._outputs), torch.zeros(0)
        self._given, self._slopes = slabs(0, high, wide, self._outputs), slabs(0, *self._taken[1:], self._taken[0])

    def begin(self, rows: int, piece: int) -> None:
        """Take the parameters, and make room for so many rows."""
        weight = self._layer.weight.detach().reshape(self._outputs, self._taken[0], *self._kernel)
        self._weight[: self._numbers] = self._windows.lines(weight)
        if self._bias:
            self._weight[self._numbers] = self._layer.bias.detach()
        if not self._first:
            self._turned = self._errors.lines(weight.transpose(0, 1).flip(2, 3)).contiguous()
        if rows > self._given.shape[0]:
            self._given = slabs(rows, *self._given.shape[1:], clear=False)
            self._windows.hold(rows, min(rows, piece))

    def forward(self, x: Tensor, first: int) -> Tensor:
        """As :class:`Stage`."""
        given = self._given[first : first + x.shape[0]]
        for windows, output in zip(self._windows.of(x, first), given.flatten(1, 2).unbind(0), strict=True):
            torch.mm(windows, self._weight, out=output)
        return given

    def backward(self, error: Tensor, first: int, told: Sequence[Sequence[Tensor]]) -> Tensor | None:
        """As :class:`Stage`."""
        if told:
            errors = on_boundaries(error).flatten(1, 2).unbind(0)
            for windows, one, place in zip(self._windows.turned(error.shape[0], first), errors, told[0], strict=True):
                torch.mm(windows, one, out=place)
        if self._first:
            return None
        if error.shape[0] > self._slopes.shape[0]:
            self._slopes = slabs(error.shape[0], *self._slopes.shape[1:], clear=False)
            self._errors.hold(error.shape[0], error.shape[0])
        slopes = self._slopes[: error.shape[0]]
        for windows, slope in zip(self._errors.of(error, 0), slopes.flatten(1, 2).unbind(0), strict=True):
            torch.mm(windows, self._turned, out=slope)
        return slopes

    def told_as_parameters(self, numbers: Tensor) -> list[Tensor]:
        """[numbers, outputs] as weight and bias are packed."""
        table = numbers.view(-1, self._outputs)
        found = [self._windows.kernels(table[: self._numbers]).reshape(-1)]
        return [*found, table[self._numbers]] if self._bias else found


class Relu:
    """Zero or the number itself.

    Args:
        in_place: whether what came before has no use for what it gave.
    """

    seconds = 3e-6

    def __init__(self, *, in_place: bool) -> None:
        self.parts: list[Part] = []
        self.tells: list[Shape] = []
        self._relu = torch.relu_ if in_place else torch.relu
        self._given: dict[int, Tensor] = {}

    def begin(self, rows: int, piece: int) -> None:
        """As :class:`Stage`."""
        self._given.clear()

    def forward(self, x: Tensor, first: int) -> Tensor:
        """As :class:`Stage`."""
        found = self._given[first] = self._relu(x)
        return found

    def backward(self, error: Tensor, first: int, told: Sequence[Sequence[Tensor]]) -> Tensor | None:
        """As :class:`Stage`."""
        found: Tensor = torch.ops.aten.threshold_backward(error, self._given.pop(first), 0)
        return found


class MaxPool:
    """Windows that do not overlap: each number's derivative goes to one, or nowhere."""

    seconds = 6e-6

    def __init__(self, part: Any) -> None:
        self.parts: list[Part] = []
        self.tells: list[Shape] = []
        kernel, stride, padding = (_pair(value) for value in (part.kernel_size, part.stride, part.padding))
        self._how = kernel, stride, padding, [1, 1], part.ceil_mode
        self._seen: dict[int, tuple[Tensor, Tensor]] = {}

    @staticmethod
    def takes(part: Any) -> bool:
        """Whether a module is one."""
        if type(part) is not nn.MaxPool2d or _pair(part.dilation) != [1, 1] or part.return_indices:
            return False
        return all(s >= k for s, k in zip(_pair(part.stride), _pair(part.kernel_size), strict=True))

    def begin(self, rows: int, piece: int) -> None:
        """As :class:`Stage`."""
        self._seen.clear()

    def forward(self, x: Tensor, first: int) -> Tensor:
        """As :class:`Stage`."""
        planes = x.permute(0, 3, 1, 2)
        found, where = torch.ops.aten.max_pool2d_with_indices(planes, *self._how)
        self._seen[first] = planes, where
        given: Tensor = found.permute(0, 2, 3, 1)
        return given

    def backward(self, error: Tensor, first: int, told: Sequence[Sequence[Tensor]]) -> Tensor | None:
        """As :class:`Stage`."""
        planes, where = self._seen.pop(first)
        found = torch.ops.aten.max_pool2d_with_indices_backward(error.permute(0, 3, 1, 2), planes, *self._how, where)
        slope: Tensor = found.permute(0, 2, 3, 1)
        return slope


def _pair(value: int | tuple[int, int]) -> list[int]:
    return [value, value] if isinstance(value, int) else list(value)
