"""What passes between a site and its ledger."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

FAILED = b"fedkit-failed-1\n"
"""Committed in place of a reply that could not be computed; no reply of arrays can begin so."""

FAILED_DIGEST = hashlib.sha256(FAILED).hexdigest()


@dataclass(frozen=True)
class Message:
    """What a site was asked to release.

    Attributes:
        round: 0, 1, 2, ...
        digest: of the message's bytes; a message that differs in anything is another message.
        purpose: what it asks for; a run has one message for each purpose and round.
    """

    dataset: str
    run: str
    round: int
    digest: str
    purpose: str = "train"


@dataclass(frozen=True)
class Ticket:
    """Leave to answer a message.

    Attributes:
        reply: the bytes to send again, where the message was answered before: nothing may be computed anew. None
            says: train, with fresh lots and fresh noise, then commit.
        fresh: whether this reservation was charged now; False for one that a crash left behind.
    """

    message: Message
    reply: bytes | None
    fresh: bool


@dataclass(frozen=True)
class Answer:
    """What may be sent.

    Attributes:
        reply: the committed bytes, which are the first ones if two processes raced.
        receipt: for the coordinator: the reservation's entry, from which a restored backup can be charged.
    """

    reply: bytes
    receipt: dict[str, Any]
