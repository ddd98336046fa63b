"""Training rows on a device: sent there once and kept while the site is, not once a step."""

from __future__ import annotations

import weakref
from collections import OrderedDict
from dataclasses import dataclass, field

import torch
from torch import Tensor

from fedkit.training.losses import targets
from fedkit.types import Examples, Task

_SHARE = 0.25
"""Of a GPU's memory, for rows of sites that are not in training now."""


@dataclass(frozen=True)
class Rows:
    """A site's training rows, and one more that is nobody's and stands in empty places.

    Attributes:
        x: float32 [rows + 1, ...]. y: targets [rows + 1].
    """

    x: Tensor
    y: Tensor

    @property
    def nobody(self) -> int:
        """The index of the last row."""
        return len(self.y) - 1


@dataclass
class Placed:
    """The rows of the sites that were trained last, as many as have room.

    Attributes:
        most: bytes of them.
    """

    device: torch.device
    task: Task
    most: int = 0
    _held: OrderedDict[int, tuple[weakref.ref[Examples], Rows]] = field(default_factory=OrderedDict)
    _bytes: int = 0

    def __post_init__(self) -> None:
        if not self.most:
            total = torch.cuda.mem_get_info(self.device)[1] if self.device.type == "cuda" else 0
            self.most = int(_SHARE * total)

    def rows(self, examples: Examples) -> Rows:
        """The rows of some examples, which nobody writes to."""
        key = id(examples)
        found = self._held.get(key)
        if found is not None and found[0]() is examples:
            self._held.move_to_end(key)
            return found[1]
        self._drop(key)
        x = torch.zeros((len(examples) + 1, *examples.x.shape[1:]))
        x[:-1] = torch.from_numpy(examples.x) if examples.x.flags.writeable else torch.tensor(examples.x)
        y = targets(self.task, examples)
        rows = Rows(x.to(self.device), torch.cat([y, y.new_zeros(1)]).to(self.device))
        self._held[key] = weakref.ref(examples), rows
        self._bytes += _size(rows)
        while self._bytes > self.most and len(self._held) > 1:
            self._drop(next(iter(self._held)))
        for gone in [key for key, (kept, _) in self._held.items() if kept() is None]:
            self._drop(gone)
        return rows

    def _drop(self, key: int) -> None:
        if key in self._held:
            self._bytes -= _size(self._held.pop(key)[1])


def _size(rows: Rows) -> int:
    return rows.x.nbytes + rows.y.nbytes
