"""Where a compiled convolution's numbers stand in memory: tables that ``fedkit/native/convolution.c`` reads."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from fedkit.training.windows import Pair, Shape, image
from fedkit.types import Int64

Int32 = NDArray[np.int32]
LANES, TILE, RUN = 8, 4, 8
"""float32 numbers of a vector; positions that are computed together; vectors of a kernel that are read together."""


@dataclass(frozen=True)
class Form:
    """Of a convolution and the pooling behind it.

    Attributes:
        words: the C structure ``convolution``.
        base: int32 [positions of a pool, pools]: where each one's window begins in a frame.
        number: int32 [numbers]: where a window's numbers are from there; start: where its vectors are.
        amid: int32 [positions]: where in a kernel's field a pool's print begins.
        given: pools down and across, outputs. taken: height, width, channels.
        field: lines, places of a line, channels of a kernel amid its zeros. inside: the kernel's own lines and places.
        frame: numbers of a frame. columns: outputs, in whole vectors.
        room: numbers that a backward pass needs.
    """

    words: Int64
    base: Int32
    number: Int32
    start: Int32
    amid: Int32
    given: Shape
    taken: Shape
    field: Shape
    inside: tuple[slice, slice]
    frame: int
    columns: int
    room: int


def form_of(layer: Any, taken: Shape, given: Shape, pool: tuple[Pair, Pair], *, relu: bool) -> Form:
    """Lay one out.

    Args:
        taken, given: shapes of a row before the convolution and behind the pooling.
        pool: its kernel and stride.
    """
    channels, high, wide = image(taken)
    outputs, down, across = image(given)
    kernel, stride, dilation = (
        (1, *pair) if len(pair) == 1 else pair for pair in (layer.kernel_size, layer.stride, layer.dilation)
    )
    left, right, top, bottom = (*layer._reversed_padding_repeated_twice, 0, 0)[:4]
    line = channels * (wide + left + right)
    size, apart = pool
    step = stride[0] * line, stride[1] * channels
    pools, positions = _grid((down, across), (apart[0] * step[0], apart[1] * step[1])), _grid(size, step)
    lines = _grid(kernel, (dilation[0] * line, dilation[1] * channels))
    pieces = lines if dilation[1] > 1 else lines[:: kernel[1]]
    numbers, columns = len(lines) * channels, _up(outputs, LANES)
    length = numbers // len(pieces)
    start = pieces[:, None] + np.arange(0, length, LANES)
    # In whole tiles: those that are missing begin where the first does, and are written nowhere.
    tiles = np.zeros(_up(len(pools), TILE), dtype=np.int64)
    tiles[: len(pools)] = pools
    around = [(n - 1) * s for n, s in zip(size, stride, strict=True)]
    spans = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    prints, print_wide = around[0] + spans[0], (around[1] + spans[1]) * channels
    field = prints + around[0], 2 * around[1] + spans[1], channels
    pitch = field[1] * channels
    amid = _grid(size, (-stride[0] * pitch, -stride[1] * channels)) + around[0] * pitch + around[1] * channels
    # A window's last vector may reach beyond a frame's last number.
    frame = _up(line * (high + top + bottom) + LANES, LANES)
    words = [
        *(len(pools), len(positions), outputs, columns, numbers, layer.bias is not None, start.size, length),
        *(high, wide * channels, top * line + left * channels, line, frame, relu),
        *(prints, print_wide, pitch, math.prod(field)),
    ]
    return Form(
        words=np.array(words, dtype=np.int64),
        base=_table(positions[:, None] + tiles),
        number=_table(lines[:, None] + np.arange(channels)),
        start=_table(start),
        amid=_table(amid),
        given=(down, across, outputs),
        taken=(high, wide, channels),
        field=field,
        inside=(
            slice(around[0], around[0] + spans[0], dilation[0]),
            slice(around[1], around[1] + spans[1], dilation[1]),
        ),
        frame=frame,
        columns=columns,
        room=5 * columns * _up(len(pools), LANES) + 2 * start.size * LANES + frame,
    )


def pool_of(part: Any) -> tuple[Pair, Pair] | None:
    """Kernel and stride of a pooling that can stand behind a compiled convolution; None for any other module."""
    if type(part) is not nn.MaxPool2d or part.return_indices or part.ceil_mode:
        return None
    kernel, stride, padding, dilation = map(_pair, (part.kernel_size, part.stride, part.padding, part.dilation))
    apart = stride[0] >= kernel[0] and stride[1] >= kernel[1]
    return (kernel, stride) if apart and padding == (0, 0) and dilation == (1, 1) else None


def _grid(sizes: Pair, steps: Pair) -> Int64:
    """Where each of some lines' numbers stands; int64 [numbers]."""
    return np.add.outer(np.arange(sizes[0]) * steps[0], np.arange(sizes[1]) * steps[1]).reshape(-1)


def _table(places: Int64) -> Int32:
    return np.ascontiguousarray(places, dtype=np.int32)


def _up(count: int, grain: int) -> int:
    return math.ceil(count / grain) * grain


def _pair(value: int | tuple[int, int]) -> Pair:
    return (value, value) if isinstance(value, int) else (value[0], value[1])
