"""The part of a convolutional model in which rows are taken by themselves: its layers up to the first Flatten.

What comes behind it, the head, is small and its layers are matrix products, best made for all places of a lot at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from fedkit.privacy.tap_sum import Explicit, Part
from fedkit.training.tap_layers import KINDS
from fedkit.training.tapped import Tapped, leaves, tapped
from fedkit.training.trunk_compiled import CompiledConvolution
from fedkit.training.trunk_form import pool_of
from fedkit.training.trunk_layers import Convolution, MaxPool, Relu, Stage, is_relu, is_windows
from fedkit.training.trunk_rows import Alone, GroupNorm, Pointwise
from fedkit.training.windows import Shape

_MULTIPLICATION = 0.08e-9
"""Seconds that one of a forward pass takes, with all that follows from it."""
_PIECE, _COMPILED_PIECE = 8, 32
"""Rows that pass a layer together: few enough for the caches, and enough for what a call costs. Compiled code takes one
after another anyway."""
_PASSING = 2**22
"""float32 numbers of a piece's windows, at most; where a row has more, a library's convolution holds none."""


@dataclass(frozen=True)
class Trunk:
    """Where a model is cut.

    Attributes:
        shapes: of what each of the trunk's modules takes, and of what the last one gives: [channels, ...] of one row.
        parts: of a row's gradient in the trunk, as `fedkit.privacy.tap_sum` has them.
        head: what there is to tap behind the Flatten.
        seconds: that a row takes in the trunk, about. They choose a way and nothing else.
        piece: rows that pass a layer together. passing: float32 numbers that only they need.
        compiled: whether convolutions with a pooling behind them are.
    """

    shapes: tuple[Shape, ...]
    parts: tuple[Part, ...]
    head: Tapped
    seconds: float
    piece: int
    passing: int
    compiled: bool

    @property
    def features(self) -> int:
        """Numbers that the trunk gives of a row."""
        return torch.Size(self.shapes[-1]).numel()


def trunk_of(module: nn.Module, found: Tapped, input_shape: tuple[int, ...], *, compiled: bool) -> Trunk | None:
    """Where a model that is tapped can be cut; None where it has no convolution before a Flatten, is not proven, or
    is so wide that windows would be the most of its memory.

    Args:
        input_shape: of one example.
        compiled: whether to use the library, which must be there then.
    """
    parts = list(leaves(module))
    ends = [(at, part) for at, part in enumerate(parts) if type(part) is nn.Flatten]
    if not found.proven or not ends or (ends[0][1].start_dim, ends[0][1].end_dim) != (1, -1):
        return None
    trunk, behind = parts[: ends[0][0]], parts[ends[0][0] + 1 :]
    if len(input_shape) not in (2, 3) or not any(is_windows(part) for part in trunk):
        return None
    shapes = [tuple(input_shape)]
    with torch.no_grad():
        x = torch.zeros((1, *input_shape))
        for part in trunk:
            x = part(x)
            shapes.append(tuple(x.shape[1:]))
    if any(len(shape) != len(input_shape) for shape in shapes):
        return None
    passed = stages(trunk, shapes, compiled=compiled)
    told = [part for stage in passed for part in stage.parts]
    head = tapped(nn.Sequential(*behind), (x[0].numel(),))
    if isinstance(head, str) or not head.proven or not all(isinstance(part, Explicit) for part in told):
        return None
    seconds = sum(stage.seconds for stage in passed) + _MULTIPLICATION * (found.work - head.work)
    # Windows of errors, by far the most that a piece needs, beside what is held of every row.
    convolutions = [stage.passing for stage in passed if isinstance(stage, Convolution)]
    windows = max([1, *convolutions])
    piece = min(_PIECE if convolutions else _COMPILED_PIECE, _PASSING // windows)
    if not piece:
        return None
    return Trunk(tuple(shapes), tuple(told), head, seconds, piece, piece * windows, compiled)


def cut(module: nn.Module) -> tuple[list[nn.Module], nn.Sequential]:
    """The modules of a trunk, and the head."""
    parts = list(leaves(module))
    at = next(k for k, part in enumerate(parts) if type(part) is nn.Flatten)
    return parts[:at], nn.Sequential(*parts[at + 1 :])


def stages(parts: Sequence[nn.Module], shapes: Sequence[Shape], *, compiled: bool) -> list[Stage]:
    """How each module of a trunk is passed, in the order in which they are called; but a ReLU after a pooling.

    The largest of some numbers, or zero, is the largest of them and zero; and its derivative goes to the same one, or
    to none. Behind the pooling there are fewer.
    """
    called = [
        (part, taken, given)
        for part, taken, given in zip(parts, shapes, shapes[1:], strict=False)
        if type(part) is not nn.Identity
    ]
    for at in range(len(called) - 1):
        if is_relu(called[at][0]) and MaxPool.takes(called[at + 1][0]):
            called[at : at + 2] = called[at + 1], called[at]
    found: list[Stage] = []
    while called:
        part, taken, given = called.pop(0)
        pool = pool_of(called[0][0]) if called and is_windows(part) and len(taken) == 3 else None
        # Without a pooling a library's matrix products are as fast.
        if pool is not None and compiled:
            given = called.pop(0)[2]
            relu = bool(called) and is_relu(called[0][0])
            called = called[relu:]
            found.append(CompiledConvolution(part, taken, given, pool, relu=relu, first=not found))
        elif is_windows(part):
            found.append(Convolution(part, taken, given, first=not found))
        elif is_relu(part):
            found.append(Relu(in_place=bool(found) and type(found[-1]) in (Convolution, MaxPool)))
        elif MaxPool.takes(part):
            found.append(MaxPool(part))
        elif Pointwise.takes(part):
            found.append(Pointwise(part))
        elif type(part) is nn.GroupNorm:
            found.append(GroupNorm(part, taken))
        else:
            found.append(Alone(part, KINDS.get(type(part)), given))
    return found
