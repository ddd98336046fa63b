"""The clipped sums of a model that is tapped; draws are those of the reference, in its order.

A row stands in two arrays. In passes it has one of a few columns, in blocks of a width that costs least: a place that
no row takes costs a pass, and columns waste fewer the fewer there are. Until the lot is summed it has one of
``max_lot`` places. Both are drawn without looking at records, and all shapes are public: what
:mod:`fedkit.privacy.placement` says of a row holds of each.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from fedkit.privacy.dp_sgd import SampleLosses, most_rows
from fedkit.privacy.independence import Untouched, check_independence, moved, refusal, snapshot
from fedkit.privacy.lattice import LatticeSum
from fedkit.privacy.placement import Block, columns_of, slots_of
from fedkit.privacy.randomness import Source
from fedkit.privacy.tap_sum import MOST_PLACES, Explicit, Part, Product, TapSum
from fedkit.training.tap_layers import Told
from fedkit.training.tap_passes import Passes, passes
from fedkit.training.tapped import Tapped
from fedkit.types import Int64

_HELD = 2**25
"""float32 numbers that are held of a block's rows."""
_CALL, _MULTIPLICATION, _OF_VECTORS = 15e-6, 0.2e-9, 0.04e-9
"""Seconds, about, that a module takes in both passes beside its work, and a multiplication of a forward pass with all
that follows from it; in a model of vectors. They choose a width and nothing else."""


