"""Bytes that nobody reads without a key: AES-256-GCM, a data key for each piece, bound to the place that it lies at.

A piece is ``fks1``, the name of the key that wrapped its data key, that data key wrapped, and the content, which both
are authenticated together with the vault's name and the piece's context: at another place it cannot be opened.

::

    FK792  a piece that cannot be opened: another key, another place, or altered
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import GCM

from fedkit.errors import DeploymentError

KEY_BYTES = 32
MAGIC = b"fks1"
_NAME, _NONCE, _TAG = 8, 12, 16
_WRAPPED = KEY_BYTES + _TAG
_BEGIN = len(MAGIC) + _NAME
_HEAD = _BEGIN + _NONCE + _WRAPPED + _NONCE
_LEAST_PADDED = 64

Bytes = bytes | bytearray | memoryview


@dataclass(frozen=True)
class Vault:
    """The keys of one folder, in memory.

    Attributes:
        name: the folder's random name.
        newest: the name of the key that is written with; the others only open.

    Guarantee: what :meth:`seal` returns tells the content's length and nothing else to whoever has none of the keys,
    and is opened only by a vault of the same name, for the same context, unaltered.
    """

    name: str
    newest: str
    _keys: Mapping[str, bytes] = field(repr=False, compare=False)

    def seal(self, content: Bytes, *context: str) -> bytearray:
        """The content, encrypted under a key of its own.

        Args:
            context: what it is and where it belongs.
        """
        begin = MAGIC + bytes.fromhex(self.newest)
        bound, key = self._bound(begin, context), os.urandom(KEY_BYTES)
        wrapping, nonce = os.urandom(_NONCE), os.urandom(_NONCE)
        wrapped = AESGCM(self._keys[self.newest]).encrypt(wrapping, key, bound)
        size = len(content)
        # In place: an update may have a gigabyte, and the process a limit.
        made = bytearray(_HEAD + size + _TAG)
        made[:_HEAD] = begin + wrapping + wrapped + nonce
        encryptor = Cipher(AES(key), GCM(nonce)).encryptor()
        encryptor.authenticate_additional_data(bound)
        if size:
            with memoryview(made) as view:
                encryptor.update_into(content, view[_HEAD : _HEAD + size])
        encryptor.finalize()
        made[_HEAD + size :] = encryptor.tag
        return made

    def open(self, piece: Bytes, *context: str) -> bytes:
        """The content of a piece.

        Raises:
            DeploymentError: FK792.
        """
        view = memoryview(piece)
        begin = bytes(view[:_BEGIN])
        key = self._keys.get(begin[len(MAGIC) :].hex())
        if not is_sealed(piece) or len(view) < _HEAD + _TAG or key is None:
            raise _shut(context, "it is none, or sealed by a key that is not here")
        bound = self._bound(begin, context)
        wrapping, at = bytes(view[_BEGIN : _BEGIN + _NONCE]), _BEGIN + _NONCE
        nonce = bytes(view[at + _WRAPPED : _HEAD])
        try:
            data_key = AESGCM(key).decrypt(wrapping, bytes(view[at : at + _WRAPPED]), bound)
            return AESGCM(data_key).decrypt(nonce, view[_HEAD:], bound)
        except InvalidTag:
            raise _shut(context, "it was altered, or lies at another place than it was written for") from None

    def is_newest(self, piece: Bytes) -> bool:
        """Whether a piece is sealed by the key that is written with."""
        return is_sealed(piece) and bytes(memoryview(piece)[len(MAGIC) : _BEGIN]).hex() == self.newest

    def _bound(self, begin: bytes, context: tuple[str, ...]) -> bytes:
        return begin + json.dumps([self.name, *context]).encode()


def new_name() -> str:
    """A random name of a key.

    >>> len(bytes.fromhex(new_name()))
    8
    """
    return os.urandom(_NAME).hex()


def is_sealed(content: Bytes) -> bool:
    """Whether bytes begin as a piece does; nothing is verified."""
    return bytes(memoryview(content)[: len(MAGIC)]) == MAGIC


def padded(content: bytes) -> bytes:
    """The content, filled up so that its length tells little: to a power of two of at least 64 bytes, with its length.

    >>> len(padded(b"")), len(padded(bytes(57))), unpadded(padded(b"p1"))
    (64, 128, b'p1')
    """
    size = _LEAST_PADDED
    while size < len(content) + 8:
        size *= 2
    return len(content).to_bytes(8, "little") + content + bytes(size - 8 - len(content))


def unpadded(content: bytes) -> bytes:
    """What :func:`padded` was given."""
    return content[8 : 8 + int.from_bytes(content[:8], "little")]


def _shut(context: tuple[str, ...], why: str) -> DeploymentError:
    return DeploymentError(
        f"{' of '.join(reversed(context[:2]))} cannot be opened: {why}",
        code="FK792",
        remedy="restore it together with vault.json from one backup of the folder",
    )
