"""Where the rows of a lot stand in the arrays that a model sees, so that none changes the arithmetic of another.

Matrix products sum in an order that depends on the number of rows and on a row's place among them: with parameters
chosen for it (1e9 in the null space of some rows) a row that joins would change other rows' float32 gradients by whole
clips, however small rounding usually is. So every array has a shape that is public, and every row a place that is
drawn without looking at records. Then a row's result follows from its own values, its place and the parameters alone.

Guarantee: for tables D and D' = D and one more unit, draw the places for D' and leave the unit's own place empty: that
is a draw for D, and in both every other row has the same result, bit for bit. The sums then differ by the unit's own
clipped integers, exactly; and DP of each such pair of draws is DP of the mixture over draws (joint convexity).

- *Slots*, for record units: ``max_lot`` places in blocks of a public size, given out as a random injection.
- *Columns*, where so many places cost too much: each row draws one of a few columns; rows of a column take one block
  after the other, and all blocks have one shape, so which block a row is in changes nothing.
- *Alone*, for units of several rows: a unit is an array of its own.
- *By themselves*, in the trunk of a convolutional model (:mod:`fedkit.training.trunk_layers`): arrays have as many rows
  as the lot, but each product and function that rounds is called once a row, with operands of one shape on one boundary
  of memory. A row's call is the same call whichever rows there are, so no place is needed: the pair of draws above is
  one draw. What is summed over rows has places again. In compiled code (``fedkit/native/products.h``) each number of a
  row is one sum in the order of its index, and what is summed over rows is whole numbers.

What a model draws at random (dropout) is seeded anew for each block.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from fedkit.privacy.randomness import Source
from fedkit.types import Int64

CHEAP = 2**22
"""Places times parameters up to which empty places cost next to nothing."""
WASTE = 1.6
COLUMNS = 4


@dataclass(frozen=True)
class Block:
    """Some rows of a lot, and their places in an array of ``size`` rows.

    Attributes:
        rows: int64 [k], indices into the lot. places: int64 [k], below ``size``.
        first: in slots, where the block begins among all places.
    """

    rows: Int64
    places: Int64
    size: int
    first: int = 0


def blocks_of(rows: int, source: Source, *, max_lot: int, lot_size: float, d: int, most: int) -> Iterator[Block]:
    """The blocks of one lot of record units.

    Args:
        rows: of the lot.
        max_lot, lot_size: public bound and expectation of it. d: number of parameters.
        most: the largest block, public.
    """
    if in_slots(rows, max_lot=max_lot, lot_size=lot_size, d=d):
        yield from slots_of(rows, source, max_lot, most)
    else:
        yield from columns_of(rows, source, min(COLUMNS, most))


def in_slots(rows: int, *, max_lot: int, lot_size: float, d: int) -> bool:
    """Whether a lot's rows get a place each; columns otherwise."""
    return rows <= max_lot and (max_lot * d <= CHEAP or max_lot <= WASTE * lot_size)


def columns_of(rows: int, source: Source, width: int) -> Iterator[Block]:
    """Blocks of ``width`` places: each row in a column of its own drawing."""
    column = source.columns(rows, width)
    order = np.argsort(column, kind="stable")
    counts = np.bincount(column, minlength=width)
    rank = np.empty(rows, dtype=np.int64)
    rank[order] = np.arange(rows) - np.repeat(np.cumsum(counts) - counts, counts)
    for number in range(int(counts.max(initial=0))):
        here = np.flatnonzero(rank == number)
        yield Block(here, column[here], width)


def slots_of(rows: int, source: Source, places: int, most: int) -> Iterator[Block]:
    """Blocks of ``places`` places in all, at most ``most`` each: each row in one that no other has."""
    place = source.permutation(places)[:rows]
    if places <= most:
        if rows:
            yield Block(np.arange(rows), place, places)
        return
    for first in range(0, places, most):
        size = min(most, places - first)
        here = np.flatnonzero((place >= first) & (place < first + size))
        if len(here):
            yield Block(here, place[here] - first, size, first)
