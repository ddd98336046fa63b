"""What stands for a unit where its identity must not: a keyed hash, by a key that never leaves the site's folder.

Whoever has the key and a list of ids can tell whose pseudonym it is: it is personal data, and stays at the site.

::

    FK593  a key that is missing or broken while something was written by it
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass, field

from fedkit.errors import DeploymentError, FederationError
from fedkit.storage.private import require_private, write_new
from fedkit.storage.sealed_lines import from_text, to_text
from fedkit_client.folder import SiteFolder

KIND = "pseudonym key"
_KEY = re.compile(rb"[0-9a-f]{64}")
_UNIT = b"fedkit-unit-1\n"
_CHECK = b"fedkit-pseudonym-key-1\n"


@dataclass(frozen=True)
class PseudonymKey:
    """The key in memory.

    Attributes:
        check: tells one key from another and nothing else.
    """

    check: str
    _key: bytes = field(repr=False, compare=False)

    def of(self, dataset: str, unit: str) -> bytes:
        """32 bytes that stand for a unit of a data set: HMAC-SHA256 of both."""
        name = dataset.encode()
        text = unit.encode("utf-8", "surrogatepass")
        return hmac.digest(self._key, _UNIT + len(name).to_bytes(4, "little") + name + text, "sha256")

    def digest(self, content: bytes) -> bytes:
        """32 bytes that stand for any content of the site's."""
        return hmac.digest(self._key, content, "sha256")


def pseudonym_key(folder: SiteFolder, *, make: bool = True) -> PseudonymKey:
    """The site's key.

    Args:
        make: make it where it is absent; what was written by a lost one is then nobody's any more.

    Raises:
        FederationError: FK593, it is no key, or absent and not to be made.
        DeploymentError: FK700, FK706, it cannot be written, or others may read it.
    """
    path = folder.pseudonym_key
    if make and not path.exists():
        try:
            write_new(path, to_text(folder.vault(), secrets.token_hex(32).encode(), KIND) + b"\n")
        except DeploymentError as error:
            # Another process of the site was quicker.
            if error.code != "FK704":
                raise
    require_private([path])
    try:
        content = path.read_bytes()
    except OSError as error:
        raise _unfit(path.name, f"cannot be read ({error.strerror})") from None
    try:
        content = from_text(folder.vault(), content.strip(), KIND)
    except DeploymentError as error:
        raise _unfit(path.name, f"cannot be opened ({error.message})") from None
    if not _KEY.fullmatch(content):
        raise _unfit(path.name, "holds no key")
    key = bytes.fromhex(content.decode())
    return PseudonymKey(hashlib.sha256(_CHECK + key).hexdigest(), key)


def unit_pseudonym(folder: SiteFolder, dataset: str, unit: str) -> str:
    """What a log says in a unit's place, 64 hex digits: the same for one unit, and no telling whose without the key.

    Raises:
        FederationError: FK593.
        DeploymentError: FK700, FK706.
    """
    return pseudonym_key(folder).of(dataset, unit).hex()


def _unfit(name: str, why: str) -> FederationError:
    return FederationError(
        f"{name} {why}", code="FK593", remedy="restore it from the folder's backup; another key answers no old question"
    )
