"""The console's second factors under the folder's key: who opens them, and how they come there.

::

    FK795  a file of users that cannot be read
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedkit.errors import ConfigError
from fedkit.storage.sealed_lines import piece_of
from fedkit.storage.sealing import is_sealed
from fedkit.web.second_factor import clear_ones, resealed
from fedkit.web.users import Users, alone, unreadable
from fedkit_client.folder import SiteFolder
from fedkit_client.vaults import Keys

if TYPE_CHECKING:
    from fedkit.storage.sealing import Vault

CLEAR = (
    "the secret lies in the clear in console_users.json, since the site's folder is not encrypted: whoever copies that"
    " file can make these codes"
)


def users_of(folder: SiteFolder) -> Users:
    """Who may log in to the console of a folder, whose keys must be named where it is encrypted."""

    def vault() -> Vault | None:
        # A folder in the clear is not held by whoever looks: it may be sealed while the console runs.
        return folder.vault() if folder.vault_file.exists() else None

    return Users(folder.console_users, vault)


def with_keys(folder: SiteFolder, site_yaml: Path) -> SiteFolder:
    """The folder with the way to its key; of a site's file that cannot be read nobody knows it."""
    from fedkit.governance.site_file import read_site_file

    try:
        return SiteFolder(folder.path, Keys(folder.path, read_site_file(site_yaml).encryption))
    except ConfigError:
        return folder


def renew(folder: SiteFolder, vault: Vault, rewrite: Callable[[Path, Callable[[bytes], bytes]], None], *, plain: bool) -> None:  # fmt: skip  # noqa: E501
    """Have every secret sealed by the vault's newest key.

    Args:
        rewrite: replaces a file's content by what a function makes of it.
        plain: take those in the clear for the folder's own.

    Raises:
        DeploymentError: FK795, FK700.
    """
    path = folder.console_users
    if path.exists():
        with _held(path):
            rewrite(path, lambda content: resealed(content, vault, plain=plain))
            # What a kill has left of a writer, whose lock this holds.
            for each in path.parent.glob(f".{path.name}.*"):
                each.unlink()


def seal_clear(folder: SiteFolder, rewrite: Callable[[Path, Callable[[bytes], bytes]], None]) -> list[str]:
    """Seal what lies in the clear in a folder that is encrypted, for whoever says that it is the folder's own.

    Returns:
        Whose it was.

    Raises:
        DeploymentError: FK795, FK706, FK700; FK790, FK791, FK793, the key.
    """
    users = users_of(folder)
    found, vault = clear_ones(users.read()), users.vault()
    if found and vault is not None:
        renew(folder, vault, rewrite, plain=True)
    return found if vault is not None else []


def any_sealed(path: Path) -> bool:
    """Whether a file of users holds a secret that a key has sealed; nothing of one that cannot be read."""
    try:
        values: dict[str, Any] = json.loads(path.read_bytes())["users"]
        return any(is_sealed(piece_of(str(user["secret"]).encode())) for user in values.values())
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return False


@contextmanager
def _held(path: Path) -> Iterator[None]:
    try:
        with alone(path):
            yield
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise unreadable(path, f"it is not what fedkit writes ({type(error).__name__})") from None
