"""HTTP for people on this machine: a connection that asks for nothing in time is closed.

The page takes a bounded number of connections at once: without this another user of the machine, who opens so many and
is silent on them, would keep everybody from the pause button.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

PATIENCE = 10.0
"""Seconds for the head of a request, from the connection's first byte or its beginning."""


class Brisk(H11Protocol):
    """Uvicorn's protocol with an end to waiting."""

    _alarm: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Begin to wait."""
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Wait for the rest of a head; a request whose head is whole is on its own."""
        super().data_received(data)
        if self._asked():
            self._cancel()
        elif self._alarm is None:
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nobody is waited for any more."""
        self._cancel()
        super().connection_lost(exc)

    def _asked(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _wait(self) -> None:
        self._alarm = self.loop.call_later(PATIENCE, self._late)

    def _cancel(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None

    def _late(self) -> None:
        self._alarm = None
        if not self._asked():
            self.transport.close()
