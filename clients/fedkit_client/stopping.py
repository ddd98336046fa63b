"""SIGTERM and Ctrl-C end the loop at a place where nothing is half done."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType


class Stopping(BaseException):
    """Somebody asked the site to stop; no ``except Exception`` on the way takes it for a failure."""


@dataclass
class Stop:
    """Whether a stop was asked for.

    Attributes:
        grace: seconds that a request at work may still take.
    """

    grace: float = 8.0
    asked_at: float | None = None
    _at_rest: bool = False

    def listen(self) -> None:
        """Take SIGTERM and SIGINT from now on."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on)

    def _on(self, _number: int, _frame: FrameType | None) -> None:
        if self.asked_at is None:
            self.asked_at = time.monotonic()
        if self._at_rest:
            self._at_rest = False
            raise Stopping

    @contextmanager
    def at_rest(self) -> Iterator[None]:
        """Around waiting that may be cut off at any point.

        Raises:
            Stopping: a stop was asked for, before or meanwhile.
        """
        self._at_rest = True
        try:
            if self.asked_at is not None:
                raise Stopping
            yield
        finally:
            self._at_rest = False

    def check(self) -> None:
        """End work that has outlasted the grace.

        Raises:
            Stopping: a stop was asked for ``grace`` seconds ago.
        """
        if self.asked_at is not None and time.monotonic() - self.asked_at > self.grace:
            raise Stopping

    def sleep(self, seconds: float) -> None:
        """Wait, unless a stop is asked for."""
        with self.at_rest():
            time.sleep(seconds)
