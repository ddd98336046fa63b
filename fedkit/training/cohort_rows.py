"""The rows of several sites in one array, and how far each step's are padded."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fedkit.training.losses import targets
from fedkit.training.stack import Layer
from fedkit.training.stacked import blocks
from fedkit.types import Int64, Site, Task


def padded(rows: int) -> int:
    """Places for so many rows: at most an eighth more, so that sites of about one size are trained together.

    A function of its argument alone: what a row's arithmetic depends on must not depend on who shares the call.

    >>> [padded(n) for n in (1, 16, 17, 50, 129)]
    [2, 16, 18, 52, 144]
    """
    grain = 1 << max(0, rows.bit_length() - 4)
    # One row's product would be of a vector, which is added up differently where there are few sites.
    return max(2, -(-rows // grain) * grain)


class Rows:
    """The training rows of some sites, with one more that is nobody's and stands in empty places.

    Attributes:
        x: float32 [rows + 1, width of the first layer]; y: targets [rows + 1]. nobody: index of the last row.
        starts: index of each site's first row.
    """

    def __init__(self, first: Layer, task: Task, sites: Sequence[Site]) -> None:
        counts = [len(site.train) for site in sites]
        self.starts = np.cumsum([0, *counts])
        self.nobody = int(self.starts[-1])
        x = np.zeros((self.nobody + 1, first.width), dtype=np.float32)
        for site, at in zip(sites, self.starts, strict=False):
            if len(site.train):
                x[at : at + len(site.train), : first.inputs] = site.train.x.reshape(len(site.train), -1)
        if first.bias:
            x[:, first.inputs] = 1.0
        self.x = torch.from_numpy(x)
        y = [targets(task, site.train) for site in sites]
        self.y = torch.cat([*y, torch.zeros(1, dtype=y[0].dtype)])
        self._residual = RESIDUALS[task.kind]

    def at(self, index: Int64) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """Rows [sites, places, width] of an index [sites, places], and their residuals."""
        flat = torch.from_numpy(index.reshape(-1))
        y = self.y.index_select(0, flat).view(index.shape)
        x = blocks(*index.shape, self.x.shape[1]).copy_(self.x.index_select(0, flat).view(*index.shape, -1))
        return x, lambda outputs: self._residual(outputs, y)


def _binary(outputs: Tensor, y: Tensor) -> Tensor:
    return outputs.sigmoid_().sub_(y.unsqueeze(-1))


def _multiclass(outputs: Tensor, y: Tensor) -> Tensor:
    error = F.softmax(outputs, -1)
    return error.scatter_add_(-1, y.unsqueeze(-1), error.new_full((*y.shape, 1), -1.0))


def _regression(outputs: Tensor, y: Tensor) -> Tensor:
    return outputs.sub_(y.unsqueeze(-1)).mul_(2.0)


RESIDUALS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "binary": _binary,
    "multiclass": _multiclass,
    "regression": _regression,
}
"""The derivative of each row's loss by its outputs [..., k]; outputs may be overwritten."""
