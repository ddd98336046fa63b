"""The dashboard of a profile: its pages and actions, and its door."""

from __future__ import annotations

import logging
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
from fedkit.web.users import Users
from fedkit_server.dashboard import pages
from fedkit_server.dashboard.results import Results
from fedkit_server.remote import Remote

_LOG = logging.getLogger("fedkit.dashboard")
_NAV = (("/", "Federation"), ("/sites", "Sites"), ("/runs", "Runs"))
_PAGES: Mapping[str, Callable[[pages.Federation, Visit], Response]] = {
    "/": pages.overview,
    "/sites": pages.sites,
    "/runs": pages.runs,
    "/runs/{run}": pages.run,
    "/runs/{run}/report": pages.report,
}
_ACTIONS: Mapping[str, Callable[[pages.Federation, Visit], Response]] = {
    "/runs/{run}/stop": partial(pages.act, "stop", "is asked to stop"),
    "/runs/{run}/resume": partial(pages.act, "resume", "goes on"),
    "/runs/{run}/fetch": pages.fetch,
    "/refresh": partial(pages.refresh, "/"),
    "/runs/{run}/refresh": partial(pages.refresh, "/runs/{run}"),
}


CLEAR = (
    "the secret lies in the clear in dashboard_users.json (0600), beside the profile's token and key: whoever copies"
    " the profile acts as its user by these, without the page"
)
"""Why no key seals it: it would protect from nobody who has not more in hand already."""


def users_of(profile: Path) -> Users:
    """Who may log in to the dashboard of a profile."""
    return Users(profile / "dashboard_users.json")


def counts_of(profile: Path) -> Path:
    """The file of wrong logins."""
    return profile / "dashboard_wrong.json"


def desk_of(profile: Path, of: str, host: str, clock: Callable[[], float] = time.time) -> Desk:
    """The shared half; who comes and goes is said by this process alone, which has no audit log of its own."""

    def told(what: str, name: str) -> None:
        _LOG.warning("%s: %s", what, name or "(of no user)")

    door = Door(users_of(profile), counts_of(profile), told, clock)
    templates = Path(__file__).with_name("templates")
    return Desk(
        of, host, secrets.token_bytes(32), templates, _NAV, "fedkit server dashboard-user", door, 2 * pages.MOST
    )


def dashboard_app(desk: Desk, federation: pages.Federation) -> Shield:
    """The application."""
    return make_app(
        desk,
        {path: partial(view, federation) for path, view in _PAGES.items()},
        {path: partial(act, federation) for path, act in _ACTIONS.items()},
    )


def opened_app(remote: Remote) -> Callable[[str], Shield]:
    """Makes the application of a profile, of the ``127.0.0.1:PORT`` at which it is.

    Raises:
        DeploymentError: FK796, nobody could log in; FK795, FK706; FK712 and FK720, the coordinator is not there, or
            does not know the token.
    """
    path = remote.profile.path
    if not users_of(path).read():
        raise DeploymentError(
            "nobody could log in: the dashboard has no user yet",
            code="FK796",
            remedy=f"fedkit server dashboard-user add NAME --profile {path}",
        )
    name = str(remote.get("/status")["name"])
    federation = pages.Federation(remote, Results(remote))
    return lambda host: dashboard_app(desk_of(path, f"fedkit dashboard of {name}", host), federation)
