"""Where compiled code finds a site's rows: looked up once, and kept for as long as the site's records are in memory.

To look it up in each round took a twentieth of what a small site's training takes.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedkit.training.stack_compiled import rows_of, targets_of
from fedkit.types import Examples, Float32, Int64, Site, Task


@dataclass(frozen=True)
class SiteRead:
    """A site's rows as compiled code reads them; addresses hold for as long as this is held.

    Attributes:
        order: int64 [rows], rows in the order of their units. addresses: of x, y and order.
    """

    x: Float32
    y: NDArray[np.generic]
    order: Int64
    addresses: tuple[int, int, int]

    @classmethod
    def of(cls, site: Site, task: Task, width: int) -> SiteRead:
        """Read one.

        Raises:
            TrainingError: FK401 or FK409, rows of another width or another number of targets.
        """
        x, y = rows_of(site, width), targets_of(task, site)
        order = np.argsort(site.train.unit, kind="stable")
        return cls(x, y, order, (x.ctypes.data, y.ctypes.data, order.ctypes.data))


class SitesRead:
    """What was read of sites, by the records that they train on, whose arrays nobody changes."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[weakref.ref[Examples], Task, int, SiteRead]] = {}

    def __len__(self) -> int:
        return len(self._known)

    def of(self, site: Site, task: Task, width: int) -> SiteRead:
        """As :meth:`SiteRead.of`, once."""
        key = id(site.train)
        known = self._known.get(key)
        if known is not None and known[0]() is site.train and known[1:3] == (task, width):
            return known[3]
        found = SiteRead.of(site, task, width)
        self._known[key] = weakref.ref(site.train, _forget(self._known, key)), task, width, found
        return found


def _forget(known: dict[int, tuple[weakref.ref[Examples], Task, int, SiteRead]], key: int) -> Callable[[object], None]:
    """Let go of what was read of records that nobody holds any more: they may be a hundred thousand sites'."""

    def forget(dead: object) -> None:
        if key in known and known[key][0] is dead:
            del known[key]

    return forget
