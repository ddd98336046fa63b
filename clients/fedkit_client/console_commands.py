"""``fedkit client console`` and ``console-user``: the page for a data protection officer, and who may log in to it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from fedkit.web.credentials import Act

SiteYaml = Annotated[Path, typer.Argument(metavar="SITE.yaml", help="The site's own file.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout and nothing else.")]


def console(
    site_yaml: SiteYaml,
    port: Annotated[
        int, typer.Option("--port", metavar="PORT", min=0, max=65535, help="On 127.0.0.1; by default a free one.")
    ] = 0,
    json_: Json = False,
) -> None:
    """Serve a page on this machine alone: budgets, requests, what left, consent, pause. Ends with Ctrl-C.

    Run it as the owner of the site's folder. Users are made by `fedkit client console-user`.

    Example: fedkit client console site/site.yaml
    """
    from fedkit.web.passwords import require_libraries
    from fedkit.web.serve import serve

    require_libraries()
    from fedkit_client.console.app import opened_app

    def say(url: str) -> None:
        text = f"{url} answers on this machine, until Ctrl-C\n"
        _print({"event": "serving", "url": url}, json_, text)

    serve(opened_app(site_yaml), port, say)


def console_user(
    site_yaml: SiteYaml,
    act: Annotated[Act, typer.Argument(metavar="add | password | unlock | remove | list", help="What to do.")],
    name: Annotated[str, typer.Argument(metavar="[NAME]", help="The user; list needs none.")] = "",
    json_: Json = False,
) -> None:
    """Who may log in to the console: add a user, give a new password and second factor, unlock, remove, list.

    The password is asked for at the terminal, or is the first line of standard input. The secret of the second factor
    is shown once, for an authenticator app. A new password, or removing, ends the user's sessions.

    Example: fedkit client console-user site/site.yaml add ana
    """
    from fedkit.web.credentials import manage
    from fedkit_client.console_factors import CLEAR, users_of, with_keys
    from fedkit_client.pausing import folder_to_pause
    from fedkit_client.unlinked import require_unlinked

    if bool(name) == (act is Act.list):
        raise typer.BadParameter("list takes no NAME" if name else f"{act} needs a NAME")
    folder = folder_to_pause(site_yaml)
    require_unlinked(folder.path)

    def tell(what: str, user: str) -> None:
        from fedkit_client.audit import record

        record(folder, "console_user", user=user, action=what)

    issuer = f"fedkit {folder.enrolment().site}"
    users = users_of(with_keys(folder, site_yaml))
    told, text = manage(act, name, users, folder.console_wrong, issuer, tell, CLEAR)
    _print(told, json_, text)


def _print(value: dict[str, Any], json_: bool, text: str) -> None:
    sys.stdout.write(json.dumps(value, allow_nan=False) + "\n" if json_ else text)
    sys.stdout.flush()
