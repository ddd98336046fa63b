"""Makes the statements of a keyring: what an admin, a user or the coordinator signs. See `keyring` for the rules."""

from __future__ import annotations

import base64

from fedkit.federation.envelope import Signed, seal
from fedkit.federation.keyring import COORDINATOR, GENESIS, Keyring, extend, open_keyring
from fedkit.storage.keys import SigningKey


def start(federation: str, name: str, root: SigningKey, coordinator: bytes, now: float) -> Keyring:
    """A new chain: the first admin, and the coordinator's key signed by them.

    Args:
        federation: fingerprint of the CA.
        coordinator: raw public key.

    Raises:
        FederationError: FK544, a name that cannot be.
    """
    first = _seal(federation, 0, GENESIS, ("root", name, "admin", root.public), root, now)
    keyring = open_keyring([first.text], federation=federation, root=root.fingerprint)
    return _appended(keyring, (COORDINATOR, COORDINATOR, COORDINATOR, coordinator), root, now)


def add(keyring: Keyring, name: str, role: str, public: bytes, signer: SigningKey, now: float) -> Keyring:
    """The keyring with another user.

    Raises:
        FederationError: FK541, the signer is no admin; FK544, a name or key that is taken, no role.
    """
    return _appended(keyring, ("add", name, role, public), signer, now)


def revoke(keyring: Keyring, name: str, signer: SigningKey, now: float) -> Keyring:
    """The keyring without a user; their key never counts again.

    Raises:
        FederationError: FK541, the signer is no admin or nobody has the name; FK544, the last admin.
    """
    member = keyring.named(name)
    return _appended(keyring, ("revoke", member.name, member.role, member.public), signer, now)


def rotate(keyring: Keyring, public: bytes, signer: SigningKey, now: float) -> Keyring:
    """The keyring in which a user has a new key, signed by the old one.

    Raises:
        FederationError: FK541, the old key does not count; FK544, the new key did already.
    """
    member = keyring.signer(signer.fingerprint, "viewer")
    return _appended(keyring, ("rotate", member.name, member.role, public), signer, now)


def replace_coordinator(keyring: Keyring, public: bytes, signer: SigningKey, now: float) -> Keyring:
    """The keyring with a new coordinator's key, signed by the old one or, if that is lost or stolen, by an admin.

    Raises:
        FederationError: FK541, the signer is neither; FK544, the new key counted already.
    """
    return _appended(keyring, (COORDINATOR, COORDINATOR, COORDINATOR, public), signer, now)


def _appended(keyring: Keyring, said: tuple[str, str, str, bytes], signer: SigningKey, now: float) -> Keyring:
    signed = _seal(keyring.federation, len(keyring.statements), keyring.head, said, signer, now)
    return extend(keyring, (*keyring.statements, signed.text))


def _seal(
    federation: str, serial: int, previous: str, said: tuple[str, str, str, bytes], signer: SigningKey, now: float
) -> Signed:
    action, name, role, public = said
    values = {
        "federation": federation, "serial": serial, "previous": previous, "action": action, "name": name,
        "role": role, "key": base64.b64encode(public).decode(), "issued_at": int(now),
    }  # fmt: skip
    return seal("keyring", values, signer)