class TapGradients:
    """As :class:`fedkit.privacy.dp_sgd.LotGradients`, of a model whose parameters :func:`tap_gradients` holds."""

    def __init__(
        self,
        module: nn.Module,
        through: Passes,
        tapped: Tapped,
        losses: SampleLosses,
        places: Source,
        *,
        compiled: bool,
    ) -> None:
        self._module, self._through, self._tapped, self._losses, self._places = module, through, tapped, losses, places
        self._untouched = None if tapped.proven else Untouched(module)
        self._most, self._compiled = most_places(tapped), compiled
        self.d = sum(p.numel() for p in through.parameters)

    def of_records(
        self, x: Tensor, y: Tensor, max_grad_norm: float, source: Source, *, max_lot: int, lot_size: float
    ) -> Tensor:
        """The sum of the clipped gradients of a lot whose rows are the units, on the lattice.

        Args:
            x: float32 [rows, ...], y: targets [rows, ...].
            max_lot, lot_size: public bound and expectation of the rows.

        Returns:
            int64 [d]; multiply by C / G for the sum.

        Raises:
            TrainingError: FK404, forward or backward wrote into a parameter or a layer's input.

        Guarantee: a row that joins or leaves changes no other row's term, bit for bit.
        """
        total = TapSum(self._tapped.parts, max_grad_norm, compiled=self._compiled)
        self.keep()
        for block in self._blocks(len(x), max_lot):
            present = np.zeros(block.size, dtype=np.bool_)
            present[block.places] = True
            told = self.of_block(x[block.rows], y[block.rows], block, lot_size * min(1.0, block.size / max_lot))
            total.add(told, torch.from_numpy(present))
        self.check_kept()
        return self.packed(total.result())

    def of_units(self, x: Tensor, y: Tensor, unit: Int64, max_grad_norm: float, source: Source) -> Tensor:
        """The sum of the clipped gradients of units of any number of rows, each in arrays of its own.

        Args:
            x: float32 [rows, ...], y: targets [rows, ...]: all rows of the lot's units.
            unit: the unit that owns each row, ascending; a unit's gradient is the mean over its rows.

        Returns:
            int64 [d]; multiply by C / G for the sum.

        Raises:
            TrainingError: FK404, forward or backward wrote into a parameter.
        """
        device = self._through.parameters[0].device
        total = LatticeSum(self.d, max_grad_norm, device)
        self.keep()
        at, most = 0, most_rows(self.d)
        for count in torch.unique_consecutive(torch.from_numpy(unit), return_counts=True)[1].tolist():
            source.seed()
            sums = [torch.zeros((1, *p.shape), device=device) for p in self._through.parameters]
            # A unit's gradient is that of the sum over its rows: no row's own is needed.
            for first in range(at, at + count, most):
                last = min(first + most, at + count)
                for part, piece in zip(sums, self._of_rows(x[first:last], y[first:last]), strict=True):
                    part += piece
            total.add([part / count for part in sums])
            at += count
        self.check_kept()
        return total.result()

    def check(self, shape: tuple[int, ...], target: torch.dtype) -> None:
        """Refuse a model that mixes or remembers rows, draws at random, or uses a parameter past its layer.

        Args:
            shape: of one example. target: the type of the losses' targets.

        Raises:
            TrainingError: FK404; see :func:`fedkit.privacy.independence.check_independence`, which says what a probe
                can show.
        """

        def probe(x: Tensor, weights: Tensor) -> tuple[Tensor, list[Tensor]]:
            self.keep()
            outputs, gradients = self._weighted(x, weights, target)
            self.check_kept()
            for part, whole in zip(
                gradients, self._through.of_sum(x, lambda outputs: _weigh(outputs, weights)), strict=True
            ):
                if not torch.allclose(part.sum(0), whole, rtol=1e-3, atol=1e-4 * float(whole.abs().max()) + 1e-6):
                    raise refusal("a parameter is used past its layer")
            return outputs, gradients

        check_independence(probe, self._module, self._through.parameters, shape)
        x = torch.randn((2, *shape), generator=torch.Generator().manual_seed(1))
        if not torch.equal(*(self._module(x).detach() for _ in range(2))):
            raise refusal("forward draws at random")

    def _blocks(self, rows: int, max_lot: int) -> Iterator[Block]:
        if rows <= max_lot:
            return slots_of(rows, self._places, max_lot, self._most)
        return columns_of(rows, self._places, min(max_lot, self._most))

    def of_block(self, x: Tensor, y: Tensor, block: Block, expected: float, *, of_inputs: bool = False) -> list[Told]:
        """What the layers tell of the rows of a block, each at its place; zeros, or what is nobody's, elsewhere.

        Args:
            expected: public, the rows that may be expected in it.
            of_inputs: whether the loss's derivative by ``x`` comes last, as if a further part told it.
        """
        width = block_width(self._tapped, expected, block.size)
        if width >= block.size:
            return self.told(*_placed(x, y, block.places, block.size), of_inputs)
        if width == 1:
            rows, chosen = np.arange(len(block.rows)), None
            told = [self.told(x[k : k + 1].clone(), y[k : k + 1].clone(), of_inputs) for k in rows]
        else:
            inner = list(columns_of(len(block.rows), self._places, width))
            told = [self.told(*_placed(x[each.rows], y[each.rows], each.places, width), of_inputs) for each in inner]
            # A row's number among all columns of all blocks.
            chosen = torch.from_numpy(np.concatenate([k * width + each.places for k, each in enumerate(inner)]))
            rows = np.concatenate([each.rows for each in inner])
        places = torch.from_numpy(block.places[rows])
        return [
            tuple(_scattered(torch.cat(parts), chosen, places, block.size) for parts in zip(*values, strict=True))
            for values in zip(*told, strict=True)
        ]

    def _of_rows(self, x: Tensor, y: Tensor) -> list[Tensor]:
        return self._through.of_sum(x.clone(), lambda outputs: self._losses(outputs, y.clone()))

    def told(self, x: Tensor, y: Tensor, of_inputs: bool = False) -> list[Told]:
        """What the layers tell of the rows of an array; last, if asked for, the loss's derivative by the rows."""
        return self._through.told(x.requires_grad_(of_inputs), lambda outputs: self._losses(outputs, y))[1]

    def _weighted(self, x: Tensor, weights: Tensor, target: torch.dtype) -> tuple[Tensor, list[Tensor]]:
        """Outputs, and each row's gradient of unequal weights of them: the sum of a softmax has none."""
        outputs, told = self._through.told(x, lambda outputs: _weigh(outputs, weights))
        self._losses(outputs.detach(), torch.zeros(len(x), dtype=target))
        rows = zip(*(_rows(part, values) for part, values in zip(self._tapped.parts, told, strict=True)), strict=True)
        flat = torch.stack([self.packed(list(row)) for row in rows])
        parts = torch.split(flat, [p.numel() for p in self._through.parameters], 1)
        return outputs.detach(), [
            part.view(-1, *p.shape) for part, p in zip(parts, self._through.parameters, strict=True)
        ]

    def packed(self, parts: Sequence[Tensor]) -> Tensor:
        """[d] of each part's numbers, in the order in which a model is packed."""
        found = parts[0].new_empty(sum(part.numel() for part in parts))
        at = 0
        for part, numbers in zip(self._tapped.parts, parts, strict=True):
            here = found[at : at + numbers.numel()]
            if isinstance(part, Product):
                weight, bias = here.tensor_split([part.inputs * part.outputs])
                weight.view(part.outputs, part.inputs).copy_(numbers[:, : part.inputs])
                bias.copy_(numbers[:, part.inputs :].reshape(-1))
            else:
                here.copy_(numbers.reshape(-1))
            at += numbers.numel()
        return found

    def keep(self) -> None:
        """Remember the parameters as they are, of a model that is only probed."""
        if self._untouched is not None:
            self._untouched.keep()

    def check_kept(self) -> None:
        """Put back what was written into them since, and say so.

        Raises:
            TrainingError: FK404.
        """
        if self._untouched is not None:
            self._untouched.check()


