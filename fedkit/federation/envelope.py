"""Envelopes: a text and who signed it. The bytes that were signed are the bytes that are parsed.

::

    FK540  an envelope that cannot be read
    FK541  a signature that is wrong
    FK547  a payload of another wire version
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from fedkit.errors import FederationError
from fedkit.federation import strict_json
from fedkit.storage.keys import SIGNATURE_BYTES, SigningKey, fingerprint, is_fingerprint, verifies

WIRE = 1
"""Version of every payload; another one is refused."""

Kind = Literal[
    "keyring",
    "job",
    "order",
    "offer",
    "head",
    "heads",
    "enrolment",
    "study",
    "assent",
    "evidence",
    "incident",
    "authority",
]
_FIELDS = {"payload": str, "key": str, "signature": str}
# The payload's quotes are escaped once more.
_MOST_BYTES = 2 * strict_json.MOST_BYTES


@dataclass(frozen=True)
class Signed:
    """An envelope whose signature may not have been looked at yet.

    Attributes:
        payload: JSON text.
        key: fingerprint of the key that is said to have signed.
        signature: base64 of 64 bytes.
    """

    payload: str
    key: str
    signature: str

    @property
    def text(self) -> str:
        """The envelope as it travels and is stored: one line of JSON."""
        return strict_json.write({"payload": self.payload, "key": self.key, "signature": self.signature})

    @property
    def digest(self) -> str:
        """SHA-256 of the payload, hex."""
        return hashlib.sha256(self.payload.encode()).hexdigest()


def seal(kind: Kind, values: Mapping[str, Any], key: SigningKey) -> Signed:
    """Sign plain JSON values under the current wire version.

    Raises:
        FederationError: FK540, values that `unseal` would refuse.

    >>> from fedkit.storage.keys import new_signing_key
    >>> key = new_signing_key()
    >>> unseal(read(seal("order", {"round": 3}, key).text), "order", key.public)
    {'wire': 1, 'round': 3}
    """
    try:
        payload = strict_json.write({"wire": WIRE, **values})
    except ValueError:
        raise strict_json.unreadable(f"the {kind}", "holds NaN or infinity, which is no JSON") from None
    strict_json.read(payload, f"the {kind}")
    signature = base64.b64encode(key.sign(_message(kind, payload))).decode()
    return Signed(payload, key.fingerprint, signature)


def read(text: str) -> Signed:
    """Read an envelope without judging its signature.

    Raises:
        FederationError: FK540, anything but the text that `Signed.text` writes.
    """
    values = strict_json.fields(strict_json.read(text, "the envelope", _MOST_BYTES), _FIELDS, "the envelope")
    signed = Signed(values["payload"], values["key"], values["signature"])
    if len(signed.payload.encode()) > strict_json.MOST_BYTES:
        raise strict_json.unreadable("the payload", f"is larger than {strict_json.MOST_BYTES:,} bytes")
    if not is_fingerprint(signed.key):
        raise strict_json.unreadable("the envelope", "names a key by no fingerprint")
    _signature(signed)
    # One envelope has one text, so that its digest names it.
    if signed.text != text:
        raise strict_json.unreadable("the envelope", "is not written as fedkit writes it")
    return signed


def unseal(signed: Signed, kind: Kind, public: bytes) -> dict[str, Any]:
    """The payload's fields, once the signature is found good.

    Args:
        public: the raw key that must have signed; it is looked up by ``signed.key``.

    Raises:
        FederationError: FK541, another key or a wrong signature; FK540, a payload that cannot be read; FK547.

    Guarantee: the holder of ``public`` signed exactly these bytes, for this kind and no other.
    """
    if fingerprint(public) != signed.key or not verifies(public, _signature(signed), _message(kind, signed.payload)):
        raise FederationError(
            f"the signature of the {kind} is not by the key {signed.key}",
            code="FK541",
            remedy="send the envelope as its signer made it",
        )
    values = strict_json.read(signed.payload, f"the {kind}")
    version = values.get("wire") if isinstance(values, dict) else None
    if version != WIRE or isinstance(version, bool):
        raise FederationError(
            f"the {kind} has another wire version than {WIRE}", code="FK547", remedy="update the older side"
        )
    return dict(values)


def check_times(what: str, issued_at: int, expires_at: int, now: float, *, longest: float, skew: float) -> None:
    """Refuse what is over, not yet valid or valid for too long.

    Args:
        now: seconds since the epoch, by the reader's own clock.
        longest: seconds that may lie between the two times.
        skew: seconds by which the writer's clock may be ahead.

    Raises:
        FederationError: FK543, with both clocks' difference.
    """
    if not issued_at < expires_at <= issued_at + longest:
        why, remedy = f"is valid for {expires_at - issued_at} s; 1 to {longest:.0f} are allowed", "sign a new one"
    elif issued_at > now + skew:
        why = f"was signed {issued_at - now:.0f} s from now; at most {skew:.0f} are allowed"
        remedy = "set both clocks (NTP)"
    elif now >= expires_at:
        why, remedy = f"expired {now - expires_at:.0f} s ago", "sign a new one; if it is new, set both clocks (NTP)"
    else:
        return
    raise FederationError(f"the {what} {why}", code="FK543", remedy=remedy)


def _message(kind: Kind, payload: str) -> bytes:
    return f"fedkit-{kind}-{WIRE}\n{payload}".encode()


def _signature(signed: Signed) -> bytes:
    try:
        found = base64.b64decode(signed.signature, validate=True)
    except (binascii.Error, ValueError):
        found = b""
    # base64 has several texts of the same bytes; one is admitted.
    if len(found) != SIGNATURE_BYTES or base64.b64encode(found).decode() != signed.signature:
        raise strict_json.unreadable("the envelope", "has a signature that is no 64 bytes in base64")
    return found
