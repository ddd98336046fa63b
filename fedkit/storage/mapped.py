"""Large arrays mapped from files, read without ever being in memory whole."""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

CHUNK = 2**17
"""Entries of one slice: in float64 a temporary of 1 MiB, which stays in a core's cache."""

_KEPT = 2**25
_LET_GO = 16
"""Slices after which pages are given back: a call of the system for each would cost more than it saves."""


def slices(values: NDArray[Any]) -> Iterator[slice]:
    """Slices that cover an array of one dimension; of one that is mapped, the pages behind them are given back.

    Pages of a mapped file count as the process' memory from the first time that they are read: a reply of a gigabyte
    would be a gigabyte for as long as anybody holds it. They can be read again at any time.

    >>> [part.stop for part in slices(np.zeros(2**17 + 1))]
    [131072, 131073]
    """
    pages = _Pages.of(values)
    size = len(values)
    for number, start in enumerate(range(0, size, CHUNK), 1):
        stop = min(start + CHUNK, size)
        yield slice(start, stop)
        if pages is not None and (number % _LET_GO == 0 or stop == size):
            pages.let_go(stop)


def together(arrays: Sequence[NDArray[Any]], width: int) -> Iterator[slice]:
    """Slices that cover arrays of one length side by side; pages behind them are given back, as by :func:`slices`.

    All arrays together keep at most ``_KEPT`` bytes of their files in memory, or one slice of each.

    >>> [part.stop for part in together([np.zeros(5), np.ones(5)], 4)]
    [4, 5]
    """
    pages = [found for found in map(_Pages.of, arrays) if found is not None]
    size = len(arrays[0])
    often = max(1, _KEPT // (len(arrays) * width * arrays[0].itemsize))
    for number, start in enumerate(range(0, size, width), 1):
        stop = min(start + width, size)
        yield slice(start, stop)
        if number % often == 0 or stop == size:
            for each in pages:
                each.let_go(stop)


class _Pages:
    """Where in a mapping an array lies."""

    def __init__(self, mapping: mmap.mmap, values: NDArray[Any]) -> None:
        base = np.frombuffer(mapping, np.uint8)
        self._mapping, self._item = mapping, values.itemsize
        self._offset = values.ctypes.data - base.ctypes.data
        # Of an array that begins in the middle of a file, what lies before it is another reader's.
        self._done = -(-self._offset // mmap.PAGESIZE) * mmap.PAGESIZE

    @classmethod
    def of(cls, values: NDArray[Any]) -> _Pages | None:
        mapping = _mapping_of(values)
        if mapping is None or not hasattr(mapping, "madvise") or not values.flags.c_contiguous:
            return None
        return cls(mapping, values)

    def let_go(self, entries: int) -> None:
        # A page that is half read is given back with the half that follows.
        end = self._offset + entries * self._item
        at = end - end % mmap.PAGESIZE
        if at > self._done:
            self._mapping.madvise(mmap.MADV_DONTNEED, self._done, at - self._done)
            self._done = at


def _mapping_of(values: Any) -> mmap.mmap | None:
    """The read-only mapping of a file that an array is a view of, if it is one."""
    base = values
    while True:
        if isinstance(base, memoryview):
            base = base.obj
        elif isinstance(base, mmap.mmap):
            # What was written to a private mapping would be lost with its pages.
            return base if memoryview(base).readonly else None
        elif isinstance(base, np.ndarray):
            base = base.base
        else:
            return None
