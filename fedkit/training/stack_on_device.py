"""Copies of one stack of Linear layers on a device, and the clipped sums of all sites' lots as one piece of work."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fedkit.privacy.product_sum import fine_bits, fine_sums
from fedkit.privacy.tap_block import Grid
from fedkit.training.captured import captured
from fedkit.training.cohort_rows import RESIDUALS
from fedkit.training.losses import target_type
from fedkit.training.placed import Rows
from fedkit.training.stack import Layer
from fedkit.types import Task


class StackOnDevice:
    """Parameters of some sites.

    Args:
        sites, places: that arrays are made for. clip: C.

    Attributes:
        flat: float32 [sites, d], each site's in the order in which a model is packed.
    """

    def __init__(
        self, layers: Sequence[Layer], task: Task, sites: int, places: int, clip: float, device: torch.device
    ) -> None:
        self._layers, self._clip, self._residual = layers, clip, RESIDUALS[task.kind]
        ends = np.cumsum([0, *(layer.size for layer in layers)]).tolist()
        self.flat = torch.zeros((sites, ends[-1]), device=device)
        self._parts: list[tuple[Tensor, Tensor | None]] = []
        for layer, at, end in zip(layers, ends[:-1], ends[1:], strict=True):
            weight, bias = self.flat[:, at:end].tensor_split([layer.inputs * layer.outputs], 1)
            weight = weight.view(sites, layer.outputs, layer.inputs)
            self._parts.append((weight, bias.unsqueeze(1) if layer.bias else None))
        self._x = torch.zeros((sites, places, layers[0].inputs), device=device)
        self._y = torch.zeros((sites, places), dtype=target_type(task), device=device)
        self._present = torch.zeros((sites, places), dtype=torch.bool, device=device)
        self._grid = Grid(torch.tensor(fine_bits(places), device=device))
        self._work = captured(self._fine, device)

    def of_records(self, rows: Rows, nobody: Tensor, lots: Tensor) -> Tensor:
        """The clipped sums of a lot a site, whose rows are the units, on the lattice.

        Args:
            rows: of all sites, one after another. nobody: int64 [sites], the index of a row that is nobody's.
            lots: int64 [blocks, sites, places], the row in each place.

        Returns:
            int64 [sites, d] on the device; multiply by C / G for the sums.

        Guarantee: that of :func:`fedkit.privacy.product_sum.clipped_sums`.
        """
        return self._grid.rounded((self._block(rows, nobody, lot) for lot in lots), len(lots))

    def _block(self, rows: Rows, nobody: Tensor, lot: Tensor) -> Tensor:
        flat = lot.reshape(-1)
        torch.index_select(rows.x, 0, flat, out=self._x.view(-1, self._x.shape[-1]))
        torch.index_select(rows.y, 0, flat, out=self._y.view(-1))
        torch.ne(lot, nobody[:, None], out=self._present)
        return self._work()

    def _fine(self) -> Tensor:
        """Of what stands in the places: int64 [sites, d]."""
        hidden, inputs, traces = self._x, [], []
        for layer, (weight, bias) in zip(self._layers, self._parts, strict=True):
            taken = hidden
            inputs.append(torch.cat([taken, torch.ones_like(taken[..., :1])], -1) if layer.bias else taken)
            turned = weight.transpose(1, 2)
            hidden = torch.bmm(taken, turned) if bias is None else torch.baddbmm(bias, taken, turned)
            trace = []
            for function in layer.after:
                before, hidden = hidden, function.forward(hidden)
                trace.append((function, before, hidden))
            traces.append(trace)
        # What a function gave may be read by its derivative.
        error = self._residual(hidden.clone(), self._y)
        errors = []
        for (weight, _), trace in zip(reversed(self._parts), reversed(traces), strict=True):
            for function, before, after in reversed(trace):
                error = function.backward(error, before, after)
            errors.append(error)
            if len(errors) < len(self._parts):
                error = torch.bmm(error, weight)
        found = []
        for layer, total in zip(self._layers, fine_sums(inputs, errors[::-1], self._present, self._clip), strict=True):
            found += [part.flatten(1) for part in total.tensor_split([layer.inputs], -1)]
        return torch.cat(found, 1)
