"""What stands in front of Flower's HTTP API: who may reach which part, how much, and a wait in place of polling."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field

from starlette.concurrency import run_in_threadpool

from fedkit.federation.flower_api import (
    OBJECT_PATHS,
    answer_foreign,
    answer_object,
    is_empty_pull,
    is_known,
    node_of,
    node_of_pull,
    push_problem,
)
from fedkit_server.asgi import Answer, App, Receive, Scope, Send, call, hang_up, refusal, refuse, replay
from fedkit_server.intake import Intake, Place, TooLarge, allowance
from fedkit_server.prompt import network

MOST_BYTES = 8 * 2**20
"""Largest body of one request; Flower sends an array in parts of 5 MiB."""
MOST_WAIT = 25.0
_MOST_OF_STRANGERS = 2**16
_MOST_SMALL = 2**16
_MOST_ANNOUNCED = 2**20
WAIT_HEADER = b"x-fedkit-wait"
_CONTROL_READS = frozenset({"/v1/control/list-runs", "/v1/control/list-nodes", "/v1/control/list-federations"})
_PULL, _PUSH = "/v1/fleet/pull-messages", "/v1/fleet/push-messages"
_MOST = {"/v1/fleet/push-object": MOST_BYTES, _PUSH: _MOST_ANNOUNCED}


@dataclass
class Wakes:
    """Wakes the requests of nodes that wait for a message; only of such as are known. May be called from any thread."""

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
    closed; what a node sends has a bounded size and bears its own name, and all that nodes have under way together has
    a bound; no node is told of another's messages, and none is told anything once it is revoked.

    Args:
        api: answers everything under ``/fedkit/`` and ``/metrics``.
        nodes, strangers: the bodies under way of nodes and of whoever is none.
    """

    flower: App
    api: App
    may_control: Callable[[str], bool]
    wakes: Wakes
    nodes: Intake = field(default_factory=lambda: Intake(each=4, total=2**29))
    strangers: Intake = field(default_factory=lambda: Intake(each=64, total=2**26))

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
                await refuse(send, 503, "the coordinator is about to end")

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = str(scope["path"])
        if path.startswith("/fedkit/") or path == "/metrics":
            await self.api(scope, receive, send)
        elif path.startswith("/v1/control/"):
            if not self.may_control(bearer(scope)):
                await refuse(send, 401, "the control API needs an admin's token")
            elif path in _CONTROL_READS:
                await self._read(scope, receive, send)
            else:
                await refuse(send, 403, "runs and sites are changed by `fedkit server` alone")
        elif path.startswith("/v1/runtime/"):
            # Whoever on this host asks for a task would get a run's, and its updates with it.
            await refuse(send, 403, "no process but the coordinator's own takes part in its runs")
        elif path.startswith("/v1/fleet/"):
            await self._fleet(scope, receive, send)
        elif path == "/health":
            await self.flower(scope, receive, send)
        else:
            await refuse(send, 404, "there is nothing here")

    async def _read(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self.strangers.place(_network(scope)) as place:
            body = await _body(place, scope, receive, send, _MOST_SMALL)
        if body is not None:
            await self.flower(scope, replay(body), send)

    async def _fleet(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Little is kept for somebody whom nobody knows: enough for Flower to tell a SuperNode so in its own words.
        node = await run_in_threadpool(node_of, self.flower, scope)
        if node is None:
            async with self.strangers.place(_network(scope)) as place:
                body = await _body(place, scope, receive, send, _MOST_OF_STRANGERS)
            if body is None:
                return
            # What a stranger brings is not even counted.
            if scope["path"] == _PUSH:
                await refuse(send, 401, "nobody knows this node")
            else:
                await self.flower(scope, replay(body), send)
            return
        async with self.nodes.place(node) as place:
            body = await _body(place, scope, receive, send, _MOST.get(scope["path"], _MOST_SMALL))
            if body is None:
                return
            # A body may take its time, and a node be revoked meanwhile.
            if not await run_in_threadpool(is_known, self.flower, scope, node):
                await refuse(send, 401, "nobody knows this node")
                return
            if scope["path"] == _PULL and (wait := _wait(scope)):
                self.nodes.leave(place)
                answer = await self._pulled(scope, body, node, wait)
            else:
                answer = await self._answered(scope, body, node)
            del body
            if not await run_in_threadpool(is_known, self.flower, scope, node):
                answer = refusal(401, "nobody knows this node")
            try:
                async with asyncio.timeout(allowance(sum(map(len, answer.body)))):
                    await answer.send(send)
            except TimeoutError:
                await hang_up(scope)

    async def _answered(self, scope: Scope, body: bytes, node: int) -> Answer:
        path = scope["path"]
        if path == _PUSH and (problem := await run_in_threadpool(push_problem, body)):
            return refusal(403, problem)
        foreign = await run_in_threadpool(answer_foreign, self.flower, scope, body, node)
        if foreign is not None:
            return Answer.good((foreign,))
        if path in OBJECT_PATHS:
            found = await run_in_threadpool(answer_object, self.flower, scope, body, node)
            if found is not None:
                return Answer.good(found)
        return await call(self.flower, scope, body)

    async def _pulled(self, scope: Scope, body: bytes, node: int, wait: float) -> Answer:
        asking = node_of_pull(body)
        if asking != node:
            # Flower says what is wrong, and nothing is kept of a name that anybody may make up.
            return await call(self.flower, scope, body)
        self.wakes.clear(asking)
        answer = await call(self.flower, scope, body)
        if answer.status == 200 and is_empty_pull(b"".join(answer.body)):
            # The first answer has shown that the request is the node's own.
            await self.wakes.wait(asking, wait)
            answer = await call(self.flower, scope, body)
        return answer


async def _body(place: Place, scope: Scope, receive: Receive, send: Send, most: int) -> bytes | None:
    """A request's body; None for one that was refused here, or whose sender has left."""
    try:
        return await place.read(receive, most, announced(scope))
    except TooLarge:
        await refuse(send, 413, f"a request holds at most {most} bytes")
    except TimeoutError:
        await refuse(send, 408, "the request came too slowly, or too many came at once")
    return None


def announced(scope: Scope) -> int | None:
    """The size that a request's head promises for its body."""
    for name, value in scope["headers"]:
        if name == b"content-length":
            return int(value) if value.isdigit() and len(value) < 20 else None
    return None


def _network(scope: Scope) -> str:
    return network(str((scope.get("client") or ("",))[0]))


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
