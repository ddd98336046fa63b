"""Passwords: what one may be, and the hash that is kept of it (argon2id, RFC 9106's second recommendation).

::

    FK797  a name or a password that cannot be one
    FK798  a library that is not installed, or a port that is taken
"""

from __future__ import annotations

import unicodedata
from functools import cache
from typing import TYPE_CHECKING

from fedkit.errors import DeploymentError

if TYPE_CHECKING:
    from argon2 import PasswordHasher

SHORTEST, LONGEST = 12, 256
_MOST_SAME = 4
"""A password of fewer different characters is none."""


def new_password(text: str, name: str) -> str:
    """A password as it is hashed: Unicode's composed form (NFKC), so that every keyboard gives the same bytes.

    Raises:
        DeploymentError: FK797.
    """
    password = normal(text)
    if not SHORTEST <= len(password) <= LONGEST or not password.isprintable():
        raise _bad(f"a password has {SHORTEST} to {LONGEST} printable characters; this one has {len(password)}")
    if len(set(password)) < _MOST_SAME or name.casefold() in password.casefold():
        raise _bad(f"a password has at least {_MOST_SAME} different characters, and not the user's name in it")
    return password


def normal(text: str) -> str:
    """A text as passwords are compared."""
    return unicodedata.normalize("NFKC", text)


def hashed(password: str) -> str:
    """The hash that is kept, with its salt and cost in it."""
    return _hasher().hash(password.encode())


def matches(kept: str, password: str) -> bool:
    """Whether a password is the one of a hash; as slow for a wrong one."""
    from argon2.exceptions import Argon2Error, InvalidHashError

    try:
        return _hasher().verify(kept, password.encode("utf-8", "surrogatepass"))
    except (Argon2Error, InvalidHashError):
        return False


@cache
def decoy() -> str:
    """A hash that no password has, for a name that nobody has: the answer takes as long."""
    import secrets

    return hashed(secrets.token_hex(32))


@cache
def _hasher() -> PasswordHasher:
    try:
        from argon2 import PasswordHasher
        from argon2.profiles import RFC_9106_LOW_MEMORY
    except ModuleNotFoundError as error:
        raise missing(error) from None
    return PasswordHasher.from_parameters(RFC_9106_LOW_MEMORY)


def require_libraries() -> None:
    """Refuse to go on where a library of the door is missing, before anything is written.

    Raises:
        DeploymentError: FK798.
    """
    try:
        import argon2  # noqa: F401
        import pyotp  # noqa: F401
    except ModuleNotFoundError as error:
        raise missing(error) from None


def missing(error: ModuleNotFoundError) -> DeploymentError:
    """What to do where a library of the door is not there."""
    return DeploymentError(
        f"a login needs {error.name}, which is not installed", code="FK798", remedy="pip install 'fedkit[console]'"
    )


def _bad(why: str) -> DeploymentError:
    return DeploymentError(why, code="FK797", remedy="choose another one")
