"""A round's weighted mean, added up in pairs as a tree over the places of its sites.

A running mean has one order, and one process that keeps it. In a tree each half of the sites has a mean of its own,
which can be made where they are trained; halves of halves likewise. Which bits come out follows from the updates and
the number of places alone, not from who adds up what; a running mean's differ from them by float32's rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from fedkit.strategies.streaming import fold
from fedkit.types import Float32

Span = tuple[int, int]
"""First place, and that after the last."""


@dataclass(frozen=True)
class Part:
    """The weighted mean of some updates.

    Attributes:
        mean: float32 [d], which whoever joins parts may overwrite.
    """

    mean: Float32
    weight: float


Take = Callable[[int], Part | None]
"""The part of one place; None where nothing came of it. Places are asked for from the first to the last."""


def part_of(delta: Float32, weight: float) -> Part:
    """One update by itself, copied."""
    return Part(np.array(delta, np.float32), weight)


def join(left: Part | None, right: Part | None, *, precise: bool = False) -> Part | None:
    """Two neighbours' mean, in the memory of the left one.

    Args:
        precise: see :class:`fedkit.strategies.streaming.Streaming`.

    >>> join(Part(np.zeros(1, np.float32), 1.0), Part(np.array([4.0], np.float32), 3.0))
    Part(mean=array([3.], dtype=float32), weight=4.0)
    """
    if left is None or right is None:
        return right if left is None else left
    return Part(left.mean, fold(left.mean, left.weight, right.mean, right.weight, precise=precise))


def spans_within(places: int, first: int, last: int) -> list[Span]:
    """The largest subtrees that cover a range of the places exactly, in order; two a level of the tree at most.

    >>> spans_within(8, 0, 8), spans_within(8, 4, 8), spans_within(8, 1, 6)
    ([(0, 8)], [(4, 8)], [(1, 2), (2, 4), (4, 6)])
    """

    def within(low: int, high: int) -> Iterator[Span]:
        if first <= low and high <= last:
            yield low, high
        elif max(low, first) < min(high, last):
            middle = _middle(low, high)
            yield from within(low, middle)
            yield from within(middle, high)

    return list(within(0, places)) if places else []


def mean_over(span: Span, take: Take, *, precise: bool = False) -> Part | None:
    """The mean of a subtree's places; in memory are one part a level, at most."""
    low, high = span
    if high - low == 1:
        return take(low)
    middle = _middle(low, high)
    left = mean_over((low, middle), take, precise=precise)
    return join(left, mean_over((middle, high), take, precise=precise), precise=precise)


def mean_from(places: int, parts: Mapping[Span, Part | None], *, precise: bool = False) -> Part | None:
    """The mean over all places from that of subtrees that cover them.

    Raises:
        KeyError: a place that no subtree covers.
    """

    def over(low: int, high: int) -> Part | None:
        if (low, high) in parts:
            return parts[low, high]
        if high - low == 1:
            raise KeyError((low, high))
        middle = _middle(low, high)
        left = over(low, middle)
        return join(left, over(middle, high), precise=precise)

    return over(0, places)


def cuts(places: int, depth: int) -> list[int]:
    """Where the subtrees of one level begin and end, ascending.

    >>> cuts(10, 0), cuts(10, 1), cuts(10, 2)
    ([0, 10], [0, 5, 10], [0, 2, 5, 7, 10])
    """
    ends = [0, places]
    for _ in range(depth):
        ends = sorted({*ends, *(_middle(low, high) for low, high in pairwise(ends))})
    return ends


def _middle(low: int, high: int) -> int:
    return (low + high) // 2
