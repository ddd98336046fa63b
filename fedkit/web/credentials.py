"""What a command does with a desk's users: add, a new password, unlock, remove, list."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedkit.errors import DeploymentError

if TYPE_CHECKING:
    from fedkit.web.users import Users


class Act(StrEnum):
    """What is done with a user."""

    add = "add"
    password = "password"  # noqa: S105
    unlock = "unlock"
    remove = "remove"
    list = "list"


def manage(
    act: Act, name: str, users: Users, counts: Path, issuer: str, tell: Callable[[str, str], None], clear: str
) -> tuple[dict[str, Any], str]:
    """Do it; returns what ``--json`` prints, and the same for a person.

    Args:
        issuer: whose second factor it is, as an authenticator app shows it.
        tell: puts on record what happens to whom, or raises, and then it does not happen.
        clear: what a secret that no key seals means, a sentence.

    Raises:
        DeploymentError: FK795 to FK798, FK706, FK700; whatever ``tell`` and the vault of ``users`` raise.
    """
    match act:
        case Act.list:
            told = {each: user.since for each, user in sorted(users.read().items())}
            return {"users": told}, "".join(f"{each}\n" for each in told) or "nobody can log in yet\n"
        case Act.add | Act.password:
            return _credentials(act, name, users, issuer, tell, clear)
        case Act.unlock:
            from fedkit.web.door import unlock

            users.require(name, there=True)
            tell("unlocked", name)
            done = unlock(users, counts, name)
            said = f"{name} can log in again\n" if done else f"{name} was not locked\n"
            return {"user": name, "was_locked": done}, said
        case Act.remove:
            users.require(name, there=True)
            tell("removed", name)
            users.remove(name)
            return {"user": name, "removed": True}, f"{name} cannot log in any more\n"


def _credentials(
    act: Act, name: str, users: Users, issuer: str, tell: Callable[[str, str], None], clear: str
) -> tuple[dict[str, Any], str]:
    from fedkit.web import passwords, totp

    passwords.require_libraries()
    # What is refused for the name is refused before a password is asked for.
    users.require(name, there=act is Act.password)
    sealed = users.vault() is not None
    password = passwords.new_password(_typed(), name)
    tell("added" if act is Act.add else "password", name)
    secret = (users.add if act is Act.add else users.change)(name, password, time.time())
    uri = totp.uri(secret, name, issuer)
    done = "can log in" if act is Act.add else "has a new password; sessions of before have ended"
    text = (
        f"{name} {done}\n"
        f"  second factor, shown once; give it to an authenticator app (codes of 6 digits, every {totp.STEP} s):\n"
        f"  {uri}\n  secret: {secret}\n" + ("" if sealed else f"  {clear}\n")
    )
    return {"user": name, "otpauth": uri, "secret": secret, "encrypted": sealed}, text


def _typed() -> str:
    """The password: twice at a terminal, or the first line of standard input."""
    import getpass

    if not sys.stdin.isatty():
        return sys.stdin.readline().rstrip("\r\n")
    first, second = getpass.getpass("password: "), getpass.getpass("again: ")
    if first != second:
        raise DeploymentError("the two passwords differ", code="FK797", remedy="type the same one twice")
    return first
