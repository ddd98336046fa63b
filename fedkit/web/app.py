"""A desk as an ASGI application: routes, login, and what every request of a user has to show."""

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
from fedkit.web.desk import BY_ITSELF, Desk, Visit
from fedkit.web.door import Busy
from fedkit.web.forms import BadForm, read_form
from fedkit.web.pages import icon, style
from fedkit.web.sessions import Session
from fedkit.web.shield import Shield

_LOG = logging.getLogger("fedkit.web")
View = Callable[[Visit], Response]
WRONG = "This name, password or code is wrong, was used before, or the name is locked."


def session_cookie(desk: Desk) -> str:
    """Name of the cookie of a session."""
    return f"{desk.cookie}_session"


def form_cookie(desk: Desk) -> str:
    """Name of the cookie of the login's form."""
    return f"{desk.cookie}_form"


def make_app(desk: Desk, pages: Mapping[str, View], actions: Mapping[str, View]) -> Shield:
    """The application.

    Args:
        pages: path to what shows it, for whoever is logged in.
        actions: path to what a form there does, for a form of the session's own.
    """

    async def login_form(request: Request) -> Response:
        return await run_in_threadpool(_login_form, desk, request)

    async def login(request: Request) -> Response:
        try:
            form = await read_form(request)
        except BadForm as error:
            return _login_form(desk, request, 400, str(error))
        return await run_in_threadpool(_login, desk, request, form)

    async def styled(request: Request) -> Response:
        return Response(style(), media_type="text/css")

    async def pictured(request: Request) -> Response:
        return Response(icon(), media_type="image/svg+xml")

    async def lost(request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        return desk.page("lost", "There is no such page", status)

    routes = [
        Route("/login", login_form, methods=["GET"]),
        Route("/login", login, methods=["POST"]),
        Route("/logout", _user_of(desk, _logout, post=True), methods=["POST"]),
        Route("/style.css", styled, methods=["GET"]),
        Route("/icon.svg", pictured, methods=["GET"]),
        *(Route(path, _user_of(desk, view), methods=["GET"]) for path, view in pages.items()),
        *(Route(path, _user_of(desk, act, post=True), methods=["POST"]) for path, act in actions.items()),
    ]
    return Shield(Starlette(routes=routes, exception_handlers={404: lost, 405: lost}), desk.host)


def _user_of(desk: Desk, view: View, *, post: bool = False) -> Callable[[Request], Awaitable[Response]]:
    """An endpoint for whoever is logged in."""

    async def endpoint(request: Request) -> Response:
        form: dict[str, str] = {}
        if post:
            try:
                form = await read_form(request)
            except BadForm as error:
                return desk.page("refused", "Not done", 400, why=str(error), code="", remedy="")
        return await run_in_threadpool(_answer, desk, view, request, form, post=post)

    return endpoint


def _answer(desk: Desk, view: View, request: Request, form: Mapping[str, str], *, post: bool) -> Response:
    session = None

    def refused(status: int, why: str, code: str = "", remedy: str = "") -> Response:
        told: dict[str, Any] = {} if session is None else Visit(desk, request, session).context()
        # What failed on its way may have begun: its error says what counts.
        title = ("Not done" if status in (400, 403) else "It failed") if post else "Not shown"
        return desk.page("refused", title, status, why=why, code=code, remedy=remedy, **told)

    try:
        session = _session(desk, request)
        if session is None:
            return _outside(desk, request, post=post)
        if post and not session.may(form.get("token", "")):
            return refused(403, "This form is not one of the session that you are logged in with: nothing was done")
        return view(Visit(desk, request, session, form))
    except BadForm as error:
        return refused(400, str(error))
    except ConfigError as error:
        return refused(409, "; ".join(error.problems), error.code)
    except FedkitError as error:
        return refused(409, error.message, error.code, error.remedy)
    except Exception as error:
        # Of its text nobody knows what it names.
        _LOG.error("%s %s failed: %s", request.method, request.url.path, type(error).__name__)
        return desk.page("lost", "The page cannot be made", 500)


def _session(desk: Desk, request: Request) -> Session | None:
    ticket = request.cookies.get(session_cookie(desk), "")
    if not ticket:
        return None
    by_itself = request.method == "GET" and request.query_params.get(BY_ITSELF[0]) == BY_ITSELF[1]
    return desk.sessions.find(ticket, desk.door.users.read(), asked=not by_itself)


def _outside(desk: Desk, request: Request, *, post: bool) -> Response:
    if not post and not request.cookies.get(session_cookie(desk)):
        return RedirectResponse("/login", status_code=303)
    said = "You are not logged in, or the session has ended."
    response = _login_form(desk, request, 401, f"{said} Nothing was done." if post else said)
    response.delete_cookie(session_cookie(desk), httponly=True, samesite="strict")
    return response


def _login_form(desk: Desk, request: Request, status: int = 200, problem: str = "") -> Response:
    known = request.cookies.get(form_cookie(desk), "")
    mark = known if _good(known) else secrets.token_urlsafe(32)
    response = desk.page("login", "Log in", status, token=_token(desk, mark), problem=problem)
    _set(response, form_cookie(desk), mark)
    return response


def _login(desk: Desk, request: Request, form: Mapping[str, str]) -> Response:
    mark = request.cookies.get(form_cookie(desk), "")
    if not _good(mark) or not _same(_token(desk, mark), form.get("token", "")):
        return _login_form(desk, request, 403, "The form has expired: log in again.")
    name, password, code = (form.get(field, "") for field in ("name", "password", "code"))
    try:
        user = desk.door.login(name, password, code)
    except Busy:
        return _login_form(desk, request, 503, "Others log in at this moment: try again.")
    except FedkitError as error:
        _LOG.error("nobody can log in: %s", error)
        return _login_form(desk, request, 503, f"Nobody can log in now ({error.code}): ask who runs this page.")
    if user is None:
        return _login_form(desk, request, 401, WRONG)
    desk.sessions.end(request.cookies.get(session_cookie(desk), ""))
    response = RedirectResponse("/", status_code=303)
    _set(response, session_cookie(desk), desk.sessions.begin(name, user))
    response.delete_cookie(form_cookie(desk), httponly=True, samesite="strict")
    return response


def _logout(visit: Visit) -> Response:
    name = session_cookie(visit.desk)
    visit.desk.sessions.end(visit.request.cookies.get(name, ""))
    visit.desk.door.logout(visit.user)
    response = RedirectResponse("/login", status_code=303)
    response.delete_cookie(name, httponly=True, samesite="strict")
    return response


def _set(response: Response, name: str, value: str) -> None:
    # Not `secure`: this is plain HTTP on loopback, over which a browser need not send it back.
    response.set_cookie(name, value, httponly=True, samesite="strict", path="/")


def _good(mark: str) -> bool:
    return len(mark) == 43 and mark.isascii()


def _token(desk: Desk, mark: str) -> str:
    return hmac.digest(desk.key, mark.encode(), hashlib.sha256).hex()


def _same(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode(), other.encode("utf-8", "replace"))