@contextmanager
def tap_gradients(
    module: nn.Module, tapped: Tapped, losses: SampleLosses, places: Source, *, compiled: bool = False
) -> Iterator[TapGradients]:
    """Tap a model; what is hung on it is taken off again at the end.

    Args:
        places: where rows' places come from; no draw of the noise's source is used up for them.
        compiled: whether lots are summed in compiled code, where there is a library.

    Raises:
        TrainingError: FK404 (at the end), a model whose attributes have moved or whose parameters are other objects.
    """
    before, own = ({}, None) if tapped.proven else (snapshot(module), Untouched(module))
    with passes(module, tapped) as through:
        yield TapGradients(module, through, tapped, losses, places, compiled=compiled)
    if own is not None and (changed := [*moved(before, snapshot(module)), *own.replaced()]):
        raise refusal(f"{', '.join(changed)} changed")


def most_places(tapped: Tapped) -> int:
    """Rows of a block: those whose numbers are held at once."""
    return max(1, min(MOST_PLACES, _HELD // (tapped.held + tapped.passing)))


def block_width(tapped: Tapped, rows: float, places: int) -> int:
    """The width of the blocks of a lot's passes: of a power of two and all places at once, what should cost least.

    Args:
        rows: expected, of ``places`` places.

    >>> small, large = (Tapped((), True, work, 10, 1, 1) for work in (10**4, 10**6))
    >>> block_width(small, 30, 80), block_width(large, 30, 80)
    (80, 1)
    """
    widths: list[int] = [1 << k for k in range(places.bit_length()) if 1 << k < places]
    return min([*widths, places], key=lambda width: _seconds(tapped, rows, places, width))


def expected_seconds(tapped: Tapped, rows: float, places: int) -> float:
    """What a lot's passes should take, about, in blocks of that width."""
    return _seconds(tapped, rows, places, block_width(tapped, rows, places))


def _seconds(tapped: Tapped, rows: float, places: int, width: int) -> float:
    of_vectors = bool(tapped.taps) and all(isinstance(part, Product) for part in tapped.parts)
    each = _OF_VECTORS if of_vectors else _MULTIPLICATION
    share = rows / width
    passes = 1.0 if width == places else share + math.sqrt(2 * share * math.log(width))
    return passes * (_CALL * tapped.calls + width * each * tapped.work)


def _placed(x: Tensor, y: Tensor, places: Int64, size: int) -> tuple[Tensor, Tensor]:
    """Rows at their places in an array of their own, whose beginning does not depend on them."""
    whole_x, whole_y = torch.zeros((size, *x.shape[1:])), torch.zeros(size, dtype=y.dtype)
    at = torch.from_numpy(places)
    whole_x[at], whole_y[at] = x, y
    return whole_x, whole_y


def _scattered(values: Tensor, chosen: Tensor | None, places: Tensor, size: int) -> Tensor:
    if chosen is not None:
        values = values.index_select(0, chosen)
    return values.new_zeros((size, *values.shape[1:])).index_copy_(0, places, values)


def _weigh(outputs: Tensor, weights: Tensor) -> Tensor:
    if outputs.dim() == 0 or len(outputs) != len(weights):
        raise refusal("the model does not keep the batch as the first dimension")
    flat = outputs.flatten(1) if outputs.dim() > 1 else outputs[:, None]
    return (flat * torch.linspace(0.5, 1.5, flat.shape[1]) * weights[:, None]).sum()


def _rows(part: Part, values: Told) -> Tensor:
    """Each row's gradient, [rows, outputs, width] of a product, [rows, numbers] else."""
    if isinstance(part, Product):
        a, e = values
        a = torch.cat([a, a.new_ones(len(a), int(part.bias))], 1)
        return e[:, :, None] * a[:, None, :]
    if isinstance(part, Explicit):
        return values[0]
    lines, entries = values
    rows = torch.zeros(len(lines), part.lines, part.columns)
    return rows.scatter_add_(1, lines[:, :, None].expand_as(entries), entries)
