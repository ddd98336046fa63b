"""Whoever connects and then says nothing is shown out, and nobody holds all connections.

uvicorn counts time only between two requests, and a TLS handshake may take a minute.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from functools import partial
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from fedkit_server.asgi import HANG_UP

HANDSHAKE_SECONDS = 10.0
HEAD_SECONDS = 30.0
"""From the handshake, or the first byte of a later request, until a request's head is there whole."""

MOST_HEAD = 2**16
"""Bytes of one request's head; Flower's have less than 2 KiB."""

MOST_OF_ONE = 256
"""Connections from one address at a time: sites behind one proxy or NAT have one address."""

_LOG = logging.getLogger("fedkit.server")


class Prompt(HttpToolsProtocol):
    """uvicorn's protocol, with an end to its patience."""

    _late: asyncio.TimerHandle | None = None
    _head: int = 0
    _in_body: bool = False
    network: str = ""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Expect a request; one connection too many from an address is closed at once."""
        super().connection_made(transport)
        self.network = network(self.client[0] if self.client else "")
        if sum(getattr(other, "network", None) == self.network for other in self.connections) > MOST_OF_ONE:
            _LOG.warning("%s has %d connections open; one more is closed", self.network, MOST_OF_ONE)
            transport.abort()
        else:
            self._expect()

    def data_received(self, data: bytes) -> None:
        """Take part of a request."""
        # A byte now and then, of the next head or of a body that was answered already, would keep a line for ever.
        if self._late is None and (self.cycle is None or self.cycle.response_complete):
            self._expect()
        self._head += len(data)
        super().data_received(data)
        if self._head > MOST_HEAD and self._late is not None and not self._in_body:
            self.transport.abort()

    def on_headers_complete(self) -> None:
        """The head is there."""
        self._arrived()
        self._in_body = True
        super().on_headers_complete()
        # For who answers: an answer that nobody reads must not stay in memory.
        self.scope.setdefault("extensions", {})[HANG_UP] = {"now": self.transport.abort}

    def on_message_complete(self) -> None:
        """The body is there."""
        self._head, self._in_body = 0, False
        super().on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._arrived()
        super().connection_lost(exc)

    def _expect(self) -> None:
        self._head, self._late = 0, self.loop.call_later(HEAD_SECONDS, self._close)

    def _arrived(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _close(self) -> None:
        # Not `close`, which waits until the other side has said goodbye.
        self.transport.abort()


def hurry_handshakes(loop: asyncio.AbstractEventLoop) -> None:
    """Have the servers that a loop makes wait no longer for a handshake than `HANDSHAKE_SECONDS`."""
    # uvicorn makes its server without asking how long.
    patched: Any = loop
    patched.create_server = partial(loop.create_server, ssl_handshake_timeout=HANDSHAKE_SECONDS)


def network(address: str) -> str:
    """Whose connections count together: one IPv4 address, or the 64 bits of an IPv6 address that a line is given.

    >>> network("192.0.2.7"), network("::ffff:192.0.2.7"), network("2001:db8::1:2:3:4")
    ('192.0.2.7', '192.0.2.7', '2001:db8::/64')
    """
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    if found.ipv4_mapped is not None:
        return str(found.ipv4_mapped)
    return str(ipaddress.ip_network((found, 64), strict=False))
