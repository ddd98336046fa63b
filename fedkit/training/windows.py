"""Windows of images side by side, a matrix for each row, so that a convolution is a matrix product a row.

Arrays are [rows, height, width, channels], a signal's height is 1. Every row's numbers begin on a boundary of ``GRAIN``
numbers, so that a call with one row's numbers is the same call for every row.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

GRAIN = 32
"""float32 numbers: two cache lines, and two of the widest vectors."""
_FEW_CHANNELS = 8
_PITCH = 16
Shape = tuple[int, ...]
Pair = tuple[int, int]


def slabs(rows: int, *shape: int, clear: bool = True) -> Tensor:
    """float32 [rows, *shape], each row on a boundary; zeros, or whatever memory holds where all is written first."""
    stride = -(-math.prod(shape) // GRAIN) * GRAIN
    strides = [math.prod(shape[at + 1 :]) for at in range(len(shape))]
    return (torch.zeros if clear else torch.empty)(rows * stride).as_strided((rows, *shape), (stride, *strides))


def on_boundaries(values: Tensor) -> Tensor:
    """The same values, each row contiguous on a boundary."""
    if values.stride(0) % GRAIN == 0 and values[0].is_contiguous() and values.data_ptr() % 64 == 0:
        return values
    return slabs(*values.shape, clear=False).copy_(values)


def image(shape: Shape) -> tuple[int, int, int]:
    """Channels, height and width; a signal [channels, width] is an image of height 1."""
    return (shape[0], 1, shape[1]) if len(shape) == 2 else (shape[0], shape[1], shape[2])


class Windows:
    """The windows of some rows: [windows, numbers] each, or held the other way where channels are few.

    Whichever copies longer runs: lines of a kernel with all their channels, or of windows that follow one another.

    Args:
        taken: channels, height and width. given: windows down and across.
        kernel, stride, dilation: as a convolution has them.
        before: rows and columns of zeros above and to the left; below 0, so many are left out.
        apart: the distance at which the input's numbers are spread, with zeros between them.
        ones: whether a 1 is added to each window.

    Attributes:
        numbers: that a row has in all windows.
    """

    def __init__(
        self,
        taken: tuple[int, int, int],
        given: Pair,
        kernel: Pair,
        stride: Pair,
        dilation: Pair,
        before: Pair,
        *,
        apart: Pair = (1, 1),
        ones: bool = False,
    ) -> None:
        self._channels, *self._sizes = taken
        self._given, self._kernel, self._stride, self._dilation = given, kernel, stride, dilation
        self._few = self._channels < _FEW_CHANNELS
        self._numbers, self._ones = self._channels * math.prod(kernel), ones
        self.numbers = (self._numbers + ones) * math.prod(given)
        reach = zip(given, stride, dilation, kernel, strict=True)
        self._padded_sizes = [(count - 1) * s + d * (k - 1) + 1 for count, s, d, k in reach]
        self._from, self._into = zip(*map(_overlap, self._sizes, before, apart, self._padded_sizes), strict=True)
        self.hold(0, 0)

    def hold(self, rows: int, piece: int) -> None:
        """Make room for so many rows, and for the windows of a piece of them; what was held is gone."""
        self._filled = -1
        width, count, channels = self._numbers + self._ones, math.prod(self._given), self._channels
        if self._few:
            padded = slabs(rows, channels, *self._padded_sizes)
            row, plane, line, one = padded.stride()
            held = slabs(piece, width, count, clear=False)
            inside = held[:, : self._numbers].view(piece, channels, *self._kernel, *self._given)
            (down, right), (by_i, by_j) = self._stride, self._dilation
            strides = (row, plane, by_i * line, by_j * one, down * line, right * one)
            self._inside = padded[:, :, *self._into]
            last, other = held[:, -1], held.transpose(1, 2)
            self._rows, self._turned = other.unbind(0), held.unbind(0)
        else:
            padded = slabs(rows, *self._padded_sizes, channels)
            row, line, one, number = padded.stride()
            held = slabs(piece, count, -(-width // _PITCH) * _PITCH, clear=False)[..., :width]
            inside = held[..., : self._numbers].view(piece, *self._given, *self._kernel, channels)
            (down, right), (by_i, by_j) = self._stride, self._dilation
            strides = (row, down * line, right * one, by_i * line, by_j * one, number)
            self._inside = padded[:, *self._into]
            last, other = held[..., -1], held.transpose(1, 2)
            self._rows, self._turned = held.unbind(0), other.unbind(0)
        if self._ones:
            last.fill_(1.0)
        self._windows, self._shifted = inside, padded.as_strided((rows, *inside.shape[1:]), strides)

    def of(self, x: Tensor, first: int) -> Sequence[Tensor]:
        """The windows of a piece [rows, height, width, channels], from row ``first`` on: [windows, numbers] each."""
        x = x[:, *self._from]
        self._inside[first : first + x.shape[0]].copy_(x.permute(0, 3, 1, 2) if self._few else x)
        self._fill(x.shape[0], first)
        return self._rows[: x.shape[0]]

    def turned(self, rows: int, first: int) -> Sequence[Tensor]:
        """The windows of so many rows as they are held, [numbers, windows] each."""
        # To copy them again takes less than to fetch them from where a whole lot's are.
        if self._filled != first:
            self._fill(rows, first)
        return self._turned[:rows]

    def _fill(self, rows: int, first: int) -> None:
        self._windows[:rows].copy_(self._shifted[first : first + rows])
        self._filled = first

    def lines(self, kernels: Tensor) -> Tensor:
        """Kernels [outputs, channels, height, width] as [numbers, outputs], in the order of a window."""
        return (kernels if self._few else kernels.permute(0, 2, 3, 1)).reshape(len(kernels), -1).t()

    def kernels(self, lines: Tensor) -> Tensor:
        """Lines [numbers, outputs] as kernels [outputs, channels, height, width]."""
        if self._few:
            return lines.t().reshape(-1, self._channels, *self._kernel)
        return lines.t().reshape(-1, *self._kernel, self._channels).permute(0, 3, 1, 2)


def _overlap(size: int, before: int, apart: int, padded: int) -> tuple[slice, slice]:
    """Which of a side's numbers stand in the padded side, and where."""
    skipped = max(0, -(before // apart))
    start = before + skipped * apart
    count = max(0, min(size - skipped, -(-(padded - start) // apart)))
    return slice(skipped, skipped + count), slice(start, start + (count - 1) * apart + 1 if count else start, apart)
