"""How the secret of a second factor lies on disk: under a key that is not there, where its place has one.

It is bound to its user and to the hash of the password beside it: in another user's place, or with a hash that somebody
else has written there, it does not open.

::

    FK795  a secret that does not open, or lies in the clear where it must not: nobody logs in
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from fedkit.errors import DeploymentError
from fedkit.storage.sealed_lines import MARK, from_text, is_settled, to_text
from fedkit.storage.sealing import Vault

KIND = "second factor"


def no_vault() -> Vault | None:
    """For a place whose files no key seals."""
    return None


def kept(vault: Vault | None, name: str, password: str, secret: str) -> str:
    """A secret as its file has it.

    Args:
        password: the hash that is kept beside it.
    """
    return to_text(vault, secret.encode(), KIND, name, password).decode("ascii")


def shown(vault: Vault | None, name: str, password: str, text: str) -> str:
    """The secret of a text that :func:`kept` made.

    Raises:
        DeploymentError: FK795.
    """
    if vault is not None and not in_the_clear(text):
        try:
            return from_text(vault, text.encode(), KIND, name, password).decode("ascii")
        except (DeploymentError, ValueError):
            raise _shut(
                name,
                "does not open: it was altered, or is of another day than vault.json",
                "restore both from one backup, or move the file away and add the users anew",
            ) from None
    if vault is not None:
        raise _shut(
            name,
            "lies in the clear in a folder that is encrypted",
            "if it is of a version before, stop the site: `fedkit client encrypt SITE.yaml` encrypts it and says"
            " whose it was; else somebody has written it there: move the file away and add the users anew",
        )
    if not in_the_clear(text):
        raise _shut(name, "is encrypted, and there is no key", "bring vault.json and its key back from the backup")
    return text


def in_the_clear(text: str) -> bool:
    """Whether a secret lies there for everybody who has the file."""
    return not text.startswith(MARK.decode())


def clear_ones(users: Mapping[str, Any]) -> list[str]:
    """Users, as `fedkit.web.users.Users.read` returns them, whose secrets lie in the clear."""
    return sorted(name for name, user in users.items() if in_the_clear(user.secret))


def resealed(content: bytes, vault: Vault, *, plain: bool) -> bytes:
    """A file of users with every secret under the newest key.

    Args:
        plain: take those in the clear for the folder's own; else they stay as they are, and let nobody in. No key that
            is to go has sealed them, so that a rotation need not wait until somebody has said whose they are.

    Raises:
        DeploymentError: FK795.
        ValueError, TypeError, KeyError, AttributeError: it is no file of users.
    """
    values = json.loads(content)
    for name, user in values["users"].items():
        text = user["secret"]
        clear = in_the_clear(text)
        if plain if clear else not is_settled(vault, text.encode()):
            secret = text if clear else shown(vault, name, user["password"], text)
            user["secret"] = kept(vault, name, user["password"], secret)
    return written(values)


def written(values: Mapping[str, Any]) -> bytes:
    """The file's content."""
    return (json.dumps(values, indent=1) + "\n").encode()


def _shut(name: str, why: str, remedy: str) -> DeploymentError:
    return DeploymentError(f"nobody can log in: the second factor of {name} {why}", code="FK795", remedy=remedy)
