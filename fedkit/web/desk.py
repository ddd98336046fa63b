"""What all requests to a page on loopback share, and one request of a user who is logged in."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from fedkit.web.door import Door
from fedkit.web.pages import render
from fedkit.web.sessions import Session, Sessions

REFRESH = 20
"""Seconds between two looks of a page that refreshes itself."""

BY_ITSELF = ("by", "itself")
"""How such a look differs from one that somebody asked for."""


@dataclass
class Desk:
    """A page's shared half.

    Attributes:
        of: what it is and of whom, such as ``fedkit console of north``.
        host: ``127.0.0.1:PORT``.
        key: signs the tokens of the login's form.
        templates: the folder of its own templates.
        nav: address and text of each page that all pages lead to.
        users_command: what makes users, for the login's page.
        most: characters of one value that its pages show; None for all.
    """

    of: str
    host: str
    key: bytes = field(repr=False)
    templates: Path
    nav: Sequence[tuple[str, str]]
    users_command: str
    door: Door
    most: int | None = None
    sessions: Sessions = field(init=False)

    def __post_init__(self) -> None:
        """Make the sessions, by the door's clock."""
        self.sessions = Sessions(self.door.clock)

    @property
    def cookie(self) -> str:
        """Prefix of its cookies: two desks, whose ports a browser does not tell apart, keep their own."""
        return f"fedkit_{hashlib.sha256(self.of.encode()).hexdigest()[:12]}"

    def page(self, template: str, title: str, status: int = 200, **context: Any) -> Response:
        """A page; one for nobody in particular unless the context has a ``session``."""
        shared = {"title": title, "of": self.of, "nav": self.nav, "users_command": self.users_command}
        return render(self.templates, self.most, template, status, **shared | context)


@dataclass(frozen=True)
class Visit:
    """A request of somebody who is logged in, whose form is one of the session's own."""

    desk: Desk
    request: Request
    session: Session
    form: Mapping[str, str] = field(default_factory=dict)

    @property
    def now(self) -> float:
        """Seconds since the epoch."""
        return self.desk.door.clock()

    @property
    def user(self) -> str:
        """Who it is."""
        return self.session.user

    def page(self, template: str, title: str, status: int = 200, *, going: bool = False, **context: Any) -> Response:
        """A page, with what the last action had to tell.

        Args:
            going: what it shows goes on: it refreshes itself, by a header and so without a script, unless the user has
                stopped that, or there is something to be read that would be gone then.
        """
        notices, self.session.notices[:] = list(self.session.notices), []
        refresh = REFRESH if going and self.session.refreshing and not notices else 0
        shown = {"notices": notices, "refresh": refresh, "going": going}
        response = self.desk.page(template, title, status, **self.context() | shown | context)
        if refresh:
            response.headers["refresh"] = f"{refresh}; url={quote(self.request.scope['path'])}?{'='.join(BY_ITSELF)}"
        return response

    def context(self) -> dict[str, Any]:
        """What every page of a user is made with."""
        return {"session": self.session, "notices": [], "path": self.request.url.path, "now": self.now}

    def told(self, text: str, to: str, kind: str = "good") -> Response:
        """What an action ends with: another page, which tells what was done, and whose reload does nothing again."""
        self.session.notices.append((kind, text))
        return RedirectResponse(to, status_code=303)
