"""Who may sign what: a chain of signed statements that begins with the root user and only grows.

::

    FK540  a statement that cannot be read           FK542  another federation
    FK541  a signature that is wrong, or by a key that is not known, revoked or without the role
    FK544  a chain that does not extend the known one, or a statement that its rules forbid
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from fedkit.config.locate import NAME
from fedkit.errors import FederationError
from fedkit.federation import strict_json
from fedkit.federation.envelope import Signed, read, unseal
from fedkit.storage.keys import PUBLIC_BYTES, fingerprint, is_fingerprint

ROLES = ("viewer", "operator", "admin")
"""What a user may do, each role all that those before it may."""

COORDINATOR = "coordinator"
GENESIS = "0" * 64
MOST_STATEMENTS = 1000
"""About 700 kB, which every message carries; one may have 1 MiB."""

RESERVED = 200
"""So many statements at the end of a chain are left to admins and the coordinator: nobody else can use the chain up."""

MOST_ROTATIONS = 20
"""So often a user replaces their own key; then an admin revokes them and adds them again."""

_LONGEST_NAME = 64
_FIELDS: Mapping[str, type] = {
    "wire": int, "federation": str, "serial": int, "previous": str, "action": str, "name": str, "role": str,
    "key": str, "issued_at": int,
}  # fmt: skip


@dataclass(frozen=True)
class Member:
    """A user whose key counts.

    Attributes:
        public: raw Ed25519 key.
        rotations: how often the user has replaced it since an admin added them.
    """

    name: str
    role: str
    public: bytes
    rotations: int = field(default=0, compare=False)

    @property
    def key(self) -> str:
        """The key's fingerprint."""
        return fingerprint(self.public)


@dataclass(frozen=True)
class Keyring:
    """What a verified chain says.

    Attributes:
        federation: fingerprint of the federation's CA.
        root: fingerprint of the key that the chain began with.
        coordinator: raw key of the coordinator; empty until the second statement introduces it.
        members: fingerprint to the user, for keys that count now.
        seen: fingerprints of all keys that ever counted; none of them comes back.
        statements: the envelopes' texts.
    """

    federation: str
    root: str
    coordinator: bytes
    members: Mapping[str, Member]
    seen: frozenset[str]
    statements: tuple[str, ...]

    @property
    def head(self) -> str:
        """SHA-256 of the newest statement's envelope, hex: two keyrings with one head are the same."""
        return _digest(self.statements[-1])

    def signer(self, key: str, role: str) -> Member:
        """The user behind a fingerprint, if the role suffices.

        Raises:
            FederationError: FK541.
        """
        member = self.members.get(key)
        if member is None:
            why = "was revoked or replaced" if key in self.seen else "is not known"
            if self.coordinator and key == fingerprint(self.coordinator):
                why = "is the coordinator's, which signs orders and nothing else"
            raise FederationError(f"the key {key} {why}", code="FK541", remedy="sign with a key of the federation")
        if ROLES.index(member.role) < ROLES.index(role):
            raise FederationError(
                f"{member.name} is {member.role}; {role} is needed", code="FK541", remedy="ask an admin for the role"
            )
        return member

    def named(self, name: str) -> Member:
        """The user of a name.

        Raises:
            FederationError: FK541, nobody has it.
        """
        for member in self.members.values():
            if member.name == name:
                return member
        known = ", ".join(sorted(member.name for member in self.members.values()))
        raise FederationError(f"no user is called {name!r}", code="FK541", remedy=f"name one of {known}")


def open_keyring(statements: Sequence[str], *, federation: str, root: str, coordinator: str | None = None) -> Keyring:
    """Verify a whole chain against what an invitation pins.

    Args:
        root: fingerprint of the first user's key.
        coordinator: fingerprint that the coordinator's newest key must have; None leaves it open.

    Raises:
        FederationError: see the module.
    """
    if not 1 <= len(statements) <= MOST_STATEMENTS:
        raise _broken(f"a keyring has 1 to {MOST_STATEMENTS} statements, not {len(statements)}")
    signed = read(statements[0])
    if signed.key != root:
        raise FederationError(
            f"the keyring begins with the key {signed.key}, not with the pinned {root}",
            code="FK541",
            remedy="join with an invitation of this federation",
        )
    keyring = _first(signed, federation)
    for text in statements[1:]:
        keyring = _extended(keyring, read(text))
    if coordinator is not None and fingerprint(keyring.coordinator) != coordinator:
        raise FederationError(
            f"the coordinator's key is {fingerprint(keyring.coordinator)}, not the pinned {coordinator}",
            code="FK541",
            remedy="ask an admin for a new invitation",
        )
    return keyring


def extend(known: Keyring, received: Sequence[str]) -> Keyring:
    """What a received chain says, if it goes on from the known one.

    Raises:
        FederationError: FK544, it is shorter or differs; otherwise as `open_keyring`.

    Guarantee: every statement that was ever accepted stays, so that a revocation that was seen stays.
    """
    if len(received) > MOST_STATEMENTS:
        raise _broken(f"a keyring has at most {MOST_STATEMENTS} statements, not {len(received)}")
    if tuple(received[: len(known.statements)]) != known.statements:
        shorter = tuple(received) == known.statements[: len(received)]
        why = "is an older state of" if shorter else "is no continuation of"
        raise _broken(f"the received keyring {why} the known one")
    keyring = known
    for text in received[len(known.statements) :]:
        keyring = _extended(keyring, read(text))
    return keyring


