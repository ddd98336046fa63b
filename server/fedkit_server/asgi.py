"""Requests and answers of an ASGI application that stands in front of another one."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

PROTOBUF = b"application/protobuf"
HANG_UP = "fedkit.hang_up"
"""The extension of a scope whose ``now`` ends the connection at once, whatever is still to be sent."""


@dataclass
class Answer:
    """An answer in pieces, which are never joined: one may be 5 MiB."""

    status: int = 500
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: list[bytes] = field(default_factory=list)

    @classmethod
    def good(cls, body: Sequence[bytes]) -> Answer:
        """One of Flower's messages."""
        size = str(sum(map(len, body))).encode()
        return cls(200, [(b"content-type", PROTOBUF), (b"content-length", size)], list(body))

    async def collect(self, message: MutableMapping[str, Any]) -> None:
        """Take what an application sends."""
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], list(message.get("headers", ()))
        elif message["type"] == "http.response.body":
            self.body.append(message.get("body", b""))

    async def send(self, send: Send) -> None:
        """Send it."""
        await send({"type": "http.response.start", "status": self.status, "headers": self.headers})
        for piece in self.body:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        # It goes once the others have nearly gone, so that what is held counts as held.
        await send({"type": "http.response.body", "body": b""})


async def hang_up(scope: Scope) -> None:
    """End a request's connection."""
    now = scope.get("extensions", {}).get(HANG_UP, {}).get("now")
    if now is not None:
        now()
        # So that the server has seen it before the application returns.
        await asyncio.sleep(0.05)


async def call(app: App, scope: Scope, body: bytes) -> Answer:
    """What an application answers to a request whose body is there."""
    answer = Answer()
    await app({**scope, "state": dict(scope.get("state", {}))}, replay(body), answer.collect)
    return answer


def replay(body: bytes) -> Receive:
    """A body that was received, once more."""
    left = [body]

    async def receive() -> MutableMapping[str, Any]:
        if not left:
            await asyncio.Event().wait()
        # Handed over, not kept: a request that lives on in a cycle would hold it.
        return {"type": "http.request", "body": left.pop(), "more_body": False}

    return receive


def refusal(status: int, detail: str) -> Answer:
    """An answer that says why there is none."""
    content = json.dumps({"detail": detail}).encode()
    return Answer(
        status, [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(content))], [content]
    )


async def refuse(send: Send, status: int, detail: str) -> None:
    """Answer with why there is no answer."""
    await refusal(status, detail).send(send)
