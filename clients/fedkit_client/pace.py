"""Keeps to a bandwidth: a token bucket that sleeps in place of sending too fast."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from fedkit_client.frames import nothing

_LONGEST_NAP = 1.0


@dataclass
class Pace:
    """Called with the number of bytes that are about to pass, or that have come.

    Args:
        rate: bytes a second.
        burst: seconds whose bytes may pass at once.
        nap: called between two naps of at most a second, so that signs of life go on.

    Guarantee: over any time t, what was let pass is at most ``rate * (t + burst)`` bytes and the last call's.

    >>> clock = [0.0]
    >>> pace = Pace(1000, clock=lambda: clock[0], sleep=lambda s: clock.__setitem__(0, clock[0] + s))
    >>> for _ in range(3): pace(1000)
    >>> clock[0]
    2.0
    """

    rate: float
    burst: float = 1.0
    nap: Callable[[], None] = nothing
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    _free_at: float = field(default=float("-inf"))

    def __call__(self, size: int) -> None:
        """Wait until ``size`` bytes may pass."""
        now = self.clock()
        self._free_at = max(self._free_at, now - self.burst) + size / self.rate
        while (wait := self._free_at - self.clock()) > 1e-9:
            self.sleep(min(wait, _LONGEST_NAP))
            self.nap()
