"""``fedkit server dashboard`` and ``dashboard-user``: the federation on a page, for whoever has a profile."""

from __future__ import annotations

from typing import Annotated

import typer

from fedkit.web.credentials import Act
from fedkit_server.options import Json, Profile, connect, show


def dashboard(
    profile: Profile = None,
    port: Annotated[
        int, typer.Option("--port", metavar="PORT", min=0, max=65535, help="On 127.0.0.1; by default a free one.")
    ] = 0,
    json_: Json = False,
) -> None:
    """Serve a page on this machine alone: sites, runs as they go on, reports; stop and resume. Ends with Ctrl-C.

    It asks the coordinator with the profile's token, so that it shows and does what the profile's role may.

    Example: fedkit server dashboard --profile heart-admin
    """
    from fedkit.web.passwords import require_libraries
    from fedkit.web.serve import serve

    require_libraries()
    from fedkit_server.dashboard.app import opened_app

    def say(url: str) -> None:
        show({"event": "serving", "url": url}, f"{url} answers on this machine, until Ctrl-C", json_=json_)

    serve(opened_app(connect(profile)), port, say)


def dashboard_user(
    act: Annotated[Act, typer.Argument(metavar="add | password | unlock | remove | list", help="What to do.")],
    name: Annotated[str, typer.Argument(metavar="[NAME]", help="Who; list needs none.")] = "",
    profile: Profile = None,
    json_: Json = False,
) -> None:
    """Who may log in to the dashboard of a profile: whoever does acts as the profile's user.

    The password is asked for at the terminal, or is the first line of standard input. The secret of the second factor
    is shown once, for an authenticator app. A new password, or removing, ends the user's sessions.

    Example: fedkit server dashboard-user add ana --profile heart-admin
    """
    from fedkit.web.credentials import manage
    from fedkit_server.dashboard.app import CLEAR, counts_of, users_of
    from fedkit_server.profile import open_profile

    if bool(name) == (act is Act.list):
        raise typer.BadParameter("list takes no NAME" if name else f"{act} needs a NAME")
    found = open_profile(profile)
    issuer = f"fedkit {found.address}"
    users, counts = users_of(found.path), counts_of(found.path)
    told, text = manage(act, name, users, counts, issuer, lambda what, user: None, CLEAR)
    show(told, text, json_=json_)
