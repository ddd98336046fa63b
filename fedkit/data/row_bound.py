"""A bound on the rows that one unit may use, so that no patient with a long history speaks for many.

The guarantee of a unit does not need it (a unit is one clip whatever its rows); the others' share of a lot does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from fedkit.data.units import uniforms
from fedkit.types import Int64

_SEPARATOR = "\x1f"


def within_bound(
    owner: Int64, texts: Callable[[Int64], Iterable[str]], most: int, seed: int
) -> tuple[NDArray[np.bool_], tuple[str, ...]]:
    """Mark at most ``most`` rows of each owner: those with the smallest keyed hash (HMAC-SHA256).

    Args:
        owner: int64 [n], one number for each unit at each site.
        texts: row indices to a text of each, from the unit's id and the row's own values; asked of crowded owners only.
        seed: the split's seed; the key is made for the purpose ``rows``.

    Returns:
        bool [n], True for rows that are used, and a warning with the number of others, if there are any.

    Guarantee: which rows are kept follows from the unit's own rows and the seed; rows of other units and the order of
    the table change nothing, up to exchanging rows whose texts are equal.

    >>> kept, told = within_bound(np.array([0, 1, 0, 0]), lambda rows: [f"row {row}" for row in rows], 2, seed=1)
    >>> int(kept.sum()), bool(kept[1]), told
    (3, True, ('1 row beyond data.max_rows_per_unit=2 of its unit is left out',))
    """
    kept = np.ones(len(owner), dtype=np.bool_)
    if not len(owner):
        return kept, ()
    crowded = np.flatnonzero(np.bincount(owner)[owner] > most)
    if not len(crowded):
        return kept, ()
    owners = owner[crowded]
    draws = uniforms(_numbered(owners.tolist(), texts(crowded)), "rows", seed)
    order = np.lexsort((draws, owners))
    starts = np.flatnonzero(np.r_[True, np.diff(owners[order]) != 0])
    rank = np.arange(len(order)) - np.repeat(starts, np.diff(np.r_[starts, len(order)]))
    kept[crowded[order[rank >= most]]] = False
    return kept, (_told(int((~kept).sum()), most),)


def _numbered(owners: Sequence[int], texts: Iterable[str]) -> list[str]:
    """Each row's text and its number among the equal rows of its owner."""
    seen: Counter[tuple[int, str]] = Counter()
    numbered = []
    for row in zip(owners, texts, strict=True):
        numbered.append(f"{row[1]}{_SEPARATOR}{seen[row]}")
        seen[row] += 1
    return numbered


def _told(dropped: int, most: int) -> str:
    what, are = ("1 row", "its unit is") if dropped == 1 else (f"{dropped} rows", "their units are")
    return f"{what} beyond data.max_rows_per_unit={most} of {are} left out"
