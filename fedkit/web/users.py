"""Who may log in: a file of users, mode 0600.

::

    FK795  the file cannot be read, or others can reach it: nobody logs in
    FK796  a user who is there already, or who is not
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fedkit.config.wording import shown
from fedkit.errors import DeploymentError
from fedkit.storage.private import read, replace, require_private
from fedkit.storage.sealing import Vault
from fedkit.web import passwords, second_factor, totp

_FORMAT = 1
_NAME = re.compile(r"[a-z][a-z0-9._-]{0,31}")
_KINDS = {"password": str, "secret": str, "since": int, "step": int}
_MOST_BYTES = 1 << 20


@dataclass(frozen=True)
class User:
    """One user.

    Attributes:
        password: argon2id, with salt and cost.
        secret: of the second factor, as the file has it; see `fedkit.web.second_factor`.
        since: seconds since the epoch of the last new password.
        step: the time step of the code that was taken last.
    """

    password: str = field(repr=False)
    secret: str = field(repr=False)
    since: int
    step: int = 0

    @property
    def stamp(self) -> str:
        """Another one as soon as the password or the secret is: sessions of before end."""
        return hashlib.sha256(f"{self.password}\n{self.secret}".encode()).hexdigest()


@dataclass(frozen=True)
class Users:
    """The file, shared by the page and the command line.

    Args:
        vault: finds what seals the secrets of second factors, or raises; None where they lie in the clear.

    Guarantee: what cannot be read lets nobody in; a crash leaves the file as it was or as it is to be.
    """

    path: Path
    vault: Callable[[], Vault | None] = field(default=second_factor.no_vault, repr=False, compare=False)

    def read(self) -> dict[str, User]:
        """All users by name.

        Raises:
            DeploymentError: FK795, FK706.
        """
        require_private([self.path])
        try:
            content = read(self.path, _MOST_BYTES + 1)
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise unreadable(self.path, error.strerror or type(error).__name__) from None
        try:
            values = json.loads(content)
            if set(values) != {"format", "users"} or values["format"] != _FORMAT:
                raise ValueError
            return {name: _user(name, each) for name, each in values["users"].items()}
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise unreadable(self.path, "it is not what fedkit writes") from None

    def factors(self, users: Mapping[str, User]) -> dict[str, str]:
        """The secrets of all of these, whoever it is that comes: what does not open tells nothing about a name.

        Raises:
            DeploymentError: FK795; whatever ``vault`` raises.
        """
        vault = self.vault()
        return {name: second_factor.shown(vault, name, each.password, each.secret) for name, each in users.items()}

    def require(self, name: str, *, there: bool) -> None:
        """Refuse a name that cannot be one, or that is not there, or that is.

        Raises:
            DeploymentError: FK796, FK797, FK795, FK706.
        """
        users = self.read()
        _possible(name)
        if there:
            _known(users, name)
        else:
            _free(users, name)

    def add(self, name: str, password: str, now: float) -> str:
        """Add a user; returns the secret of the second factor, which nobody is shown again.

        Raises:
            DeploymentError: FK796, the name is taken; FK797, FK795, FK706, FK700; whatever ``vault`` raises.
        """
        return self._put(name, password, now, _free)

    def change(self, name: str, password: str, now: float) -> str:
        """Give a user a new password and a new secret, which is returned; every session of the user ends.

        Raises:
            DeploymentError: FK796, FK797, FK795, FK706, FK700; whatever ``vault`` raises.
        """
        return self._put(name, password, now, _known)

    def _put(self, name: str, password: str, now: float, check: Callable[[dict[str, User], str], None]) -> str:
        secret = totp.new_secret()
        # Before the file's lock: whoever seals the folder holds its vault and waits for that.
        vault = self.vault()
        with self.changing() as users:
            check(users, name)
            users[name] = _made(name, password, secret, now, vault or self.vault())
        return secret

    def remove(self, name: str) -> None:
        """Take a user away; every session of the user ends.

        Raises:
            DeploymentError: FK796, FK795, FK706, FK700.
        """
        with self.changing() as users:
            _known(users, name)
            del users[name]

    @contextmanager
    def changing(self) -> Iterator[dict[str, User]]:
        """The users, to be changed by one process at a time; on disk when the block has ended without an error.

        Raises:
            DeploymentError: FK795, FK706, FK700.
        """
        with alone(self.path):
            users = self.read()
            before = dict(users)
            yield users
            if users != before:
                plain = {name: asdict(user) for name, user in sorted(users.items())}
                replace(self.path, second_factor.written({"format": _FORMAT, "users": plain}))


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Keep other processes from a file that is replaced, by the lock of one beside it that stays.

    Raises:
        DeploymentError: FK795.
    """
    place = path.with_suffix(".lock")
    try:
        handle = os.open(place, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise unreadable(place, error.strerror or "error") from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def unreadable(path: Path, why: str) -> DeploymentError:
    """A file without which nobody logs in."""
    return DeploymentError(
        f"{path} cannot be used: {why}, so nobody can log in",
        code="FK795",
        remedy="restore it from its backup, or move it away and add the users anew",
    )


def _possible(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise DeploymentError(
            f"{shown(name)} is no name of a user: a small letter, then up to 31 of a-z, 0-9, '.', '_', '-'",
            code="FK797",
            remedy="choose another one",
        )


def _made(name: str, password: str, secret: str, now: float, vault: Vault | None) -> User:
    _possible(name)
    hashed = passwords.hashed(passwords.new_password(password, name))
    return User(hashed, second_factor.kept(vault, name, hashed, secret), int(now))


def _free(users: dict[str, User], name: str) -> None:
    if name in users:
        raise _other(f"{name} is a user already", "give another name, or use `password`")


def _known(users: dict[str, User], name: str) -> None:
    if name not in users:
        known = ", ".join(sorted(users)) or "none yet"
        raise _other(f"there is no user {shown(name)} (it knows: {known})", "`add` one, or name another")


def _other(why: str, remedy: str) -> DeploymentError:
    return DeploymentError(why, code="FK796", remedy=remedy)


def _user(name: str, values: Any) -> User:
    good = _NAME.fullmatch(name) and set(values) == set(_KINDS)
    if not good or not all(type(values[key]) is kind for key, kind in _KINDS.items()):
        raise ValueError("no user")
    return User(**values)
