"""One line of an audit log: what an event may say, how it is written, and how it is read back byte for byte.

A line is ``{"seq", "at", "kind", ...fields, "prev", "sig"}``: ``prev`` is the SHA-256 of the whole line before, its
signature included (64 zeros for the first); ``sig`` is Ed25519 over the line without it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from fedkit.errors import DeploymentError
from fedkit.storage.chain import Head
from fedkit.storage.keys import SIGNATURE_BYTES, SigningKey, verifies

Scalar = str | int | float | bool | None
MOST_TEXT = 500
_DOMAIN = b"fedkit-audit-1\n"
_NAME = re.compile(r"[a-z][a-z_]{0,31}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_FIRST, _LAST = ("seq", "at", "kind"), ("prev", "sig")
_SIGNATURE = re.compile(rb',"sig":"[A-Za-z0-9+/=]*"\}\Z')


@dataclass(frozen=True)
class Event:
    """What is to be told: a kind and flat fields, never a record, a patient's identity, a secret or an error's text."""

    kind: str
    fields: Mapping[str, Scalar] = field(default_factory=dict)


@dataclass(frozen=True)
class Line:
    """One line as it was written.

    Attributes:
        at: seconds since the epoch, by the writer's clock.
        digest: SHA-256 of the whole line without its newline, hex.
        unsigned: the bytes that were signed.
    """

    seq: int
    at: float
    kind: str
    fields: Mapping[str, Scalar]
    prev: str
    sig: bytes = field(repr=False)
    digest: str
    unsigned: bytes = field(repr=False)

    def signed_by(self, public: bytes) -> bool:
        """Whether the holder of a raw Ed25519 key signed exactly this line."""
        return verifies(public, self.sig, self.unsigned)


class Unreadable(Exception):
    """Bytes that are no line as `Log` writes it; the text says why."""


def read_line(raw: bytes) -> Line:
    """A line, without its newline, taken apart; its signature is not looked at.

    Raises:
        Unreadable: it is not, byte for byte, what `Log` writes.
    """
    try:
        text = raw.decode("ascii")
        values = json.loads(text)
        # One meaning and one text: whatever parsers differ about, a key twice among it, is written in another way.
        canonical = isinstance(values, dict) and _text(values) == text
    except (ValueError, RecursionError):
        raise Unreadable("is no JSON in ASCII") from None
    if not canonical:
        raise Unreadable("is not written as fedkit writes it")
    names = tuple(values)
    if names[:3] != _FIRST or names[-2:] != _LAST or len(names) < len(_FIRST) + len(_LAST):
        raise Unreadable("has other fields than seq, at, kind, ..., prev, sig")
    seq, at, kind, prev, sig = (values.pop(name) for name in (*_FIRST, *_LAST))
    good = (
        type(seq) is int
        and seq > 0
        and type(at) in (int, float)
        and _is(_NAME, kind)
        and _is(_DIGEST, prev)
        and all(_NAME.fullmatch(name) and isinstance(value, Scalar) for name, value in values.items())
    )
    if not good:
        raise Unreadable("has a field of another type")
    unsigned = _DOMAIN + _SIGNATURE.sub(b"}", raw)
    return Line(seq, float(at), kind, values, prev, _signature(sig), hashlib.sha256(raw).hexdigest(), unsigned)


def write_line(head: Head, at: float, event: Event, key: SigningKey) -> bytes:
    """The line that follows a head, signed, without its newline."""
    values = {"seq": head.seq + 1, "at": at, "kind": event.kind, **event.fields, "prev": head.digest}
    unsigned = _text(values).encode("ascii")
    sig = base64.b64encode(key.sign(_DOMAIN + unsigned))
    return unsigned[:-1] + b',"sig":"' + sig + b'"}'


def _text(values: Mapping[str, object]) -> str:
    return json.dumps(values, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def check_event(event: Event) -> None:
    """Refuse what is no event.

    Raises:
        DeploymentError: FK770.
    """
    names = [event.kind, *event.fields]
    wrong = next((name for name in names if not _NAME.fullmatch(name) or name in (*_FIRST, *_LAST)), None)
    for name, value in event.fields.items():
        if isinstance(value, str):
            good = len(value) <= MOST_TEXT and value.isprintable()
        elif isinstance(value, float):
            good = math.isfinite(value)
        else:
            good = value is None or (isinstance(value, int) and abs(value) < 2**63)
        wrong = wrong if good else name
    if wrong is not None:
        raise DeploymentError(
            f"an event {event.kind[:32]!r} cannot be told: {wrong[:32]!r} is a reserved name, no name, or no plain"
            f" value of at most {MOST_TEXT} printable characters",
            code="FK770",
            remedy="shorten it, and leave line breaks out",
        )


def _signature(text: object) -> bytes:
    try:
        found = base64.b64decode(text, validate=True) if isinstance(text, str) else b""
    except ValueError:
        found = b""
    # base64 has several texts of the same bytes; one is admitted.
    if len(found) != SIGNATURE_BYTES or base64.b64encode(found).decode() != text:
        raise Unreadable("has a signature that is no 64 bytes in base64")
    return found


def _is(pattern: re.Pattern[str], value: object) -> bool:
    return isinstance(value, str) and pattern.fullmatch(value) is not None
