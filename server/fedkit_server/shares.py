"""How many of a costly thing each user, and all of them together, may have at a time."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from fedkit.errors import DeploymentError


@dataclass
class Shares:
    """Counts what is held; may be called from any thread.

    Attributes:
        each: one user's share.
        most: what all have together.
    """

    each: int = 2
    most: int = 8
    _held: Counter[str] = field(default_factory=Counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def take(self, name: str) -> Iterator[None]:
        """Hold one until the block ends.

        Raises:
            DeploymentError: FK725, the share is used up.
        """
        with self._lock:
            mine, all_ = self._held[name], self._held.total()
            if mine >= self.each or all_ >= self.most:
                whose = f"{name} is" if mine >= self.each else "users are"
                raise DeploymentError(
                    f"{whose} being sent {mine if mine >= self.each else all_} runs at once, which is the most",
                    code="FK725",
                    remedy="wait until they have arrived",
                )
            self._held[name] += 1
        try:
            yield
        finally:
            with self._lock:
                self._held[name] -= 1
                if not self._held[name]:
                    del self._held[name]
