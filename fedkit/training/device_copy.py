"""A copy of a tapped model on a device, and the clipped sums of lots whose rows are there too."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

import numpy as np
import torch
from torch import Tensor, nn

from fedkit.privacy.randomness import Draws, Seeded
from fedkit.privacy.tap_block import Grid, bits_of, block_sum
from fedkit.privacy.tap_sum import MOST_PLACES
from fedkit.training.captured import captured
from fedkit.training.cohort_rows import padded
from fedkit.training.local import copy_of, summed
from fedkit.training.losses import target_type
from fedkit.training.placed import Rows
from fedkit.training.tap_gradients import tap_gradients
from fedkit.training.tapped import Tapped
from fedkit.types import Int64, PrivacyPlan, Task

_HELD = 2**29
"""float32 numbers that are held of a block's rows on a GPU."""
_PROGRAMS = 16


class DeviceCopy:
    """The model's copy; see :meth:`close`.

    Attributes:
        module: on the device. flat: float32 [d], which its trained parameters are views of.
    """

    def __init__(self, model: nn.Module, tapped: Tapped, task: Task, device: torch.device) -> None:
        self.module = copy_of(model).to(device)
        self.flat = _attached(self.module)
        self.device, self._tapped, self._task = device, tapped, task
        self._grid = Grid(bits_of(tapped.parts).to(device))
        self._most = max(1, min(MOST_PLACES, _HELD // (tapped.held + tapped.passing)))
        self._blocks: dict[tuple[object, ...], Callable[[Rows, Tensor], Tensor]] = {}
        self._open = ExitStack()
        # Where rows stand is drawn by whoever asks for a sum.
        places = Seeded("no places")
        self._gradients = self._open.enter_context(tap_gradients(self.module, tapped, summed(task), places))

    def close(self) -> None:
        """Take off what is hung on the copy.

        Raises:
            TrainingError: FK404, it keeps something of the rows beside its parameters.
        """
        self._open.close()

    def receive(self, model: nn.Module) -> None:
        """Take the parameters of a model of the same architecture, frozen ones too."""
        with torch.no_grad():
            for there, p in zip(self.module.parameters(), model.parameters(), strict=True):
                there.copy_(p)

    def places_of(self, plan: PrivacyPlan) -> int:
        """Of a block: what the largest lot needs, in as many blocks as memory asks for; public."""
        blocks = -(-plan.max_lot // self._most)
        return min(self._most, padded(-(-plan.max_lot // blocks)))

    def prepare(self, shape: tuple[int, ...], plan: PrivacyPlan) -> None:
        """Make ready for rows of a shape, with zeros in their place.

        Raises:
            RuntimeError: something has no deterministic form on the device.
        """
        self._block(shape, plan)

    def of_records(self, rows: Rows, lot: Tensor, plan: PrivacyPlan) -> Tensor:
        """The clipped sum of a lot whose rows are the units, on the lattice.

        Args:
            lot: int64 [blocks, places] on the device, the row in each place.

        Returns:
            int64 [d] on the device; multiply by C / G for the sum.

        Raises:
            TrainingError: FK404, forward or backward wrote into a parameter or a layer's input.

        Guarantee: a row that joins or leaves changes no other row's term, bit for bit; see
        :mod:`fedkit.privacy.placement` and :mod:`fedkit.privacy.tap_block`.
        """
        block = self._block(rows.x.shape[1:], plan)
        self._gradients.keep()
        total = self._grid.rounded((block(rows, index) for index in lot), len(lot))
        self._gradients.check_kept()
        return total

    def of_units(self, rows: Rows, lot: list[Int64], plan: PrivacyPlan, source: Draws) -> Tensor:
        """As :meth:`of_records`, of units of several rows, each in arrays of its own.

        Args:
            lot: the rows of each unit.
        """
        at = torch.from_numpy(np.concatenate([*lot, np.zeros(0, dtype=np.int64)])).to(self.device)
        unit = np.repeat(np.arange(len(lot)), [len(each) for each in lot])
        x, y = rows.x.index_select(0, at), rows.y.index_select(0, at)
        return self._gradients.of_units(x, y, unit, plan.max_grad_norm, source).to(self.device)

    def _block(self, shape: tuple[int, ...], plan: PrivacyPlan) -> Callable[[Rows, Tensor], Tensor]:
        """(rows, int64 [places]) -> the block's sum, which the next call overwrites."""
        key = self.places_of(plan), tuple(shape), plan.max_grad_norm
        if key not in self._blocks:
            if len(self._blocks) >= _PROGRAMS:
                self._blocks.clear()
            self._blocks[key] = self._made(*key)
        return self._blocks[key]

    def _made(self, places: int, shape: tuple[int, ...], clip: float) -> Callable[[Rows, Tensor], Tensor]:
        x = torch.zeros((places, *shape), device=self.device)
        y = torch.zeros(places, dtype=target_type(self._task), device=self.device)
        present = torch.zeros(places, dtype=torch.bool, device=self.device)

        def passed() -> Tensor:
            return block_sum(self._tapped.parts, self._gradients.told(x, y), present, clip)

        if self._tapped.proven:
            work = captured(passed, self.device)
        else:
            # What a model that is only probed does in Python is done every time, and once before records are there.
            work = passed
            self._gradients.keep()
            work()
            self._gradients.check_kept()

        def block(rows: Rows, index: Tensor) -> Tensor:
            torch.index_select(rows.x, 0, index, out=x)
            torch.index_select(rows.y, 0, index, out=y)
            torch.ne(index, rows.nobody, out=present)
            return work()

        return block


def _attached(module: nn.Module) -> Tensor:
    """The trained parameters made views of one tensor."""
    trained = [p for p in module.parameters() if p.requires_grad]
    flat = torch.cat([p.detach().reshape(-1) for p in trained])
    at = 0
    for p in trained:
        p.data = flat[at : at + p.numel()].view(p.shape)
        at += p.numel()
    return flat
