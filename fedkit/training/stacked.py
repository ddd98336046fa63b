"""Many sites' copies of one stack of Linear layers, side by side: one matrix product a layer for all of them.

A site's bits must not depend on who shares the call. Sums inside a matrix product depend on how its operands are
aligned, and a function of single numbers on whether a number stands in a full vector or in the rest behind the last
one. So what belongs to one site begins on a boundary of ``GRAIN`` numbers in every array.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from fedkit.training.stack import Layer
from fedkit.types import Float32

GRAIN = 32
"""float32 numbers: two cache lines, and two of the widest vectors."""


def blocks(*shape: int) -> Tensor:
    """float32 [sites, rows, width], not initialised, each site on a boundary."""
    sites, rows, width = shape
    stride = _stride(rows * width)
    return torch.empty(sites * stride).as_strided((sites, rows, width), (stride, width, 1))


class Stacked:
    """Parameters and gradients of some sites.

    Attributes:
        parameters, gradients: float32 [sites, numbers] a layer; contiguous, with zeros up to the next boundary.
        weights, slopes: views of them, [sites, outputs, width], the bias as the last column.
    """

    def __init__(self, layers: Sequence[Layer], sites: int, parameters: Float32) -> None:
        self.layers, self.sites = layers, sites
        self.d = sum(layer.size for layer in layers)
        strides = [_stride(layer.size) for layer in layers]
        starts = np.cumsum([0, *(sites * stride for stride in strides)]).tolist()
        self._flats = torch.zeros(starts[-1]), torch.zeros(starts[-1])
        self.parameters, self.gradients = (
            [flat[at : at + sites * stride].view(sites, stride) for at, stride in zip(starts, strides, strict=False)]
            for flat in self._flats
        )
        self.weights, self.slopes = (self._views(parts) for parts in (self.parameters, self.gradients))
        received = torch.from_numpy(np.array(parameters, dtype=np.float32))
        for layer, at, weight in self._places(self.weights):
            middle = at + layer.inputs * layer.outputs
            weight[..., : layer.inputs] = received[at:middle].view(layer.outputs, layer.inputs)
            if layer.bias:
                weight[..., layer.inputs] = received[middle : at + layer.size]
        self._inputs: dict[tuple[int, int], list[Tensor]] = {}

    def parts(self, *, together: bool) -> tuple[list[Tensor], list[Tensor]]:
        """Parameters and gradients as updates see them: in one piece, or a layer at a time for some of the sites."""
        if together:
            return [self._flats[0]], [self._flats[1]]
        return self.parameters, self.gradients

    def packed(self) -> Float32:
        """Every site's parameters, float32 [sites, d], each in the order in which a model is packed."""
        found = torch.empty(self.sites, self.d)
        for layer, at, weight in self._places(self.weights):
            middle = at + layer.inputs * layer.outputs
            found[:, at:middle].view(self.sites, layer.outputs, layer.inputs).copy_(weight[..., : layer.inputs])
            if layer.bias:
                found[:, middle : at + layer.size] = weight[..., layer.inputs]
        result: Float32 = found.numpy()
        return result

    def add_packed(self, values: Tensor, sums: Sequence[Tensor]) -> None:
        """Add [sites, d], each in the order in which a model is packed, to [sites, outputs, width] a layer."""
        for layer, at, total in self._places(sums):
            middle = at + layer.inputs * layer.outputs
            total[..., : layer.inputs] += values[:, at:middle].view(len(values), layer.outputs, layer.inputs)
            if layer.bias:
                total[..., layer.inputs] += values[:, middle : at + layer.size]

    def passes(
        self, x: Tensor, residual: Callable[[Tensor], Tensor], first: int = 0
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Forward and backward through the copies of as many sites as ``x`` has.

        Args:
            x: float32 [sites, rows, width of the first layer], of :func:`blocks`, its last entries 1 where that layer
                has a bias.
            residual: outputs [sites, rows, k], which it may overwrite, -> each row's loss's derivative by them.
            first: the first of the sites.

        Returns:
            Each layer's inputs, [sites, rows, width], overwritten by the next call; and each layer's errors,
            [sites, rows, outputs], which may be overwritten.
        """
        sites, rows, _ = x.shape
        weights = [weight[first : first + sites] for weight in self.weights]
        inputs, traces = [x], []
        for index, (layer, weight) in enumerate(zip(self.layers, weights, strict=True)):
            hidden = _product(inputs[-1], weight.transpose(1, 2))
            trace = []
            for function in layer.after:
                before, hidden = hidden, like(hidden, function.forward(whole(hidden)))
                trace.append((function, before, hidden))
            traces.append(trace)
            if index + 1 < len(self.layers):
                inputs.append(self._with_bias(index, hidden, sites, rows))
        error = _aligned(residual(blocks(*hidden.shape).copy_(hidden) if traces[-1] else hidden))
        errors = []
        for index in reversed(range(len(self.layers))):
            for function, before, after in reversed(traces[index]):
                error = like(error, function.backward(*map(whole, (error, before, after))))
            errors.append(error)
            if index:
                error = _product(error, weights[index][..., : self.layers[index].inputs])
        return inputs, errors[::-1]

    def outputs(self, x: Tensor) -> Tensor:
        """Outputs [rows, k] of the first site's copy for rows [rows, width of the first layer]."""
        hidden = x
        for index, (layer, weight) in enumerate(zip(self.layers, self.weights, strict=True)):
            hidden = hidden @ weight[0].t()
            for function in layer.after:
                hidden = function.forward(hidden)
            if index + 1 < len(self.layers) and self.layers[index + 1].bias:
                hidden = torch.cat([hidden, hidden.new_ones(len(hidden), 1)], 1)
        return hidden

    def _with_bias(self, index: int, hidden: Tensor, sites: int, rows: int) -> Tensor:
        held = self._inputs.get((sites, rows))
        if held is None:
            held = self._inputs[sites, rows] = [blocks(sites, rows, layer.width) for layer in self.layers[1:]]
            for part, layer in zip(held, self.layers[1:], strict=True):
                part[..., layer.inputs :] = 1.0
        held[index][..., : self.layers[index + 1].inputs] = hidden
        return held[index]

    def _views(self, parts: Sequence[Tensor]) -> list[Tensor]:
        return [
            part[:, : layer.size].view(self.sites, layer.outputs, layer.width)
            for part, layer in zip(parts, self.layers, strict=True)
        ]

    def _places(self, tensors: Sequence[Tensor]) -> list[tuple[Layer, int, Tensor]]:
        """Each layer, where it begins in a packed model, and its tensor."""
        starts = np.cumsum([0, *(layer.size for layer in self.layers)]).tolist()
        return list(zip(self.layers, starts[:-1], tensors, strict=True))


def _stride(numbers: int) -> int:
    return -(-numbers // GRAIN) * GRAIN


def _product(left: Tensor, right: Tensor) -> Tensor:
    """[sites, rows, width] from [sites, rows, m] and [sites, m, width]."""
    found = blocks(*left.shape[:2], right.shape[2])
    if right.shape[2] == 1:
        # As a matrix product it would be one of another kind where there are few sites.
        return torch.sum(left * right.transpose(1, 2), -1, keepdim=True, out=found)
    return torch.bmm(left, right, out=found)


def whole(block: Tensor) -> Tensor:
    """All numbers of :func:`blocks` in one row, those between the sites too: full vectors to the end."""
    sites, rows, width = block.shape
    return block.as_strided((sites * _stride(rows * width),), (1,))


def like(block: Tensor, numbers: Tensor) -> Tensor:
    """Numbers that :func:`whole` gave, or a function of each, in the block's places."""
    sites, rows, width = block.shape
    return numbers.as_strided((sites, rows, width), (_stride(rows * width), width, 1))


def _aligned(values: Tensor) -> Tensor:
    """The same values in :func:`blocks`."""
    _, rows, width = values.shape
    if values.stride() == (_stride(rows * width), width, 1):
        return values
    return blocks(*values.shape).copy_(values)
