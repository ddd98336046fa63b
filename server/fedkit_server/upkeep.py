"""What a running coordinator does by the clock: delete what it keeps beyond its deadline, once an hour."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from fedkit.storage.audit_line import Event
from fedkit.storage.chain import Head
from fedkit_server.folder import ServerFolder
from fedkit_server.log_retention import purge_log
from fedkit_server.retention import purge
from fedkit_server.store import Store

EVERY = 3600.0
_LOOK = 60.0
_LOG = logging.getLogger("fedkit.server")


class Upkeep:
    """A thread of its own: a large run's files are digested first, and no site waits for that.

    It looks at the clock every minute, so that a machine that slept, or a clock that was set, is noticed.

    Args:
        tell: appends an event to the audit log, or raises: then nothing more is deleted, and it is tried an hour later.
        clock: seconds since the epoch; what is due goes by it.
        look: seconds between two looks at the clock.
    """

    def __init__(
        self,
        folder: ServerFolder,
        store: Store,
        tell: Callable[[Event], Head],
        *,
        clock: Callable[[], float] = time.time,
        look: float = _LOOK,
    ) -> None:
        self._folder, self._store, self._tell, self._clock, self._look = folder, store, tell, clock, look
        self._ended, self._last = threading.Event(), -EVERY
        self._thread = threading.Thread(target=self._work, name="fedkit-upkeep", daemon=True)

    def start(self) -> None:
        """Begin; the first look is at once."""
        self._thread.start()

    def close(self) -> None:
        """End; a deletion that has begun is waited for, half a minute at most: the next start goes on with it."""
        self._ended.set()
        if self._thread.ident is not None:
            self._thread.join(30.0)

    def look(self) -> None:
        """Delete what is due, if an hour has passed; what cannot be deleted stops no run. Never raises."""
        now = self._clock()
        if 0 <= now - self._last < EVERY:
            return
        self._last = now
        # Neither waits for the other.
        for part in (self._runs, self._lines):
            try:
                part(now)
            except Exception as error:
                _LOG.error("what is beyond its deadline is not deleted: %s", error)

    def _runs(self, now: float) -> None:
        for each in purge(self._folder, self._store, now, self._tell):
            _LOG.info("updates and journal of %s were deleted: %s", each.run, each.reason)

    def _lines(self, now: float) -> None:
        for each in purge_log(self._folder, now, self._tell):
            _LOG.info("%d lines of %s were deleted: %s", each.count, each.name, each.reason)

    def _work(self) -> None:
        while not self._ended.is_set():
            self.look()
            self._ended.wait(self._look)
