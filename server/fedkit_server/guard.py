"""What stands in front of Flower's HTTP API: who may reach which part, how much, and a wait in place of polling."""

from __future__ import annotations

import asyncio
import ipaddress
import json
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from starlette.concurrency import run_in_threadpool

from fedkit.federation.flower_api import (
    OBJECT_PATHS,
    answer_object,
    is_empty_pull,
    node_of,
    node_of_pull,
    push_problem,
)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

MOST_BYTES = 8 * 2**20
"""Largest body of one request; Flower sends an array in parts of 5 MiB."""
MOST_WAIT = 25.0
_STALLED_SECONDS = 60.0
_MOST_OF_STRANGERS = 2**16
WAIT_HEADER = b"x-fedkit-wait"
PROTOBUF = b"application/protobuf"
_CONTROL_READS = frozenset({"/v1/control/list-runs", "/v1/control/list-nodes", "/v1/control/list-federations"})
_PULL, _PUSH = "/v1/fleet/pull-messages", "/v1/fleet/push-messages"


@dataclass
class Wakes:
    """Wakes the requests of nodes that wait for a message; may be called from any thread."""

    _loop: asyncio.AbstractEventLoop | None = None
    _events: dict[int, asyncio.Event] = field(default_factory=dict)
    over: bool = False

    def wake(self, node_id: int) -> None:
        """A message for a node has been pushed."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(lambda: self._event(node_id).set())

    async def wait(self, node_id: int, timeout: float) -> None:
        """Until the node is woken, or the time is over; once nobody shall wait any more, no time at all."""
        if self.over:
            return
        with suppress(TimeoutError):
            await asyncio.wait_for(self._event(node_id).wait(), timeout)

    def end(self) -> None:
        """The coordinator is about to end: whoever waits is answered now."""
        self.over = True
        for event in self._events.values():
            event.set()

    def clear(self, node_id: int) -> None:
        """Forget wakes so far; called before the node's messages are looked for."""
        self._loop = asyncio.get_running_loop()
        self._event(node_id).clear()

    def _event(self, node_id: int) -> asyncio.Event:
        return self._events.setdefault(node_id, asyncio.Event())


