"""A convolution with the pooling and the ReLU behind it, compiled: most of what a trunk does, as one stage.

Rows are taken one after another, each sum in one order (``fedkit/native/convolution.c``): no call of a library decides
on a row's bits. Behind a pool all of an error stands where the largest number was, so both derivatives take one window
for each number of the result, whatever a row holds: a fourth of all windows where pools are 2 x 2.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fedkit.native.library import library
from fedkit.privacy.tap_sum import Explicit, Part
from fedkit.training.trunk_form import LANES, RUN, form_of
from fedkit.training.windows import Pair, Shape


class CompiledConvolution:
    """As :class:`fedkit.training.trunk_layers.Stage`; there must be a library.

    Args:
        taken, given: shapes of a row, before the convolution and behind the pooling.
        pool: kernel and stride, as :func:`fedkit.training.trunk_form.pool_of` gives them.
        relu: whether one comes behind.
        first: whether nobody asks for the derivative by the input.
    """

    seconds = 4e-6

    def __init__(
        self, layer: Any, taken: Shape, given: Shape, pool: tuple[Pair, Pair], *, relu: bool, first: bool
    ) -> None:
        self._layer, self._first = layer, first
        self._form = form = form_of(layer, taken, given, pool, relu=relu)
        self._outputs, self._numbers = form.given[2], form.number.size
        self._kernel = (1, *layer.kernel_size)[-2:]
        trained, width = layer.weight.requires_grad, self._numbers + (layer.bias is not None)
        self.parts: list[Part] = [Explicit(width * self._outputs)] if trained else []
        self.tells: list[Shape] = [(self._outputs, width)] if trained else []
        self._weight, self._shift = torch.zeros(self._numbers, form.columns), torch.zeros(form.columns)
        # Behind the last kernel there is as much as may be read with it.
        amid = torch.zeros(self._outputs * torch.Size(form.field).numel() + RUN * LANES)
        self._kernels = amid[: -RUN * LANES].view(self._outputs, *form.field)
        self._room = torch.zeros(form.room)
        self._frames, self._found, self._where = self._made(0)

    def _made(self, rows: int) -> tuple[Tensor, Tensor, Tensor]:
        """Frames with zeros around, what comes of them, and from where."""
        given = self._form.given
        where = torch.empty(rows, *given, dtype=torch.int32)
        return torch.zeros(rows, self._form.frame), torch.empty(rows, *given), where

    def begin(self, rows: int, piece: int) -> None:
        """Take the parameters, and make room for so many rows."""
        weight = self._layer.weight.detach().reshape(self._outputs, -1, *self._kernel).permute(0, 2, 3, 1)
        self._weight[:, : self._outputs] = weight.reshape(self._outputs, -1).t()
        self._kernels[:, *self._form.inside] = weight
        if self._layer.bias is not None:
            self._shift[: self._outputs] = self._layer.bias.detach()
        if rows > len(self._frames):
            self._frames, self._found, self._where = self._made(rows)

    def forward(self, x: Tensor, first: int) -> Tensor:
        """As :class:`Stage`."""
        form, (frames, found, where) = self._form, self._rows(x, first, self._form.taken)
        x = x.contiguous()
        _library().fedkit_convolve(
            *(form.words.ctypes.data, form.base.ctypes.data, form.number.ctypes.data),
            *(self._weight.data_ptr(), self._shift.data_ptr(), x.data_ptr(), len(x)),
            *(frames.data_ptr(), found.data_ptr(), where.data_ptr()),
        )
        return found

    def backward(self, error: Tensor, first: int, told: Sequence[Sequence[Tensor]]) -> Tensor | None:
        """As :class:`Stage`."""
        form, (frames, found, where) = self._form, self._rows(error, first, self._form.given)
        error = error.contiguous()
        slope = None if self._first else torch.empty(len(error), *form.taken)
        places = (ctypes.c_void_p * len(error))(*map(Tensor.data_ptr, told[0])) if told else None
        _library().fedkit_convolve_back(
            *(form.words.ctypes.data, form.base.ctypes.data, form.start.ctypes.data, form.amid.ctypes.data),
            *(self._kernels.data_ptr(), error.data_ptr(), len(error)),
            *(frames.data_ptr(), found.data_ptr(), where.data_ptr(), places),
            *(None if slope is None else slope.data_ptr(), self._room.data_ptr()),
        )
        return slope

    def told_as_parameters(self, numbers: Tensor) -> list[Tensor]:
        """[outputs, numbers] as weight and bias are packed."""
        table = numbers.view(self._outputs, -1)
        kernels = table[:, : self._numbers].reshape(self._outputs, *self._kernel, -1)
        found = [kernels.permute(0, 3, 1, 2).reshape(-1)]
        return found if self._layer.bias is None else [*found, table[:, self._numbers]]

    def _rows(self, values: Tensor, first: int, shape: Shape) -> Sequence[Tensor]:
        """What is held of the rows from ``first`` on, if there is room for them and they are of that shape."""
        rows = values.shape[0]
        if values.shape[1:] != shape or values.dtype != torch.float32 or first + rows > len(self._frames):
            raise ValueError(f"rows {first} to {first + rows} of {values.dtype} {tuple(values.shape[1:])}, not {shape}")
        return [part[first : first + rows] for part in (self._frames, self._found, self._where)]


def _library() -> ctypes.CDLL:
    found = library()
    if found is None:
        raise RuntimeError("a compiled convolution without the library")
    return found
