"""The coordinator's own API under ``/fedkit/v1/``, and ``/metrics``: bounded, authenticated, in JSON."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

from anyio import CapacityLimiter, to_thread
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from fedkit import __version__
from fedkit.errors import DeploymentError, FedkitError
from fedkit.federation import enrolment as wire
from fedkit.federation import strict_json
from fedkit.federation.authority_file import PATH as AUTHORITIES
from fedkit.federation.authority_file import as_told
from fedkit.federation.keyring import Member
from fedkit_server.access import Access
from fedkit_server.answers import refusal, unknown
from fedkit_server.asgi import App
from fedkit_server.authorities import chain_of
from fedkit_server.guard import announced, bearer, is_loopback
from fedkit_server.handlers import HANDLERS, Call, Handler
from fedkit_server.intake import Intake, TooLarge
from fedkit_server.pulling import Archive
from fedkit_server.runners import OVER, Runs
from fedkit_server.state import State

PREFIX = "/fedkit/v1"
MOST_BODY = 2 * 2**20
MOST_WAIT = 25.0
_TURN = 1.0
"""Seconds for which a waiting request holds a thread; between two it notices that nobody waits any more."""

_LOG = logging.getLogger("fedkit.api")
_Answer = Callable[[Request], Awaitable[Response]]


def make_api(state: State, runs: Runs, access: Access, closing: Callable[[], bool] = lambda: False) -> App:
    """The application.

    Args:
        closing: whether the coordinator is about to end, so that nobody is kept waiting.
    """
    waiters, intake = CapacityLimiter(64), Intake(each=4, total=2**26)
    routes = [
        Route(PREFIX + "/ca", _answering(partial(_ca, state)), methods=["GET"]),
        Route(AUTHORITIES, _answering(partial(_authorities, state)), methods=["GET"]),
        Route(PREFIX + "/health", _answering(partial(_health, runs)), methods=["GET"]),
        Route(PREFIX + "/runs/{run}/events", _answering(partial(_events, state, runs, access, waiters, closing))),
        Route(PREFIX + "/runs/{run}/archive", _answering(partial(_archive, state, access))),
        Route("/metrics", _answering(partial(_metrics, state, runs, access)), methods=["GET"]),
    ]
    for (method, path), (role, handler) in HANDLERS.items():
        answer = partial(_handled, state, runs, access, intake, role, handler)
        routes.append(Route(PREFIX + path, _answering(answer), methods=[method]))
    app = Starlette(routes=routes, exception_handlers={404: _nothing, 405: _nothing})
    app.router.redirect_slashes = False
    return app


def _answering(answer: _Answer) -> _Answer:
    async def endpoint(request: Request) -> Response:
        try:
            response = await answer(request)
        except FedkitError as error:
            response = refusal(error)
        except ClientDisconnect:
            response = Response(status_code=400)
        except Exception:
            _LOG.exception("%s %s failed", request.method, request.url.path)
            response = refusal(DeploymentError("the coordinator failed", code="FK739", remedy="see its server.log"))
            response.status_code = 500
        response.headers["cache-control"] = "no-store"
        return response

    return endpoint


async def _nothing(request: Request, _: Exception) -> Response:
    return refusal(DeploymentError("there is nothing here", code="FK722", remedy="see docs/deployment.md"))


async def _ca(state: State, _: Request) -> Response:
    return Response(state.folder.read(state.folder.ca), media_type="application/x-pem-file")


async def _authorities(state: State, _: Request) -> Response:
    return JSONResponse(as_told(chain_of(state.folder), state.keyring.coordinator))


async def _health(runs: Runs, _: Request) -> Response:
    alive = runs.alive()
    said = {"status": "ok" if alive else "no run has its turn", "version": __version__, "wire": wire.version_text()}
    return JSONResponse(said, status_code=200 if alive else 503)


async def _user(access: Access, request: Request, role: str) -> Member:
    address = request.client.host if request.client else ""
    member = await to_thread.run_sync(access.user, bearer(request.scope), address)
    access.require(member, role)
    return member


async def _handled(
    state: State, runs: Runs, access: Access, intake: Intake, role: str, handler: Handler, request: Request
) -> Response:
    # Before the body: a stranger makes nobody read two megabytes.
    member = await _user(access, request, role)
    body = await _body(intake, member.name, request) if request.method == "POST" else {}
    call = Call(state, runs, access, member, request.path_params, body)
    try:
        found = await to_thread.run_sync(handler, call)
    except FedkitError as error:
        _LOG.info("%s (%s): %s %s: %s", member.name, member.role, request.method, request.url.path, error.code)
        raise
    if request.method != "GET":
        _LOG.info("%s (%s): %s %s", member.name, member.role, request.method, request.url.path)
    return JSONResponse(found)


async def _body(intake: Intake, user: str, request: Request) -> dict[str, Any]:
    too_large = DeploymentError(f"the request has more than {MOST_BODY:,} bytes", code="FK724", remedy="send less")
    said = request.headers.get("content-length", "0")
    if not said.isdecimal() or int(said) > MOST_BODY:
        raise too_large
    async with intake.place(user) as place:
        try:
            parts = await place.read(request.receive, MOST_BODY, announced(request.scope))
        except TooLarge:
            raise too_large from None
        except TimeoutError:
            raise DeploymentError(
                "the request came too slowly, or too many came at once",
                code="FK727",
                remedy="send it again over a line that carries 32 KiB a second, one at a time",
            ) from None
        if parts is None:
            raise ClientDisconnect
        try:
            text = parts.decode() or "{}"
        except UnicodeDecodeError:
            raise strict_json.unreadable("the request", "is no UTF-8") from None
        value = strict_json.read(text, "the request", MOST_BODY)
    if not isinstance(value, dict):
        raise strict_json.unreadable("the request", "is no mapping of fields")
    return value


async def _events(
    state: State, runs: Runs, access: Access, waiters: CapacityLimiter, closing: Callable[[], bool], request: Request
) -> Response:
    await _user(access, request, "viewer")
    run = _known_run(state, request)
    after = int(_number(request, "after", 0, 2**53))
    end = time.monotonic() + _number(request, "wait", 0, MOST_WAIT)
    # The state first: whatever ends a run is told before the run counts as over.
    status = await to_thread.run_sync(runs.status, run)
    found = await to_thread.run_sync(runs.events, run, after)
    while not found and status["state"] not in OVER and not closing() and (left := end - time.monotonic()) > 0:
        if await request.is_disconnected():
            break
        status = await to_thread.run_sync(runs.status, run)
        found = await to_thread.run_sync(runs.wait_events, run, after, min(left, _TURN), limiter=waiters)
    told = {"state": status["state"], "outcome": status.get("outcome"), "before": status.get("before", [])}
    return JSONResponse({"events": found} | told)


async def _archive(state: State, access: Access, request: Request) -> Response:
    member = await _user(access, request, "viewer")
    run = _known_run(state, request)
    folder = state.folder.runs / run
    if not folder.is_dir():
        raise DeploymentError(f"{run} has no folder yet", code="FK722", remedy="wait until it has begun")
    held = ExitStack()
    try:
        held.enter_context(access.archives.take(member.name))
        access.may_pull(member)
        await to_thread.run_sync(partial(state.trail.record, "pulled", run=run, user=member.name))
    except BaseException:
        held.close()
        raise
    return Archive(folder, held)


async def _metrics(state: State, runs: Runs, access: Access, request: Request) -> Response:
    from fedkit_server.metrics import CONTENT_TYPE, scrape

    if not is_loopback(request.scope) or bearer(request.scope):
        await _user(access, request, "viewer")
    return Response(await to_thread.run_sync(scrape, state, runs), headers={"content-type": CONTENT_TYPE})


def _known_run(state: State, request: Request) -> str:
    run = str(request.path_params["run"])
    if state.store.run(run) is None:
        raise unknown("run", run, [row.run for row in state.store.runs()])
    return run


def _number(request: Request, name: str, least: float, most: float) -> float:
    text = request.query_params.get(name, "0")
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not least <= value < float("inf"):
        raise DeploymentError(
            f"{name}={text[:20]!r} is no number from {least:g}", code="FK726", remedy=f"use {name}={least:g}"
        )
    return min(value, most)
