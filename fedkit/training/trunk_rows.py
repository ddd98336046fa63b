"""Passes of a trunk's other layers, once a row: see :mod:`fedkit.training.trunk_layers`, whose stages these are too."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from fedkit.privacy.tap_sum import Explicit, Part
from fedkit.training.stack import POINTWISE
from fedkit.training.tap_layers import Kind
from fedkit.training.windows import Shape, on_boundaries, slabs


class Pointwise:
    """A function of single numbers that rounds, once a row."""

    seconds = 12e-6

    def __init__(self, part: nn.Module) -> None:
        self.parts: list[Part] = []
        self.tells: list[Shape] = []
        self._function = POINTWISE[type(part)](part)
        self._seen: dict[int, tuple[Tensor, Tensor]] = {}

    @staticmethod
    def takes(part: nn.Module) -> bool:
        """Whether a module is one."""
        return type(part) in POINTWISE

    def begin(self, rows: int, piece: int) -> None:
        """As :class:`Stage`."""
        self._seen.clear()

    def forward(self, x: Tensor, first: int) -> Tensor:
        """As :class:`Stage`."""
        x = on_boundaries(x)
        found = _each(self._function.forward, x)
        self._seen[first] = x, found
        return found

    def backward(self, error: Tensor, first: int, told: Sequence[Sequence[Tensor]]) -> Tensor | None:
        """As :class:`Stage`."""
        return _each(self._function.backward, on_boundaries(error), *self._seen.pop(first))


class GroupNorm:
    """Statistics of each row by itself, once a row."""

    seconds = 25e-6

    def __init__(self, part: Any, taken: Shape) -> None:
        self._part, (self._channels, *sizes) = part, taken
        self._size = math.prod(sizes)
        own = [] if part.weight is None else [part.weight, part.bias]
        trained = any(p.requires_grad for p in own)
        self.parts: list[Part] = [Explicit(self._channels) for _ in own] if trained else []
        self.tells: list[Shape] = [(self._channels,) for _ in self.parts]
        self._seen: dict[int, list[tuple[Tensor, Tensor, Tensor]]] = {}

    def begin(self, rows: int, piece: int) -> None:
        """As :class:`Stage`."""
        self._seen.clear()

    def forward(self, x: Tensor, first: int) -> Tensor:
        """As :class:`Stage`."""
        m, seen = self._part, []
        found = slabs(*x.shape)
        for row, output in zip(_planes(on_boundaries(x)), _planes(found), strict=True):
            shape = 1, self._channels, self._size, m.num_groups
            given, mean, rstd = torch.ops.aten.native_group_norm(row, m.weight, m.bias, *shape, m.eps)
            output.copy_(given)
            seen.append((row, mean, rstd))
        self._seen[first] = seen
        return found

    def backward(self, error: Tensor, first: int, told: Sequence[Sequence[Tensor]]) -> Tensor | None:
        """As :class:`Stage`."""
        m, asked = self._part, [True, bool(told), bool(told)]
        found = slabs(*error.shape)
        rows = zip(self._seen.pop(first), _planes(on_boundaries(error)), _planes(found), strict=True)
        for at, ((row, mean, rstd), own, slope) in enumerate(rows):
            shape = 1, self._channels, self._size, m.num_groups
            one = torch.ops.aten.native_group_norm_backward(own, row, mean, rstd, m.weight, *shape, asked)
            slope.copy_(one[0])
            # Of one row the derivatives by scale and shift are the row's own.
            for places, part in zip(told, one[1:], strict=False):
                places[at].copy_(part)
        return found


class Alone:
    """Any other module: each row in an array of its own, through autograd."""

    seconds = 70e-6

    def __init__(self, part: Any, kind: Kind | None, given: Shape) -> None:
        self._part, self._kind, self._signal = part, kind, len(given) == 2
        trained = any(p.requires_grad for p in part.parameters())
        self.parts: list[Part] = kind.parts(part, torch.Size(given)) if kind and trained else []
        self.tells: list[Shape] = [(each.size,) for each in self.parts]
        self._seen: dict[int, list[tuple[Tensor, Tensor]]] = {}

    def begin(self, rows: int, piece: int) -> None:
        """As :class:`Stage`."""
        self._seen.clear()

    def forward(self, x: Tensor, first: int) -> Tensor:
        """As :class:`Stage`."""
        seen = []
        for row in self._rows(x):
            taken = row.clone(memory_format=torch.contiguous_format).requires_grad_()
            with torch.enable_grad():
                seen.append((taken, self._part.forward(taken)))
        self._seen[first] = seen
        given = torch.cat([output.detach() for _, output in seen])
        return (given.unsqueeze(2) if self._signal else given).permute(0, 2, 3, 1)

    def backward(self, error: Tensor, first: int, told: Sequence[Sequence[Tensor]]) -> Tensor | None:
        """As :class:`Stage`."""
        slopes = []
        for at, ((taken, output), row) in enumerate(zip(self._seen.pop(first), self._rows(error), strict=True)):
            own = row.clone(memory_format=torch.contiguous_format)
            slopes.append(torch.autograd.grad(output, taken, own)[0])
            if self._kind and self.parts:
                for places, (values,) in zip(told, self._kind.told(self._part, taken.detach(), own), strict=True):
                    places[at].copy_(values[0])
        found = torch.cat(slopes)
        return (found.unsqueeze(2) if self._signal else found).permute(0, 2, 3, 1)

    def _rows(self, values: Tensor) -> Sequence[Tensor]:
        planes = values.permute(0, 3, 1, 2)
        return torch.split(planes.squeeze(2) if self._signal else planes, 1)


def _planes(values: Tensor) -> Sequence[Tensor]:
    """Each row as [1, channels, height, width]."""
    return torch.split(values.permute(0, 3, 1, 2), 1)


def _each(function: Callable[..., Tensor], *arrays: Tensor) -> Tensor:
    """A function of single numbers on each row of arrays on boundaries."""
    found = slabs(*arrays[0].shape)
    for output, *row in zip(found.flatten(1).unbind(0), *(part.flatten(1).unbind(0) for part in arrays), strict=True):
        output.copy_(function(*row))
    return found
