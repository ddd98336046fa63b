"""Stored replies under a site's key: what budget was spent is told without it, what was answered is not.

::

    FK359  a stored reply that is encrypted, and cannot be opened: it is lost, and never computed again
"""

from __future__ import annotations

import sqlite3

from fedkit.errors import DeploymentError, PrivacyError
from fedkit.storage.sealing import Vault, is_sealed

Pair = tuple[bytes, bytes]
_KINDS = ("reply", "state")
UNREAD = "FK359"


def sealed(vault: Vault | None, ledger: str, digest: str, pair: Pair) -> tuple[bytes | bytearray, bytes | bytearray]:
    """A reply and the state after it as they are stored.

    Args:
        ledger: its random name.
        digest: of the commit's entry, and so of its data set, run, round and purpose.
    """
    if vault is None:
        return pair
    reply, state = (vault.seal(part, kind, ledger, digest) for part, kind in zip(pair, _KINDS, strict=True))
    return reply, state


def opened(vault: Vault | None, ledger: str, digest: str, pair: Pair, what: str) -> Pair:
    """What :func:`sealed` was given; what was stored in the clear stays as it is.

    Raises:
        PrivacyError: FK359.
    """
    try:
        reply, state = (_part(vault, part, kind, ledger, digest) for part, kind in zip(pair, _KINDS, strict=True))
    except DeploymentError as error:
        raise PrivacyError(
            f"the reply to {what or 'a round'} is encrypted and cannot be opened ({error.message}): it is lost, and is"
            " not computed again, for it may have been sent before",
            code=UNREAD,
            remedy="bring the site's key back, or go on with the next round",
        ) from None
    return reply, state


def reseal(sql: sqlite3.Connection, vault: Vault | None, ledger: str) -> int:
    """Seal every stored reply of an open transaction by the vault's newest key.

    Returns:
        How many were not so before.

    Raises:
        PrivacyError: FK359, one does not open.
    """
    changed = 0
    for digest in [row[0] for row in sql.execute("SELECT digest FROM replies")]:
        pair = sql.execute("SELECT reply, state FROM replies WHERE digest = ?", (digest,)).fetchone()
        fresh = None if vault is None else _resealed(vault, ledger, digest, pair)
        if fresh is not None:
            sql.execute("UPDATE replies SET reply = ?, state = ? WHERE digest = ?", (*fresh, digest))
            changed += 1
    return changed


def _resealed(vault: Vault, ledger: str, digest: str, pair: Pair) -> tuple[bytes | bytearray, bytes | bytearray] | None:
    if all(vault.is_newest(part) for part in pair):
        return None
    return sealed(vault, ledger, digest, opened(vault, ledger, digest, pair, f"entry {digest[:12]}"))


def _part(vault: Vault | None, part: bytes, kind: str, ledger: str, digest: str) -> bytes:
    if not is_sealed(part):
        return part
    if vault is None:
        raise DeploymentError("no key was given", code=UNREAD)
    return vault.open(part, kind, ledger, digest)
