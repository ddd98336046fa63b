"""Lines of a file under the folder's key: ``sealed:`` and base64, each bound to its file and its place in it."""

from __future__ import annotations

import base64
import binascii

from fedkit.errors import DeploymentError
from fedkit.storage.sealing import Bytes, Vault, is_sealed, padded, unpadded

MARK = b"sealed:"


def to_text(vault: Vault | None, content: bytes, *context: str) -> bytes:
    """A text as it is written: one line, whose length tells little of the content's.

    Args:
        vault: None leaves it as it is.
    """
    if vault is None:
        return content
    return MARK + base64.b64encode(vault.seal(padded(content), *context))


def from_text(vault: Vault | None, text: bytes, *context: str) -> bytes:
    """What :func:`to_text` was given.

    Raises:
        DeploymentError: FK790, it is sealed and there is no key; FK792, it does not open, or is not sealed and must be.
    """
    if vault is None:
        if text.startswith(MARK):
            raise DeploymentError(f"{context[0]} is encrypted", code="FK790", remedy="name its key in site.yaml")
        return text
    return unpadded(vault.open(piece_of(text), *context))


def piece_of(text: bytes) -> Bytes:
    """The sealed bytes of a line; nothing where it is none."""
    try:
        return base64.b64decode(text.removeprefix(MARK), validate=True) if text.startswith(MARK) else b""
    except (binascii.Error, ValueError):
        return b""


def is_settled(vault: Vault, text: bytes) -> bool:
    """Whether a line is sealed by the key that is written with."""
    piece = piece_of(text)
    return is_sealed(piece) and vault.is_newest(piece)
