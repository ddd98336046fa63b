"""Who was ever a user of a federation, read from its verified keyring."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from fedkit.federation import strict_json
from fedkit.federation.envelope import read
from fedkit.federation.keyring import COORDINATOR, Keyring, public_key
from fedkit.storage.keys import fingerprint


@dataclass(frozen=True)
class User:
    """A user, by what the keyring's statements say.

    Attributes:
        key: fingerprint of the newest signing key.
        since: seconds since the epoch at which the user was added.
        rotated_at: at which the key was last replaced, by its owner.
        revoked_at: at which the user was revoked; their key counts nowhere that has heard of it.
    """

    name: str
    role: str
    key: str
    since: int
    rotated_at: int | None = None
    revoked_at: int | None = None


def users(keyring: Keyring) -> list[User]:
    """Everybody in the order in which they were added; a name that was revoked and added again stands twice.

    Args:
        keyring: one that `open_keyring` has verified: no signature is looked at here.
    """
    found: list[User] = []
    for text in keyring.statements:
        said = strict_json.read(read(text).payload, "the statement")
        if said["action"] != COORDINATOR:
            _take(found, said)
    return found


def _take(found: list[User], said: Mapping[str, Any]) -> None:
    key, at = fingerprint(public_key(said["key"])), int(said["issued_at"])
    for place, user in enumerate(found):
        if user.name == said["name"] and user.revoked_at is None:
            changed = {"revoked_at": at} if said["action"] == "revoke" else {"key": key, "rotated_at": at}
            found[place] = replace(user, **changed)
            return
    found.append(User(said["name"], said["role"], key, at))


def told(user: User) -> dict[str, Any]:
    """As JSON."""
    return asdict(user)
