"""Sorting networks: which numbers of a column to compare so that the wanted places of the sorted column are right.

A network is a fixed list of exchanges that does not depend on the numbers, so that each of them runs over thousands of
columns at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache


@dataclass(frozen=True)
class Exchange:
    """One comparison: afterwards the smaller of two numbers is to be on wire ``low``, the greater on ``high``.

    Attributes:
        keeps_low, keeps_high: whether anybody looks at that wire again.
    """

    low: int
    high: int
    keeps_low: bool
    keeps_high: bool


def sorting(size: int) -> Iterator[tuple[int, int]]:
    """The exchanges (low, high) that sort a column: Batcher's merge exchange (Knuth, vol. 3, 5.2.2, Algorithm M).

    >>> list(sorting(3))
    [(0, 2), (0, 1), (1, 2)]
    """
    p = first = 1 << (size - 1).bit_length() >> 1
    while p:
        q, r, d = first, 0, p
        while True:
            yield from ((i, i + d) for i in range(size - d) if i & p == r)
            if q == p:
                break
            q, r, d = q >> 1, p, q - p
        p >>= 1


@lru_cache(maxsize=64)
def selecting(size: int, wanted: range) -> tuple[Exchange, ...]:
    """The exchanges after which the wires ``wanted`` together hold those places of the sorted column.

    Among themselves they may lie in any order: for one place, for the middle two and for a sum that is all the same.

    Args:
        size: numbers a column.
        wanted: places, 0 the least.
    """
    # Backwards: what no wanted wire depends on is left out, and so is what only orders the wanted among themselves.
    live, unordered = set(wanted), set(wanted)
    kept = []
    for low, high in reversed(list(sorting(size))):
        if {low, high} <= unordered or not {low, high} & live:
            continue
        kept.append(Exchange(low, high, low in live, high in live))
        live |= {low, high}
        unordered -= {low, high}
    return tuple(reversed(kept))
