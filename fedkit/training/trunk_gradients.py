"""The clipped sums of a convolutional model: a lot is one block of its size in the trunk, and stands in places behind.

In the trunk no array's shape matters to a row (:mod:`fedkit.training.trunk_layers`): no place is left empty there, and
none of a row's numbers follows from how many rows there are. Behind it rows stand in places, as those of
:mod:`fedkit.training.tap_gradients` do, and so do all factors of gradients until they are summed: what
:mod:`fedkit.privacy.placement` says of a row holds of the whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from fedkit.privacy.dp_sgd import SampleLosses
from fedkit.privacy.placement import Block, columns_of, slots_of
from fedkit.privacy.randomness import Source
from fedkit.privacy.tap_sum import TapSum
from fedkit.training.tap_gradients import TapGradients, expected_seconds, most_places
from fedkit.training.tap_layers import Told
from fedkit.training.tap_passes import passes
from fedkit.training.tapped import Tapped
from fedkit.training.trunk import Trunk, cut
from fedkit.training.trunk_compiled import CompiledConvolution
from fedkit.training.trunk_layers import Convolution, Stage
from fedkit.training.windows import slabs
from fedkit.types import Int64


class TrunkGradients:
    """As :class:`fedkit.privacy.dp_sgd.LotGradients`, of a model whose parameters :func:`trunk_gradients` holds.

    Args:
        through: the stages of the trunk. head: for what is behind it.
        whole: the same for the model in one piece, for units of several rows.
    """

    def __init__(
        self,
        tapped: Tapped,
        trunk: Trunk,
        through: Sequence[Stage],
        head: TapGradients,
        whole: TapGradients,
        places: Source,
    ) -> None:
        self._tapped, self._trunk, self._stages, self._places = tapped, trunk, through, places
        self._head, self._whole = head, whole
        self._parts = [*trunk.parts, *trunk.head.parts]
        self._most = most_places(tapped)
        self._told: dict[int, list[tuple[Tensor, Sequence[Tensor]]]] = {}
        self._asked: tuple[float, int] | None = None
        self._cheaper = False
        self.d = whole.d

    def of_records(
        self, x: Tensor, y: Tensor, max_grad_norm: float, source: Source, *, max_lot: int, lot_size: float
    ) -> Tensor:
        """As :meth:`fedkit.training.tap_gradients.TapGradients.of_records`.

        Guarantee: a row that joins or leaves changes no other row's term, bit for bit.
        """
        asked = lot_size, min(max_lot, self._most)
        if self._asked != asked:
            self._asked, self._cheaper = asked, cheaper(self._trunk, self._tapped, *asked)
        if not self._cheaper:
            return self._whole.of_records(x, y, max_grad_norm, source, max_lot=max_lot, lot_size=lot_size)
        total = TapSum(self._parts, max_grad_norm, compiled=self._trunk.compiled)
        for block in self._blocks(len(x), max_lot):
            present = np.zeros(block.size, dtype=np.bool_)
            present[block.places] = True
            expected = lot_size * min(1.0, block.size / max_lot)
            told = self.of_block(x[block.rows], y[block.rows], block, expected)
            total.add(told, torch.from_numpy(present))
        return self.packed(total.result())

    def of_units(self, x: Tensor, y: Tensor, unit: Int64, max_grad_norm: float, source: Source) -> Tensor:
        """As :meth:`fedkit.training.tap_gradients.TapGradients.of_units`, which it is."""
        return self._whole.of_units(x, y, unit, max_grad_norm, source)

    @torch.no_grad()
    def of_block(self, x: Tensor, y: Tensor, block: Block, expected: float) -> list[Told]:
        """What the trunk's parts and the head's tell of the rows of a block, each at its place.

        Args:
            expected: public, the rows that may be expected in it.
        """
        piece = self._trunk.piece
        for stage in self._stages:
            # Room for all places at once: lots differ in size, and to make room takes as long as some rows.
            stage.begin(block.size, piece)
        features = torch.empty(len(x), self._trunk.features)
        pieces = range(0, len(x), piece)
        for first in pieces:
            rows = x[first : first + piece]
            rows = (rows if rows.dim() == 4 else rows.unsqueeze(2)).permute(0, 2, 3, 1)
            for stage in self._stages:
                rows = stage.forward(rows, first)
            self._planes(features[first : first + piece]).copy_(rows.permute(0, 3, 1, 2))
        *of_head, (errors,) = self._head.of_block(features, y, block, expected, of_inputs=True)
        errors = errors.index_select(0, torch.from_numpy(block.places))
        told = self._room(block.size)
        for first in reversed(pieces):
            here = block.places[first : first + piece].tolist()
            error = self._planes(errors[first : first + piece]).permute(0, 2, 3, 1)
            at = len(told)
            for stage in reversed(self._stages):
                at -= len(stage.parts)
                mine = [[by_place[place] for place in here] for _, by_place in told[at : at + len(stage.parts)]]
                slope = stage.backward(error, first, mine)
                if slope is None:
                    break
                error = slope
        return [*((part.flatten(1),) for part, _ in told), *of_head]

    def _planes(self, features: Tensor) -> Tensor:
        """Features [rows, numbers] as [rows, channels, height, width]."""
        channels, *sizes = self._trunk.shapes[-1]
        return features.view(len(features), channels, *([1] if len(sizes) == 1 else []), *sizes)

    def _room(self, places: int) -> list[tuple[Tensor, Sequence[Tensor]]]:
        """What the parts tell of so many places, in one piece and by place; at a place of no row is what was there."""
        held = self._told.get(places)
        if held is None:
            told = [slabs(places, *shape) for stage in self._stages for shape in stage.tells]
            held = [(part, part.unbind(0)) for part in told]
            # One size is all that most sites have.
            self._told = {places: held}
        return held

    def packed(self, parts: Sequence[Tensor]) -> Tensor:
        """[d] of each part's numbers, in the order in which a model is packed."""
        found, at = [], 0
        for stage in self._stages:
            for part in parts[at : at + len(stage.parts)]:
                found += (
                    stage.told_as_parameters(part) if isinstance(stage, Convolution | CompiledConvolution) else [part]
                )
            at += len(stage.parts)
        return torch.cat([*found, self._head.packed(parts[at:])])

    def _blocks(self, rows: int, max_lot: int) -> Iterator[Block]:
        if rows <= max_lot:
            return slots_of(rows, self._places, max_lot, self._most)
        return columns_of(rows, self._places, min(max_lot, self._most))


@contextmanager
def trunk_gradients(
    module: nn.Module, tapped: Tapped, trunk: Trunk, through: Sequence[Stage], losses: SampleLosses, places: Source
) -> Iterator[TrunkGradients]:
    """Cut and tap a model that is proven; what is changed of it is put back at the end.

    Args:
        through: the stages of its trunk, made while its parameters wanted gradients.
        places: where rows' places come from; no draw of the noise's source is used up for them.
    """
    behind = cut(module)[1]
    with passes(module, tapped) as whole, passes(behind, trunk.head) as head:
        yield TrunkGradients(
            tapped,
            trunk,
            through,
            TapGradients(behind, head, trunk.head, losses, places, compiled=trunk.compiled),
            TapGradients(module, whole, tapped, losses, places, compiled=trunk.compiled),
            places,
        )


def cheaper(trunk: Trunk, tapped: Tapped, rows: float, places: int) -> bool:
    """Whether a trunk's rows by themselves should cost less than blocks of rows in which places are left empty.

    Args:
        rows: expected, of ``places`` places; both public.
    """
    in_blocks = expected_seconds(tapped, rows, places)
    return rows * trunk.seconds + expected_seconds(trunk.head, rows, places) < in_blocks
