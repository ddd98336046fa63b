"""Connections to a port whose server counts none: let through as far as their address has room, byte for byte.

grpcio accepts whoever connects before any code of ours and has no bound for it. So it listens on this host alone, at a
port that nobody is told, and who comes to the port that is told is let through to it.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field

from fedkit_server import prompt

_LOG = logging.getLogger("fedkit.enrolment")
_PIECE = 2**16


@dataclass
class Doorway:
    """Lets connections through, in a thread of its own.

    Guarantee: of one address (or the /64 of an IPv6 address) no more than `prompt.MOST_OF_ONE` at a time.

    Args:
        listening: the socket that others connect to.
        inner: port of the server on 127.0.0.1.
    """

    listening: socket.socket
    inner: int
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)
    _peers: dict[int, str] = field(default_factory=dict)
    _open: Counter[str] = field(default_factory=Counter)
    _tasks: set[asyncio.Task[None]] = field(default_factory=set)
    _thread: threading.Thread = field(init=False)

    def __post_init__(self) -> None:
        """Begin."""
        self.listening.setblocking(False)
        self._thread = threading.Thread(target=self._run, name="doorway", daemon=True)
        self._thread.start()

    def address(self, port: int) -> str | None:
        """Whose connection reaches the server from this port of 127.0.0.1; None for one that came another way."""
        return self._peers.get(port)

    def close(self) -> None:
        """End everything."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._end)
        self._thread.join(5.0)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        accepting = self._loop.create_task(self._accept())
        self._keep(accepting)
        with suppress(asyncio.CancelledError):
            self._loop.run_until_complete(accepting)
        self._loop.run_until_complete(asyncio.gather(*self._tasks, return_exceptions=True))
        self._loop.close()
        self.listening.close()

    def _end(self) -> None:
        for task in self._tasks:
            task.cancel()

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self) -> None:
        while True:
            try:
                connection, peer = await self._loop.sock_accept(self.listening)
            except OSError as error:
                # Too many open files, or one that left before it was let in.
                _LOG.warning("a connection cannot be accepted: %s", error.strerror)
                await asyncio.sleep(0.1)
                continue
            address = str(peer[0])
            if self._open[prompt.network(address)] >= prompt.MOST_OF_ONE:
                _LOG.warning("%s has %d connections open; one more is closed", address, prompt.MOST_OF_ONE)
                connection.close()
                continue
            # Counted here, not in a task that begins later.
            self._open[prompt.network(address)] += 1
            self._keep(self._loop.create_task(self._through(connection, address)))

    async def _through(self, connection: socket.socket, address: str) -> None:
        port = 0
        writers: list[asyncio.StreamWriter] = []
        try:
            there, back = await asyncio.open_connection(sock=connection)
            writers.append(back)
            inner, forth = await asyncio.open_connection("127.0.0.1", self.inner)
            writers.append(forth)
            port = forth.get_extra_info("sockname")[1]
            self._peers[port] = address
            pumps = [self._loop.create_task(_pump(there, forth)), self._loop.create_task(_pump(inner, back))]
            try:
                # Neither TLS nor HTTP/2 has a half that outlives the other.
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
        except OSError:
            connection.close()
        finally:
            for writer in writers:
                writer.close()
            self._peers.pop(port, None)
            self._open[prompt.network(address)] -= 1
            self._open += Counter()


async def _pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    while piece := await source.read(_PIECE):
        target.write(piece)
        await target.drain()
