"""One request of a user who is logged in: what a page is made of, and what an action is done with."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from fedkit_client.console.door import Door
from fedkit_client.console.sessions import Session, Sessions
from fedkit_client.console.templates import render
from fedkit_client.folder import SiteFolder
from fedkit_client.start import Opened, open_site


@dataclass
class Console:
    """What all requests share.

    Attributes:
        path: of the site's file, which is read anew for every page.
        folder: as it was at the start: a site can be paused whatever became of its file since.
        host: ``127.0.0.1:PORT``.
        key: signs the tokens of the login's form.
    """

    path: Path
    folder: SiteFolder
    site: str
    host: str
    key: bytes = field(repr=False)
    clock: Callable[[], float] = time.time
    pause_seconds: float = 20.0
    door: Door = field(init=False)
    sessions: Sessions = field(init=False)

    def __post_init__(self) -> None:
        """Make the door and the sessions."""
        self.door = Door(self.folder, self.clock)
        self.sessions = Sessions(self.clock)


@dataclass(frozen=True)
class Visit:
    """A request of somebody who is logged in, whose form is one of the session's own."""

    console: Console
    request: Request
    session: Session
    form: Mapping[str, str] = field(default_factory=dict)

    @property
    def now(self) -> float:
        """Seconds since the epoch."""
        return self.console.clock()

    def opened(self) -> Opened:
        """The site's file and folder as they are now.

        Raises:
            ConfigError: FK120.
            DeploymentError: FK741, FK752, FK706.
        """
        return open_site(self.console.path)

    def page(self, template: str, title: str, status: int = 200, **context: Any) -> Response:
        """A page, with what the last action had to tell."""
        notices, self.session.notices[:] = list(self.session.notices), []
        return render(template, title, self.console.site, status, **self.context() | {"notices": notices}, **context)

    def context(self) -> dict[str, Any]:
        """What every page of a user is made with."""
        return {"session": self.session, "notices": [], "path": self.request.url.path, "now": self.now}

    def told(self, text: str, to: str, kind: str = "good") -> Response:
        """What an action ends with: another page, which tells what was done, and whose reload does nothing again."""
        self.session.notices.append((kind, text))
        return RedirectResponse(to, status_code=303)
