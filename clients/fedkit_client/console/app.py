"""The console as an ASGI application: routes, login, and what every request of a user has to show."""

from __future__ import annotations

import hashlib
import hmac
import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from fedkit.errors import ConfigError, FedkitError
from fedkit_client.audit import record
from fedkit_client.console import actions, views
from fedkit_client.console.door import Busy
from fedkit_client.console.forms import BadForm, read_form
from fedkit_client.console.sessions import Session
from fedkit_client.console.shield import Shield
from fedkit_client.console.templates import icon, render, style
from fedkit_client.console.visit import Console, Visit

_LOG = logging.getLogger("fedkit.console")
SESSION, FORM = "fedkit_console", "fedkit_console_form"
"""Cookies: of a session, and of the login's form."""

WRONG = "This name, password or code is wrong, was used before, or the name is locked."
_PAGES: Mapping[str, Callable[[Visit], Response]] = {
    "/": views.overview,
    "/budgets": views.budgets_page,
    "/requests": views.requests_page,
    "/requests/{job}": views.request_page,
    "/log": views.log_page,
    "/log/verify": views.verify_page,
    "/consent": views.consent_page,
    "/inventory": views.inventory_html,
    "/inventory.json": views.inventory_json,
}
_ACTIONS: Mapping[str, Callable[[Visit], Response]] = {
    "/requests/{job}/approve": actions.approve,
    "/requests/{job}/deny": actions.deny,
    "/pause": actions.pause,
    "/resume": actions.resume,
    "/withdraw": actions.withdraw,
}


def make_app(console: Console) -> Shield:
    """The application of one site's console."""

    async def login_form(request: Request) -> Response:
        return await run_in_threadpool(_login_form, console, request)

    async def login(request: Request) -> Response:
        try:
            form = await read_form(request)
        except BadForm as error:
            return _login_form(console, request, 400, str(error))
        return await run_in_threadpool(_login, console, request, form)

    async def styled(request: Request) -> Response:
        return Response(style(), media_type="text/css")

    async def pictured(request: Request) -> Response:
        return Response(icon(), media_type="image/svg+xml")

    async def lost(request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        return render("lost", "There is no such page", console.site, status)

    routes = [
        Route("/login", login_form, methods=["GET"]),
        Route("/login", login, methods=["POST"]),
        Route("/logout", _user_of(console, _logout, post=True), methods=["POST"]),
        Route("/style.css", styled, methods=["GET"]),
        Route("/icon.svg", pictured, methods=["GET"]),
        *(Route(path, _user_of(console, view), methods=["GET"]) for path, view in _PAGES.items()),
        *(Route(path, _user_of(console, act, post=True), methods=["POST"]) for path, act in _ACTIONS.items()),
    ]
    app = Starlette(routes=routes, exception_handlers={404: lost, 405: lost})
    return Shield(app, console.host)


def _user_of(
    console: Console, view: Callable[[Visit], Response], *, post: bool = False
) -> Callable[[Request], Awaitable[Response]]:
    """An endpoint for whoever is logged in."""

    async def endpoint(request: Request) -> Response:
        form: dict[str, str] = {}
        if post:
            try:
                form = await read_form(request)
            except BadForm as error:
                return render("refused", "Not done", console.site, 400, why=str(error), code="", remedy="")
        return await run_in_threadpool(_answer, console, view, request, form, post=post)

    return endpoint


def _answer(
    console: Console, view: Callable[[Visit], Response], request: Request, form: Mapping[str, str], *, post: bool
) -> Response:
    session = None

    def refused(status: int, why: str, code: str = "", remedy: str = "") -> Response:
        told: dict[str, Any] = {} if session is None else Visit(console, request, session).context()
        # What failed on its way may have begun: its error says what counts.
        title = ("Not done" if status in (400, 403) else "It failed") if post else "Not shown"
        return render("refused", title, console.site, status, why=why, code=code, remedy=remedy, **told)

    try:
        session = _session(console, request)
        if session is None:
            return _outside(console, request, post=post)
        if post and not session.may(form.get("token", "")):
            return refused(403, "This form is not one of the session that you are logged in with: nothing was done")
        return view(Visit(console, request, session, form))
    except BadForm as error:
        return refused(400, str(error))
    except ConfigError as error:
        return refused(409, "; ".join(error.problems), error.code)
    except FedkitError as error:
        return refused(409, error.message, error.code, error.remedy)
    except Exception as error:
        # Of its text nobody knows what it names.
        _LOG.error("%s %s failed: %s", request.method, request.url.path, type(error).__name__)
        return render("lost", "The page cannot be made", console.site, 500)


def _session(console: Console, request: Request) -> Session | None:
    ticket = request.cookies.get(SESSION, "")
    return console.sessions.find(ticket, console.door.users.read()) if ticket else None


def _outside(console: Console, request: Request, *, post: bool) -> Response:
    if not post and not request.cookies.get(SESSION):
        return RedirectResponse("/login", status_code=303)
    said = "You are not logged in, or the session has ended."
    response = _login_form(console, request, 401, f"{said} Nothing was done." if post else said)
    response.delete_cookie(SESSION, httponly=True, samesite="strict")
    return response


def _login_form(console: Console, request: Request, status: int = 200, problem: str = "") -> Response:
    known = request.cookies.get(FORM, "")
    mark = known if _good(known) else secrets.token_urlsafe(32)
    response = render("login", "Log in", console.site, status, token=_token(console, mark), problem=problem)
    _set(response, FORM, mark)
    return response


def _login(console: Console, request: Request, form: Mapping[str, str]) -> Response:
    mark = request.cookies.get(FORM, "")
    if not _good(mark) or not _same(_token(console, mark), form.get("token", "")):
        return _login_form(console, request, 403, "The form has expired: log in again.")
    name, password, code = (form.get(field, "") for field in ("name", "password", "code"))
    try:
        user = console.door.login(name, password, code)
    except Busy:
        return _login_form(console, request, 503, "Others log in at this moment: try again.")
    except FedkitError as error:
        _LOG.error("nobody can log in: %s", error)
        return _login_form(console, request, 503, f"Nobody can log in now ({error.code}): ask who runs the console.")
    if user is None:
        return _login_form(console, request, 401, WRONG)
    console.sessions.end(request.cookies.get(SESSION, ""))
    response = RedirectResponse("/", status_code=303)
    _set(response, SESSION, console.sessions.begin(name, user))
    response.delete_cookie(FORM, httponly=True, samesite="strict")
    return response


def _logout(visit: Visit) -> Response:
    visit.console.sessions.end(visit.request.cookies.get(SESSION, ""))
    try:
        record(visit.console.folder, "console_logout", by=visit.session.user)
    except (FedkitError, OSError) as error:
        _LOG.warning("the audit log does not tell of a logout: %s", error)
    response = RedirectResponse("/login", status_code=303)
    response.delete_cookie(SESSION, httponly=True, samesite="strict")
    return response


def _set(response: Response, name: str, value: str) -> None:
    # Not `secure`: this is plain HTTP on loopback, over which a browser would not send it back.
    response.set_cookie(name, value, httponly=True, samesite="strict", path="/")


def _good(mark: str) -> bool:
    return len(mark) == 43 and mark.isascii()


def _token(console: Console, mark: str) -> str:
    return hmac.digest(console.key, mark.encode(), hashlib.sha256).hex()


def _same(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode(), other.encode("utf-8", "replace"))