def _first(signed: Signed, federation: str) -> Keyring:
    # Self-signed: the key is in the statement, and its fingerprint was compared with the pinned one.
    unproven = strict_json.fields(strict_json.read(signed.payload, "the statement"), _FIELDS, "the statement")
    member = _member(_values(signed, public_key(unproven["key"]), federation, 0, GENESIS))
    if unproven["action"] != "root" or unproven["role"] != "admin":
        raise _broken("a keyring begins with the statement root, of an admin")
    return Keyring(federation, member.key, b"", {member.key: member}, frozenset({member.key}), (signed.text,))


def _extended(keyring: Keyring, signed: Signed) -> Keyring:
    by_coordinator = bool(keyring.coordinator) and signed.key == fingerprint(keyring.coordinator)
    public = keyring.coordinator if by_coordinator else keyring.signer(signed.key, "viewer").public
    values = _values(signed, public, keyring.federation, len(keyring.statements), keyring.head)
    action, serial = values["action"], values["serial"]
    if (serial == 1) != (action == COORDINATOR and not keyring.coordinator):
        raise _broken("the second statement of a keyring, and no other, introduces the coordinator")
    if action == COORDINATOR:
        return _with_coordinator(keyring, signed, values, by_coordinator)
    member = _member(values)
    if action == "rotate":
        old = keyring.signer(signed.key, "viewer")
        if (member.name, member.role) != (old.name, old.role):
            raise _broken(f"a rotation keeps name and role: {old.name}, {old.role}")
        if old.rotations >= MOST_ROTATIONS:
            raise _broken(
                f"{old.name} has replaced their key {MOST_ROTATIONS} times",
                "have an admin revoke them and add them again",
            )
        if old.role != "admin" and serial >= MOST_STATEMENTS - RESERVED:
            raise _broken(f"the last {RESERVED} statements of a keyring are the admins'")
        return _with(_without(keyring, old), replace(member, rotations=old.rotations + 1), signed)
    keyring.signer(signed.key, "admin")
    if action == "add":
        if any(member.name == other.name for other in keyring.members.values()):
            raise _broken(f"the name {member.name} is taken", "choose another name, or revoke that user first")
        return _with(keyring, member, signed)
    if action == "revoke":
        if keyring.members.get(member.key) != member:
            raise _broken(f"{member.name} is no user with this role and key")
        left = _without(keyring, member)
        if not any(other.role == "admin" for other in left.members.values()):
            raise _broken(f"{member.name} is the last admin; nobody could add another", "add another admin first")
        return replace(left, statements=(*keyring.statements, signed.text))
    raise _broken("a statement is add, revoke, rotate or coordinator")


def _with_coordinator(keyring: Keyring, signed: Signed, values: Mapping[str, Any], by_coordinator: bool) -> Keyring:
    if not by_coordinator:
        keyring.signer(signed.key, "admin")
    if values["name"] != COORDINATOR or values["role"] != COORDINATOR:
        raise _broken(f"the coordinator is called {COORDINATOR} and has that role")
    public = public_key(values["key"])
    _refuse_seen(keyring, fingerprint(public))
    return replace(
        keyring,
        coordinator=public,
        seen=keyring.seen | {fingerprint(public)},
        statements=(*keyring.statements, signed.text),
    )


def _with(keyring: Keyring, member: Member, signed: Signed) -> Keyring:
    _refuse_seen(keyring, member.key)
    members = {**keyring.members, member.key: member}
    return replace(
        keyring, members=members, seen=keyring.seen | {member.key}, statements=(*keyring.statements, signed.text)
    )


def _without(keyring: Keyring, member: Member) -> Keyring:
    return replace(keyring, members={key: other for key, other in keyring.members.items() if key != member.key})


def _refuse_seen(keyring: Keyring, key: str) -> None:
    if key in keyring.seen:
        raise _broken(f"the key {key} counted before; a new one is needed")


def _values(signed: Signed, public: bytes, federation: str, serial: int, previous: str) -> dict[str, Any]:
    values = strict_json.fields(unseal(signed, "keyring", public), _FIELDS, "the statement")
    if values["federation"] != federation or not is_fingerprint(federation):
        raise FederationError(
            "the keyring is another federation's", code="FK542", remedy="join with an invitation of this federation"
        )
    if (values["serial"], values["previous"]) != (serial, previous):
        raise _broken(f"statement {serial} does not follow the one before it")
    return values


def _member(values: Mapping[str, Any]) -> Member:
    name, role = values["name"], values["role"]
    if not NAME.fullmatch(name) or len(name) > _LONGEST_NAME or name == COORDINATOR:
        raise _broken(
            f"a user's name has 1 to {_LONGEST_NAME} letters, digits, _ and -, and is not {COORDINATOR}",
            "choose such a name",
        )
    if role not in ROLES:
        raise _broken(f"a user is {', '.join(ROLES[:-1])} or {ROLES[-1]}", f"give one of {', '.join(ROLES)}")
    return Member(name, role, public_key(values["key"]))


def public_key(text: str) -> bytes:
    """The raw key that a statement names.

    Raises:
        FederationError: FK540, it is none.
    """
    try:
        found = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        found = b""
    if len(found) != PUBLIC_BYTES or base64.b64encode(found).decode() != text:
        raise strict_json.unreadable("the statement", f"has a key that is no {PUBLIC_BYTES} bytes in base64")
    return found


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _broken(why: str, remedy: str = "ask the coordinator's admin for the current keyring") -> FederationError:
    return FederationError(why, code="FK544", remedy=remedy)
