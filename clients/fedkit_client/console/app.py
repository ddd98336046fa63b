"""The console of a site: its pages and actions, and its door."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from starlette.responses import Response

from fedkit.errors import DeploymentError
from fedkit.web.app import make_app
from fedkit.web.desk import Desk, Visit
from fedkit.web.door import Door
from fedkit.web.shield import Shield
from fedkit_client.audit import record
from fedkit_client.console import actions, views
from fedkit_client.console.site import Site
from fedkit_client.console_factors import users_of
from fedkit_client.folder import SiteFolder
from fedkit_client.start import open_site
from fedkit_client.unlinked import require_unlinked

_NAV = (
    ("/", "Overview"),
    ("/requests", "Requests"),
    ("/budgets", "Budgets"),
    ("/log", "What left"),
    ("/consent", "Consent"),
    ("/log/verify", "Verify the log"),
    ("/inventory", "Inventory"),
)
_PAGES: Mapping[str, Callable[[Site, Visit], Response]] = {
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
_ACTIONS: Mapping[str, Callable[[Site, Visit], Response]] = {
    "/requests/{job}/approve": actions.approve,
    "/requests/{job}/deny": actions.deny,
    "/pause": actions.pause,
    "/quarantine": actions.quarantine,
    "/resume": actions.resume,
    "/withdraw": actions.withdraw,
}
_ALWAYS = ("/pause", "/quarantine")


def door_of(folder: SiteFolder, clock: Callable[[], float] = time.time) -> Door:
    """The door of a site's console; the audit log tells who came, who left, and which name is locked."""

    def told(what: str, name: str) -> None:
        record(folder, f"console_{what}", by=name)

    return Door(users_of(folder), folder.console_wrong, told, clock)


def desk_of(folder: SiteFolder, name: str, host: str, clock: Callable[[], float] = time.time) -> Desk:
    """The shared half of the console of a site of that name."""
    return Desk(
        f"fedkit console of {name}",
        host,
        secrets.token_bytes(32),
        Path(__file__).with_name("templates"),
        _NAV,
        "fedkit client console-user",
        door_of(folder, clock),
    )


def console_app(desk: Desk, site: Site) -> Shield:
    """The application."""
    pages = {path: _of(site, view) for path, view in _PAGES.items()}
    # Nothing may keep a site from being stopped.
    actions = {path: partial(act, site) if path in _ALWAYS else _of(site, act) for path, act in _ACTIONS.items()}
    return make_app(desk, pages, actions)


def _of(site: Site, view: Callable[[Site, Visit], Response]) -> Callable[[Visit], Response]:
    def looked(visit: Visit) -> Response:
        require_unlinked(site.folder.path)
        return view(site, visit)

    return looked


def opened_app(path: Path) -> Callable[[str], Shield]:
    """Makes the application of a site's file, of the ``127.0.0.1:PORT`` at which it is.

    Raises:
        ConfigError: FK120.
        DeploymentError: FK796, nobody could log in; FK795, FK706, FK741, FK752, the folder; FK790, FK791, FK793,
            its key.
    """
    opened = open_site(path)
    users = users_of(opened.folder)
    known = users.read()
    if not known:
        raise DeploymentError(
            "nobody could log in: the console has no user yet",
            code="FK796",
            remedy=f"fedkit client console-user {path} add NAME",
        )
    # Nobody could log in without the key: who starts the console is told why, and not who comes to it.
    users.factors(known)
    site = Site(path, opened.folder)
    return lambda host: console_app(desk_of(opened.folder, opened.file.site, host), site)
