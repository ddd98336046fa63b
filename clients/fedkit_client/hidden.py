"""What ``lineage.sqlite`` holds of records, under the folder's key: whose rows a round has read, and how many."""

from __future__ import annotations

from fedkit.errors import DeploymentError, FederationError
from fedkit.storage.sealing import Vault, is_sealed, padded, unpadded

_UNITS, _COUNT = "units of a table", "rows of a round"


def hidden_units(vault: Vault | None, marks: bytes, digest: bytes) -> bytes | bytearray:
    """Pseudonyms as they are stored; how many they are is seen by a power of two alone.

    Args:
        digest: the set's own name in the file.
    """
    return marks if vault is None else vault.seal(padded(marks), _UNITS, digest.hex())


def shown_units(vault: Vault | None, kept: bytes, digest: bytes) -> bytes:
    """What :func:`hidden_units` was given.

    Raises:
        FederationError: FK593.
    """
    return _shown(vault, kept, _UNITS, digest.hex())


def hidden_count(vault: Vault | None, rows: int, run: str, number: int, kind: str) -> int | bytearray:
    """A count of rows as it is stored."""
    return rows if vault is None else vault.seal(padded(str(rows).encode()), _COUNT, run, str(number), kind)


def shown_count(vault: Vault | None, kept: int | bytes, run: str, number: int, kind: str) -> int:
    """What :func:`hidden_count` was given.

    Raises:
        FederationError: FK593.
    """
    if isinstance(kept, int) and vault is None:
        return kept
    return int(_shown(vault, kept if isinstance(kept, bytes) else b"", _COUNT, run, str(number), kind))


def _shown(vault: Vault | None, kept: bytes, *context: str) -> bytes:
    try:
        if vault is None:
            if is_sealed(kept):
                raise DeploymentError("it is encrypted, and no key was named", code="FK790")
            return kept
        return unpadded(vault.open(kept, *context))
    except DeploymentError as error:
        raise FederationError(
            f"lineage.sqlite cannot be read: {error.message}",
            code="FK593",
            remedy="restore it from the folder's backup",
        ) from None


def resealed_units(vault: Vault, kept: bytes, digest: bytes, *, plain: bool) -> bytes | bytearray:
    """The same under the newest key.

    Args:
        plain: what is not sealed is the site's own of before.

    Raises:
        FederationError: FK593.
    """
    if vault.is_newest(kept):
        return kept
    marks = kept if plain and not is_sealed(kept) else shown_units(vault, kept, digest)
    return hidden_units(vault, marks, digest)


def resealed_count(
    vault: Vault, kept: int | bytes, run: str, number: int, kind: str, *, plain: bool
) -> int | bytes | bytearray:
    """As :func:`resealed_units`.

    Raises:
        FederationError: FK593.
    """
    if isinstance(kept, bytes) and vault.is_newest(kept):
        return kept
    rows = kept if plain and isinstance(kept, int) else shown_count(vault, kept, run, number, kind)
    return hidden_count(vault, rows, run, number, kind)
