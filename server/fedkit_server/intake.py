"""Bodies of requests on their way in: how many, how large, for how long, and whose.

Nobody is refused for what others send: where one sender has too many bodies under way, or all together hold too much,
the oldest of the greatest goes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from fedkit_server.asgi import Receive

GRACE_SECONDS = 30.0
LEAST_RATE = 2**15
"""Bytes a second that a body must come in with, and an answer go out with, after `GRACE_SECONDS`."""

_AT_WORK = 4
"""Times the bodies that a sender may have under way: as many requests of one may be at work, answers included."""


def allowance(size: int) -> float:
    """Seconds that so many bytes may take.

    >>> allowance(2**20)
    62.0
    """
    return GRACE_SECONDS + size / LEAST_RATE


@dataclass(eq=False)
class Place:
    """One request's body, held in memory.

    Attributes:
        size: bytes of it that are there.
        whole: it is there; from then on it is at work, and makes room for nobody.
    """

    intake: Intake
    sender: Hashable
    size: int = 0
    gone: bool = False
    whole: bool = False
    _clock: asyncio.Timeout | None = None

    async def read(self, receive: Receive, most: int, announced: int | None = None) -> bytes | None:
        """The whole body; None if its sender has left.

        Args:
            most: bytes.
            announced: bytes that the request's head promises; without, it may take as long as the most would.

        Raises:
            TooLarge: it has more.
            TimeoutError: it came too slowly, or had to make room for others.
        """
        if announced is not None and announced > most:
            raise TooLarge
        parts = []
        async with asyncio.timeout(allowance(most if announced is None else announced)) as clock:
            self._clock = clock
            while True:
                if self.gone:
                    raise TimeoutError
                message = await receive()
                if message["type"] != "http.request":
                    return None
                part = message.get("body", b"")
                if self.size + len(part) > most:
                    raise TooLarge
                parts.append(part)
                self.intake.grow(self, len(part))
                if not message.get("more_body"):
                    break
        self._clock, self.whole = None, True
        return b"".join(parts)

    def displace(self) -> None:
        """Have it make room."""
        self.gone = True
        self.intake.size -= self.size
        self.size = 0
        if self._clock is not None:
            self._clock.reschedule(asyncio.get_running_loop().time())


class TooLarge(Exception):  # no error of ours: the one who asks answers it
    """A body with more bytes than allowed."""


@dataclass
class Intake:
    """All bodies of one kind of senders; for one event loop.

    Args:
        each: bodies of one sender at a time.
        total: bytes of all together.
    """

    each: int
    total: int
    _places: dict[Hashable, list[Place]] = field(default_factory=dict)
    size: int = 0

    @asynccontextmanager
    async def place(self, sender: Hashable) -> AsyncIterator[Place]:
        """Room for one body, for as long as the block lasts."""
        place = Place(self, sender)
        own = self._places.setdefault(sender, [])
        own.append(place)
        if len(own) > self.each:
            # The newest may be of a site that is back after its line was cut, with the others in the void.
            self._displace(own[:-1])
        if len(own) > _AT_WORK * self.each:
            place.displace()
        try:
            yield place
        finally:
            self.leave(place)

    def leave(self, place: Place) -> None:
        """A body is held no longer."""
        own = self._places.get(place.sender, [])
        if place in own:
            own.remove(place)
            if not own:
                del self._places[place.sender]
        self.size -= place.size
        place.size = 0

    def grow(self, place: Place, size: int) -> None:
        """More of a body is there."""
        place.size += size
        self.size += size
        if self.size > self.total and self._places:
            self._displace(max(self._places.values(), key=lambda own: sum(p.size for p in own if not p.whole)))

    def _displace(self, own: list[Place]) -> None:
        for place in own:
            if not place.gone and not place.whole:
                place.displace()
                return