@dataclass(frozen=True)
class Guard:
    """An ASGI application around Flower's.

    Guarantee: nobody reaches Flower's Control API without a token that ``may_control`` knows, and with one it only
    tells: a run that no job has signed, or a node that no invitation let in, cannot be made there. Its Runtime API is
    closed; what a node sends has a bounded size and bears its own name.

    Args:
        api: answers everything under ``/fedkit/`` and ``/metrics``.
    """

    flower: App
    api: App
    may_control: Callable[[str], bool]
    wakes: Wakes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one connection."""
        if scope["type"] != "http":
            await self.flower(scope, receive, send)
            return
        try:
            await self._answer(scope, receive, send)
        except asyncio.CancelledError:
            if not self.wakes.over:
                raise
            # Cut off by the coordinator's end, which is no failure to be told of with a traceback.
            with suppress(Exception):
                await _refuse(send, 503, "the coordinator is about to end")

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = str(scope["path"])
        if path.startswith("/fedkit/") or path == "/metrics":
            await self.api(scope, receive, send)
        elif path.startswith("/v1/control/"):
            if not self.may_control(bearer(scope)):
                await _refuse(send, 401, "the control API needs an admin's token")
            elif path in _CONTROL_READS:
                await self._read(scope, receive, send)
            else:
                await _refuse(send, 403, "runs and sites are changed by `fedkit server` alone")
        elif path.startswith("/v1/runtime/"):
            # Whoever on this host asks for a task would get a run's, and its updates with it.
            await _refuse(send, 403, "no process but the coordinator's own takes part in its runs")
        elif path.startswith("/v1/fleet/"):
            await self._fleet(scope, receive, send)
        elif path == "/health":
            await self.flower(scope, receive, send)
        else:
            await _refuse(send, 404, "there is nothing here")

    async def _read(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await _body(receive)
        if body is None:
            await _refuse(send, 413, f"a request holds at most {MOST_BYTES} bytes")
            return
        await self.flower(scope, _replay(body), send)

    async def _fleet(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Little is kept for somebody whom nobody knows: enough for Flower to tell a SuperNode so in its own words.
        node = await run_in_threadpool(node_of, self.flower, scope)
        most = MOST_BYTES if node is not None else _MOST_OF_STRANGERS
        body = await _body(receive, most)
        if body is None:
            await _refuse(send, 413, f"a request holds at most {most} bytes")
            return
        path = scope["path"]
        if path in OBJECT_PATHS and node is not None:
            found = await run_in_threadpool(answer_object, self.flower, scope, body, node)
            if found is not None:
                del body
                await _pieces(found, send)
                return
        if path == _PUSH:
            # What a stranger brings is not even counted.
            problem = await run_in_threadpool(push_problem, body) if node is not None else "nobody knows this node"
            if problem:
                await _refuse(send, 403 if node is not None else 401, problem)
                return
        if path != _PULL or not (wait := _wait(scope)):
            await self.flower(scope, _replay(body), send)
            return
        asking = node_of_pull(body)
        self.wakes.clear(asking)
        answer = await _call(self.flower, scope, body)
        if answer.status == 200 and is_empty_pull(answer.body):
            # The first answer has shown that the request is the node's own.
            await self.wakes.wait(asking, wait)
            self.wakes.clear(asking)
            answer = await _call(self.flower, scope, body)
        await answer.send(send)


@dataclass
class _Answer:
    status: int = 500
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytes = b""

    async def collect(self, message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], list(message.get("headers", ()))
        elif message["type"] == "http.response.body":
            self.body += message.get("body", b"")

    async def send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status, "headers": self.headers})
        await send({"type": "http.response.body", "body": self.body})


async def _pieces(found: Sequence[bytes], send: Send) -> None:
    """A good answer whose body is never joined."""
    size = str(sum(map(len, found))).encode()
    headers = [(b"content-type", PROTOBUF), (b"content-length", size)]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for number, piece in enumerate(found, 1):
        await send({"type": "http.response.body", "body": piece, "more_body": number < len(found)})


async def _call(app: App, scope: Scope, body: bytes) -> _Answer:
    answer = _Answer()
    await app({**scope, "state": dict(scope.get("state", {}))}, _replay(body), answer.collect)
    return answer


def _replay(body: bytes) -> Receive:
    left = [body]

    async def receive() -> MutableMapping[str, Any]:
        if not left:
            await asyncio.Event().wait()
        # Handed over, not kept: a request that lives on in a cycle would hold it.
        return {"type": "http.request", "body": left.pop(), "more_body": False}

    return receive


async def _body(receive: Receive, most: int = MOST_BYTES) -> bytes | None:
    parts, size = [], 0
    while True:
        try:
            message = await asyncio.wait_for(receive(), _STALLED_SECONDS)
        except TimeoutError:
            return None
        if message["type"] != "http.request":
            return None
        part = message.get("body", b"")
        size += len(part)
        if size > most:
            return None
        parts.append(part)
        if not message.get("more_body"):
            return b"".join(parts)


def _wait(scope: Scope) -> float:
    for name, value in scope["headers"]:
        if name == WAIT_HEADER:
            try:
                return min(MOST_WAIT, max(0.0, float(value)))
            except ValueError:
                return 0.0
    return 0.0


def bearer(scope: Scope) -> str:
    """The token that a request bears; empty without one."""
    for name, value in scope["headers"]:
        if name == b"authorization":
            kind, _, token = value.decode("latin-1").partition(" ")
            return token.strip() if kind.lower() == "bearer" else ""
    return ""


def is_loopback(scope: Scope) -> bool:
    """Whether a request comes from this host, by its loopback interface."""
    client = scope.get("client")
    try:
        return client is not None and ipaddress.ip_address(client[0]).is_loopback
    except ValueError:
        return False


async def _refuse(send: Send, status: int, detail: str) -> None:
    answer = _Answer(status, [(b"content-type", b"application/json")], json.dumps({"detail": detail}).encode())
    await answer.send(send)
