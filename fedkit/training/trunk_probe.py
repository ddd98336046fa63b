"""Whether this machine's libraries keep what a trunk is built on, asked of random numbers before it sees a record.

That the same call gives the same numbers follows from how a trunk makes its calls; that a library answers so is seen
here, once a run: rows alone, among others and at other places of the lot, next to numbers of 1e18 and to none.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from fedkit.models.flat import pack, unpack
from fedkit.privacy.placement import Block
from fedkit.privacy.randomness import Seeded
from fedkit.training.local import as_found, copy_of, summed
from fedkit.training.losses import target_type
from fedkit.training.tapped import Tapped
from fedkit.training.trunk import Trunk, cut, stages
from fedkit.training.trunk_gradients import TrunkGradients, trunk_gradients
from fedkit.types import Task

_PLACES, _ROWS = 16, 11
_KEPT, _LOUD = [2, 9], 1e18


def steady(module: nn.Module, tapped: Tapped, trunk: Trunk, task: Task, shape: tuple[int, ...]) -> bool:
    """Whether rows have the bits that they have alone, whoever stands beside them; the model itself is left alone.

    Args:
        shape: of one example.
    """
    probed = copy_of(module)
    unpack(probed, pack(module))
    with as_found():
        return _steady(probed, tapped, trunk, task, shape)


def _steady(module: nn.Module, tapped: Tapped, trunk: Trunk, task: Task, shape: tuple[int, ...]) -> bool:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn((_ROWS, *shape), generator=draw)
    places = np.random.default_rng(0).permutation(_PLACES)[:_ROWS]
    loud, nowhere = x * _LOUD, x * float("nan")
    loud[_KEPT], nowhere[_KEPT] = x[_KEPT], x[_KEPT]
    turned = np.arange(_ROWS)[::-1].copy()
    through = stages(cut(module)[0], trunk.shapes, compiled=trunk.compiled)
    with trunk_gradients(module, tapped, trunk, through, summed(task), Seeded("probe")) as gradients:

        def told(rows: Tensor, chosen: np.ndarray) -> list[Tensor]:
            return _told(gradients, rows[torch.from_numpy(chosen)], places[chosen], places[_KEPT], target_type(task))

        expected = told(x, np.arange(_ROWS))
        others = (
            told(x, turned),
            told(loud, np.arange(_ROWS)),
            told(nowhere, turned),
            told(x, np.array(_KEPT)),
            told(x, np.array(_KEPT[::-1])),
        )
    return all(torch.equal(a, b) for other in others for a, b in zip(expected, other, strict=True))


def _told(
    gradients: TrunkGradients, x: Tensor, places: np.ndarray, kept: np.ndarray, target: torch.dtype
) -> list[Tensor]:
    """The bits of what is told of the rows that are kept."""
    block = Block(np.arange(len(x)), places, _PLACES)
    told = gradients.of_block(x, torch.zeros(len(x), dtype=target), block, float(_PLACES))
    return [part[torch.from_numpy(kept)].contiguous().view(torch.int32) for parts in told for part in parts]
