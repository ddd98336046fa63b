"""Copies of one stack of Linear layers at several sites, and all that a step of plain training writes to.

Made once and used in every round: memory that is new to a process costs more than a small model's step. As in
:mod:`fedkit.training.stacked`, what belongs to one site begins on a boundary of vectors wherever it is read, so that a
site's bits do not depend on who shares the call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedkit.training.stack import Layer
from fedkit.training.stacked import GRAIN, blocks, like, whole
from fedkit.types import Float32

Residual = Callable[[Tensor, Tensor], None]
"""(outputs [sites, places, k], the first of which are the task's; where the errors go, of :func:`blocks`)."""


@dataclass
class _Part:
    """What so many sites' steps read and write of one layer; views of one another, made once.

    Attributes:
        turned, back: the weights as forward and backward multiply by them. head: where the next layer's inputs lie.
        across: the errors as gradients multiply them. relu: whether ReLU alone is behind the layer.
    """

    layer: Layer
    weight: Tensor
    turned: Tensor
    back: Tensor
    taken: Tensor
    head: Tensor | None
    output: Tensor
    error: Tensor
    across: Tensor
    relu: bool


class Copies:
    """Parameters of some sites, [sites, outputs, columns] a layer: the bias is a column, and columns of zeros fill up.

    Args:
        places: rows of a step, those of nobody included.
    """

    def __init__(self, layers: Sequence[Layer], places: int) -> None:
        self.layers, self.places, self.sites = tuple(layers), places, 0
        self.shapes = [(rows := max(2, each.outputs), _columns(each.width, rows)) for each in layers]
        self._ends = np.cumsum([0, *(each.size for each in layers)]).tolist()
        self._parts: dict[int, list[_Part]] = {}
        self._parameters: list[Tensor] = []
        self._slopes: list[Tensor] = []

    @property
    def width(self) -> int:
        """Columns of the first layer's input."""
        return self.shapes[0][1]

    def load(self, parameters: Float32, sites: int) -> None:
        """Give so many copies the received model."""
        if sites > self.sites:
            self._make(sites)
        received = torch.from_numpy(np.array(parameters, dtype=np.float32))
        self._received = [received[a:b] for a, b in zip(self._ends[:-1], self._ends[1:], strict=True)]
        for layer, (rows, columns), all_, mine in zip(
            self.layers, self.shapes, self._parameters, self._received, strict=True
        ):
            one = torch.zeros(rows, columns)
            weights = layer.inputs * layer.outputs
            one[: layer.outputs, : layer.inputs] = mine[:weights].view(layer.outputs, layer.inputs)
            if layer.bias:
                one[: layer.outputs, layer.inputs] = mine[weights:]
            all_[:sites].copy_(one.expand(sites, rows, columns))

    def parameters(self, sites: int) -> list[Tensor]:
        """Of the first sites, [sites, outputs, columns] a layer."""
        return [each[:sites] for each in self._parameters]

    def moved(self, sites: int) -> Float32:
        """How far each copy is from the received model, float32 [sites, d], in the order in which a model is packed."""
        found = torch.empty(sites, self._ends[-1])
        for layer, at, trained, received in zip(
            self.layers, self._ends, self._parameters, self._received, strict=False
        ):
            middle = at + layer.inputs * layer.outputs
            shape = (layer.outputs, layer.inputs)
            into = found[:, at:middle].view(sites, *shape)
            before = received[: middle - at].view(1, *shape)
            torch.sub(trained[:sites, : layer.outputs, : layer.inputs], before, out=into)
            if layer.bias:
                last = found[:, middle : at + layer.size]
                torch.sub(trained[:sites, : layer.outputs, layer.inputs], received[None, middle - at :], out=last)
        result: Float32 = found.numpy()
        return result

    def take(self, x: Tensor, index: Tensor) -> None:
        """Put rows of ``x`` [all, width] into the first sites' places [sites, places]."""
        into = self._of(len(index))[0].taken
        flat = index.reshape(-1)
        if into.is_contiguous():
            torch.index_select(x, 0, flat, out=into.view(-1, self.width))
        else:
            into.copy_(x.index_select(0, flat).view(into.shape))

    def passes(self, sites: int, residual: Residual) -> None:
        """Forward and backward of the rows that were taken; :meth:`descend` and :meth:`slopes` read what is left."""
        parts, traces = self._of(sites), []
        for part in parts:
            hidden = torch.bmm(part.taken, part.turned, out=part.output)
            trace = []
            if part.relu and part.head is not None:
                # Exact, so that it does not matter where a number stands.
                torch.clamp_min(hidden, 0, out=part.head)
            elif part.layer.after:
                # Its own memory is the errors'.
                hidden = blocks(*hidden.shape).copy_(hidden)
                for function in part.layer.after:
                    before, hidden = hidden, like(hidden, function.forward(whole(hidden)))
                    trace.append((function, before, hidden))
            if part.head is not None and not part.relu:
                part.head.copy_(hidden)
            traces.append(trace)
        residual(hidden, parts[-1].error)
        for index in reversed(range(len(parts))):
            part, error = parts[index], parts[index].error
            if part.relu and part.head is not None:
                torch.ops.aten.threshold_backward.grad_input(error, part.head, 0, grad_input=error)
            for function, before, after in reversed(traces[index]):
                error.copy_(like(error, function.backward(whole(error), whole(before), whole(after))))
            if index:
                # Where this product is written to changes its bits, unlike the forward one: each site on a boundary.
                torch.bmm(error, part.back, out=parts[index - 1].error)

    def descend(self, sites: int, rate: float) -> None:
        """Move the copies against their gradients."""
        for part in self._of(sites):
            part.weight.baddbmm_(part.across, part.taken, alpha=-rate)

    def slopes(self, sites: int) -> list[Tensor]:
        """The gradients, [sites, outputs, columns] a layer; overwritten by the next call."""
        if not self._slopes:
            self._slopes = [torch.zeros_like(each) for each in self._parameters]
        found = [(part, slope[:sites]) for part, slope in zip(self._of(sites), self._slopes, strict=True)]
        return [torch.bmm(part.across, part.taken, out=slope) for part, slope in found]

    def _make(self, sites: int) -> None:
        self.sites = sites
        self._parts.clear()
        self._slopes = []
        self._parameters = [torch.zeros(sites, *shape) for shape in self.shapes]
        self._inputs = [blocks(sites, self.places, columns) for _, columns in self.shapes]
        for part, layer in zip(self._inputs, self.layers, strict=True):
            whole(part).zero_()
            if layer.bias:
                part[..., layer.inputs] = 1.0
        self._errors = [blocks(sites, self.places, rows) for rows, _ in self.shapes]
        for part in self._errors:
            whole(part).zero_()
        # Forward products are written where nothing lies between the sites, which is many times as fast.
        self._outputs = [error if error.is_contiguous() else torch.zeros(error.shape) for error in self._errors]

    def _of(self, sites: int) -> list[_Part]:
        found = self._parts.get(sites)
        if found is None:
            found = self._parts[sites] = [self._part(index, sites) for index in range(len(self.layers))]
        return found

    def _part(self, index: int, sites: int) -> _Part:
        layer, last = self.layers[index], index + 1 == len(self.layers)
        weight, error = self._parameters[index][:sites], self._errors[index][:sites]
        own = self._outputs[index] is not self._errors[index]
        return _Part(
            layer,
            weight,
            weight.transpose(1, 2),
            weight[..., : layer.inputs],
            self._inputs[index][:sites],
            None if last else self._inputs[index + 1][:sites, :, : layer.outputs],
            self._outputs[index][:sites] if own else error,
            error,
            error.transpose(1, 2),
            len(layer.after) == 1 and layer.after[0].relu,
        )


def usable(layers: Sequence[Layer]) -> bool:
    """Whether no layer inside has one output, whose products would be of another kind where there are few sites."""
    return all(layer.outputs > 1 for layer in layers[:-1])


def _columns(width: int, rows: int) -> int:
    """At least ``width``, so that sites' weights follow one another on boundaries, and rather even ones.

    >>> [_columns(*shape) for shape in ((31, 64), (65, 32), (33, 2), (14, 2))]
    [32, 65, 48, 16]
    """
    grain = GRAIN // int(np.gcd(GRAIN, rows))
    even = max(grain, 8)
    wide = -(-width // even) * even
    return wide if grain > 1 or wide - width <= width / 16 else width
