"""``fedkit client console`` and ``console-user``: the page for a data protection officer, and who may log in to it."""

from __future__ import annotations

import json
import sys
import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from fedkit_client.folder import SiteFolder

SiteYaml = Annotated[Path, typer.Argument(metavar="SITE.yaml", help="The site's own file.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout and nothing else.")]


class Act(StrEnum):
    """What is done with a user."""

    add = "add"
    password = "password"  # noqa: S105
    unlock = "unlock"
    remove = "remove"
    list = "list"


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
    from fedkit.web.users import Users
    from fedkit_client.pausing import folder_to_pause

    if bool(name) == (act is Act.list):
        raise typer.BadParameter("list takes no NAME" if name else f"{act} needs a NAME")
    folder = folder_to_pause(site_yaml)
    users = Users(folder.console_users)
    match act:
        case Act.list:
            told = {each: user.since for each, user in sorted(users.read().items())}
            text = "".join(f"{each}\n" for each in told) or "nobody can log in to the console yet\n"
            _print({"users": told}, json_, text)
        case Act.add | Act.password:
            _credentials(folder, act, name, json_=json_)
        case Act.unlock:
            _unlock(folder, name, json_=json_)
        case Act.remove:
            users.require(name, there=True)
            _tell(folder, "removed", name)
            users.remove(name)
            _print({"user": name, "removed": True}, json_, f"{name} is no user of the console any more\n")


def _credentials(folder: SiteFolder, act: Act, name: str, *, json_: bool) -> None:
    from fedkit.web import passwords, totp
    from fedkit.web.users import Users

    users = Users(folder.console_users)
    passwords.require_libraries()
    # What is refused for the name is refused before a password is asked for.
    users.require(name, there=act is Act.password)
    password = passwords.new_password(_typed(), name)
    _tell(folder, "added" if act is Act.add else "password", name)
    do = users.add if act is Act.add else users.change
    secret = do(name, password, time.time())
    uri = totp.uri(secret, name, folder.enrolment().site)
    done = "is a user of the console" if act is Act.add else "has a new password; sessions of before have ended"
    text = (
        f"{name} {done}\n"
        f"  second factor, shown once; give it to an authenticator app (codes of 6 digits, every {totp.STEP} s):\n"
        f"  {uri}\n  secret: {secret}\n"
    )
    _print({"user": name, "otpauth": uri, "secret": secret}, json_, text)


def _unlock(folder: SiteFolder, name: str, *, json_: bool) -> None:
    from fedkit.web.door import unlock
    from fedkit.web.users import Users

    users = Users(folder.console_users)
    users.require(name, there=True)
    _tell(folder, "unlocked", name)
    done = unlock(users, folder.console_wrong, name)
    text = f"{name} can log in again\n" if done else f"{name} was not locked\n"
    _print({"user": name, "was_locked": done}, json_, text)


def _tell(folder: SiteFolder, what: str, name: str) -> None:
    from fedkit_client.audit import record

    record(folder, "console_user", user=name, action=what)


def _typed() -> str:
    """The password: twice at a terminal, or the first line of standard input."""
    import getpass

    from fedkit.errors import DeploymentError

    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\r\n")
    first, second = getpass.getpass("password: "), getpass.getpass("again: ")
    if first != second:
        raise DeploymentError("the two passwords differ", code="FK797", remedy="type the same one twice")
    return first


def _print(value: dict[str, Any], json_: bool, text: str) -> None:
    sys.stdout.write(json.dumps(value, allow_nan=False) + "\n" if json_ else text)
    sys.stdout.flush()
