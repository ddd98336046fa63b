"""How many messages a site takes that bring nothing new: each is lines of its audit log, which nothing may cut off."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

_REMEMBERED = 1000


@dataclass
class Patience:
    """Counts messages that were refused, or asked again for what was answered.

    An honest coordinator asks again after 5 to 60 s, of each run. What is given up is not the message, which is taken
    later, and never a line of the log: 17,280 such messages a day are some 15 MB.

    Args:
        most: at once.
        each: seconds after which one more may come.
    """

    most: float = 200.0
    each: float = 5.0
    clock: Callable[[], float] = time.monotonic
    _left: float = field(init=False)
    _at: float = field(init=False)
    _told: bool = False
    _known: OrderedDict[tuple[str, str, int], None] = field(default_factory=OrderedDict)

    def __post_init__(self) -> None:
        """Begin with all of it."""
        self._left, self._at = self.most, self.clock()

    def count(self, kind: str, run: str, number: int, *, refused: bool) -> None:
        """A message is about to be answered."""
        shown = kind, run, number
        self._refill()
        if refused or shown in self._known:
            self._left -= 1.0
        if not refused:
            self._known[shown] = None
            self._known.move_to_end(shown)
            if len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)

    def pause(self) -> float:
        """Seconds until the next message may be taken."""
        self._refill()
        return 0.0 if self._left >= 0.0 else -self._left * self.each

    def first(self) -> bool:
        """Whether this is the first pause since there was room for half of them: what is said once is enough."""
        self._told, told = True, self._told
        return not told

    def _refill(self) -> None:
        now = self.clock()
        self._left, self._at = min(self.most, self._left + (now - self._at) / self.each), now
        self._told = self._told and self._left < self.most / 2
