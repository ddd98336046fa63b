"""Key files: Ed25519 keys that sign, and the EC P-384 key of a node. Knows no federated learning and no Flower.

::

    FK701  a key file that exists already
    FK702  a key file that others may read
    FK703  a file that is absent, unreadable or no such key
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from fedkit.errors import DeploymentError

PUBLIC_BYTES = 32
SIGNATURE_BYTES = 64
_FINGERPRINT = re.compile(r"sha256:[0-9a-f]{64}")
_MOST_BYTES = 10_000


@dataclass(frozen=True)
class SigningKey:
    """A private Ed25519 key in memory.

    Attributes:
        public: the raw public key, 32 bytes.
    """

    public: bytes
    _private: Ed25519PrivateKey = field(repr=False, compare=False)

    @property
    def fingerprint(self) -> str:
        """The public key's fingerprint."""
        return fingerprint(self.public)

    def sign(self, message: bytes) -> bytes:
        """The signature, 64 bytes; the same message always gets the same."""
        return self._private.sign(message)


@dataclass(frozen=True)
class NodeKey:
    """A private EC P-384 key in memory, with which Flower knows a node.

    Attributes:
        private_pem: PKCS 8, unencrypted, as Flower reads it.
        public_pem: SubjectPublicKeyInfo, as Flower sends it.
    """

    private_pem: bytes = field(repr=False)
    public_pem: bytes


def create_signing_key(path: Path) -> SigningKey:
    """Make an Ed25519 key and write it to a new file that only its owner may read.

    Raises:
        DeploymentError: FK701, the file exists; FK703, the folder cannot be written.
    """
    private = Ed25519PrivateKey.generate()
    _write_new(path, _pem(private))
    return _signing_key(private)


def load_signing_key(path: Path) -> SigningKey:
    """Read a key that `create_signing_key` wrote.

    Raises:
        DeploymentError: FK702, others may read the file; FK703, it holds no Ed25519 key.
    """
    private = _load(path)
    if not isinstance(private, Ed25519PrivateKey):
        raise _no_key(path, "holds no Ed25519 key")
    return _signing_key(private)


def new_signing_key() -> SigningKey:
    """A key that is on no disk.

    >>> key = new_signing_key()
    >>> verifies(key.public, key.sign(b"a"), b"a"), verifies(key.public, key.sign(b"a"), b"b")
    (True, False)
    """
    return _signing_key(Ed25519PrivateKey.generate())


def create_node_key(path: Path) -> NodeKey:
    """Make an EC P-384 key and write it to a new file that only its owner may read.

    Raises:
        DeploymentError: FK701, the file exists; FK703, the folder cannot be written.
    """
    private = ec.generate_private_key(ec.SECP384R1())
    _write_new(path, _pem(private))
    return _node_key(private)


def load_node_key(path: Path) -> NodeKey:
    """Read a key that `create_node_key` wrote.

    Raises:
        DeploymentError: FK702, others may read the file; FK703, it holds no EC P-384 key.
    """
    private = _load(path)
    if not isinstance(private, ec.EllipticCurvePrivateKey) or not isinstance(private.curve, ec.SECP384R1):
        raise _no_key(path, "holds no EC P-384 key")
    return _node_key(private)


def fingerprint(public: bytes) -> str:
    """The name of a public key (raw) or of a certificate (DER): ``sha256:`` and 64 hex digits.

    >>> fingerprint(bytes(32))
    'sha256:66687aadf862bd776c8fc18b8e9f8e20089714856ee233b3902a591d0d5f2925'
    """
    return f"sha256:{hashlib.sha256(public).hexdigest()}"


def is_fingerprint(text: object) -> bool:
    """Whether a value is written as `fingerprint` writes it."""
    return isinstance(text, str) and _FINGERPRINT.fullmatch(text) is not None


def verifies(public: bytes, signature: bytes, message: bytes) -> bool:
    """Whether a signature is by the holder of a raw Ed25519 public key; False for what is no key at all."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def _signing_key(private: Ed25519PrivateKey) -> SigningKey:
    return SigningKey(private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw), private)


def _node_key(private: ec.EllipticCurvePrivateKey) -> NodeKey:
    public = private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return NodeKey(_pem(private), public)


def _pem(private: Ed25519PrivateKey | ec.EllipticCurvePrivateKey) -> bytes:
    return private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _write_new(path: Path, content: bytes) -> None:
    try:
        # Never readable by others, not even between its creation and a chmod.
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except FileExistsError:
        raise DeploymentError(
            f"{path} exists, and a key that is overwritten is lost",
            code="FK701",
            remedy="choose another folder, or move the file away first",
        ) from None
    except OSError as error:
        raise _no_key(path, f"cannot be written ({error.strerror})") from None
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        path.unlink(missing_ok=True)
        raise _no_key(path, f"cannot be written ({error.strerror})") from None


def _load(path: Path) -> object:
    try:
        with path.open("rb") as file:
            # Of the open file, so that nobody changes it between the look and the reading.
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            content = file.read(_MOST_BYTES)
    except OSError as error:
        raise _no_key(path, f"cannot be read ({error.strerror})") from None
    if mode & 0o077:
        raise DeploymentError(
            f"{path} has mode {mode:04o}, so others on this machine can read or replace the key; 0600 is needed",
            code="FK702",
            remedy=f"chmod 600 {path}, and make a new key if others had access",
        )
    try:
        return load_pem_private_key(content, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise _no_key(path, "holds no unencrypted PEM key") from None


def _no_key(path: Path, why: str) -> DeploymentError:
    return DeploymentError(f"the key file {path} {why}", code="FK703", remedy="name the file that holds the key")
