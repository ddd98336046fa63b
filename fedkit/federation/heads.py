"""What each side tells the other of its audit log: signed heads, and what is made of those that do not fit.

A head (kind ``head``) is ``wire, party, seq, digest``: the log of ``party`` had ``seq`` lines, the last with that
SHA-256. It travels beside every message and reply, and the other side keeps the newest of each round in its own log as
``acknowledged``: with the signature, so that it can prove what the first had written by then.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from fedkit.errors import FederationError
from fedkit.federation import strict_json
from fedkit.federation.envelope import WIRE, Signed, read, seal, unseal
from fedkit.federation.keyring import COORDINATOR, Keyring, public_key
from fedkit.storage.audit_line import Event, Line, Scalar
from fedkit.storage.chain import Head
from fedkit.storage.keys import SigningKey, fingerprint

ACKNOWLEDGED, CONTRADICTED = "acknowledged", "contradicted"
KEPT = (ACKNOWLEDGED, CONTRADICTED)
MOST_SEQ = 2**53
_DIGEST = re.compile(r"[0-9a-f]{64}")
_FIELDS: Mapping[str, type] = {"wire": int, "party": str, "seq": int, "digest": str}


@dataclass(frozen=True)
class Told:
    """A head that somebody has signed, in the three parts that a log keeps of it.

    Attributes:
        party: whose log it is the head of: ``coordinator``, or a site's name.
    """

    party: str
    head: Head
    key: str
    signature: str

    @property
    def signed(self) -> Signed:
        """The envelope, as it was sent."""
        values = {"wire": WIRE, "party": self.party, "seq": self.head.seq, "digest": self.head.digest}
        return Signed(strict_json.write(values), self.key, self.signature)

    def is_by(self, keys: Sequence[bytes]) -> bool:
        """Whether one of these raw keys has signed it."""
        try:
            return any(unseal(self.signed, "head", key) for key in keys if fingerprint(key) == self.key)
        except FederationError:
            return False

    def fields(self) -> dict[str, Scalar]:
        """As an event has it."""
        return {
            "peer": self.party,
            "peer_seq": self.head.seq,
            "peer_digest": self.head.digest,
            "peer_key": self.key,
            "peer_sig": self.signature,
        }


def seal_head(party: str, head: Head, key: SigningKey) -> str:
    """A head, signed: what travels.

    >>> from fedkit.storage.keys import new_signing_key
    >>> key = new_signing_key()
    >>> open_head(seal_head("north", Head(3, "0" * 64), key), "north", [key.public]).head.seq
    3
    """
    return seal("head", {"party": party, "seq": head.seq, "digest": head.digest}, key).text


def open_head(text: str, party: str, keys: Sequence[bytes]) -> Told:
    """Read and verify a head.

    Args:
        keys: raw keys that the party has had, in any order.

    Raises:
        FederationError: FK540, unreadable; FK541, by none of the keys; FK542, another party's.
    """
    signed = read(text)
    key = next((key for key in keys if fingerprint(key) == signed.key), b"")
    if not key:
        raise FederationError(f"the head is signed by {signed.key}, which is no key of {party}", code="FK541")
    values = strict_json.fields(unseal(signed, "head", key), _FIELDS, "the head")
    if values["party"] != party:
        raise FederationError("the head is another party's", code="FK542")
    told = Told(party, Head(values["seq"], values["digest"]), signed.key, signed.signature)
    canonical = told.signed.payload == signed.payload
    if not (canonical and 0 <= told.head.seq < MOST_SEQ and _DIGEST.fullmatch(told.head.digest)):
        raise strict_json.unreadable("the head", "is not written as fedkit writes it")
    return told


def told_by(line: Line) -> Told | None:
    """The head that a line of a log keeps; None where it keeps none."""
    values = [line.fields.get(name) for name in ("peer", "peer_seq", "peer_digest", "peer_key", "peer_sig")]
    peer, seq, digest, key, signature = values
    if not isinstance(seq, int) or not all(isinstance(each, str) for each in (peer, digest, key, signature)):
        return None
    return Told(str(peer), Head(seq, str(digest)), str(key), str(signature))


def coordinator_keys(keyring: Keyring) -> tuple[bytes, ...]:
    """Every key that the coordinator has had, the oldest first; they sign its log one after the other."""
    payloads = [strict_json.read(read(text).payload, "the statement") for text in keyring.statements]
    return tuple(public_key(each["key"]) for each in payloads if each["action"] == COORDINATOR)


@dataclass
class Heard:
    """What the others have told of their logs so far, in one process.

    A head that goes back, or differs at the same place, says that the other side's log was cut, altered or put back
    from a backup. It is an alert and no more: a run is protected by ledger and noise, not by the other side's log, and
    whoever could stop runs by spoiling a log would have a way to deny them.

    Attributes:
        newest: party to the newest head that it told.
        moments: party to when its head was last acknowledged: a run's round.
    """

    newest: dict[str, Head] = field(default_factory=dict)
    moments: dict[str, object] = field(default_factory=dict)

    @classmethod
    def of(cls, lines: Iterable[Line]) -> Heard:
        """What a log has kept."""
        heard = cls()
        for line in lines:
            told = told_by(line) if line.kind in KEPT else None
            if told is not None:
                heard.newest[told.party] = told.head
        return heard

    def hear(self, party: str, text: str, keys: Sequence[bytes], moment: object) -> list[Event]:
        """What the log is to keep of a head that came: at most one event, and one that fits once a moment.

        Args:
            text: the head; empty where none came, of which nothing is made.
            moment: the run's round that the head came with; None is always another.
        """
        if not text:
            return []
        again = moment is not None and self.moments.get(party) == moment
        try:
            told = open_head(text, party, keys)
        except FederationError as error:
            self.moments[party] = moment
            return [] if again else [Event(CONTRADICTED, {"peer": party, "why": "unreadable", "code": error.code})]
        known = self.newest.get(party)
        # What comes after is held against what it says now: one alert for one cut.
        self.newest[party] = told.head
        if known is not None and (told.head.seq < known.seq or (told.head.seq == known.seq and told.head != known)):
            why = "backwards" if told.head.seq < known.seq else "forked"
            before: dict[str, Scalar] = {"known_seq": known.seq, "known_digest": known.digest}
            return [Event(CONTRADICTED, {**told.fields(), "why": why, **before})]
        if again or told.head == known:
            return []
        self.moments[party] = moment
        return [Event(ACKNOWLEDGED, told.fields())]
