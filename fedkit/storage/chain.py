"""Hash chains: an append-only list in which each entry vouches for all before it. Knows no federated learning.

A chain shows that it was altered, reordered or cut by someone who did not recompute every digest. Whoever can
rewrite the whole chain can recompute them: only a head kept elsewhere catches that, and a restored backup.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

GENESIS = "0" * 64
_DOMAIN = b"fedkit-chain-1\n"


@dataclass(frozen=True)
class Entry:
    """One link.

    Attributes:
        seq: 1, 2, 3, ...
        prev: digest of the entry before, ``GENESIS`` for the first.
        body: what is recorded, any text.
        digest: SHA-256 over the three above, hex.
    """

    seq: int
    prev: str
    body: str
    digest: str


@dataclass(frozen=True)
class Head:
    """A position in a chain that can be kept elsewhere; seq 0 is the empty chain."""

    seq: int
    digest: str


class ChainBroken(Exception):
    """A chain that is not what was written.

    Args:
        kind: ``altered`` (a body, digest or link was changed), ``reordered`` (all there, in another order) or
            ``missing`` (entries were removed).
        seq: the first entry concerned.
    """

    def __init__(self, kind: Literal["altered", "reordered", "missing"], seq: int) -> None:
        self.kind, self.seq = kind, seq
        super().__init__(f"entry {seq} is {kind}")


def link(before: Entry | None, body: str) -> Entry:
    """The entry that records ``body`` after ``before``.

    >>> first = link(None, "a")
    >>> verify([first, link(first, "b")]).seq
    2
    """
    seq, prev = (1, GENESIS) if before is None else (before.seq + 1, before.digest)
    return Entry(seq, prev, body, _digest(seq, prev, body))


def genuine(entry: Entry) -> bool:
    """Whether the entry's digest is that of its own content."""
    return entry.digest == _digest(entry.seq, entry.prev, entry.body)


def verify(entries: Iterable[Entry], *, after: Entry | None = None, head: Head | None = None) -> Head:
    """Check entries, in the order in which they are stored, and where they must end.

    Args:
        after: the last entry that was verified before; None if ``entries`` start the chain.
        head: where the chain must end, if that was recorded elsewhere.

    Returns:
        Where the chain ends.

    Raises:
        ChainBroken: altered, reordered or missing entries.
    """
    found = list(entries)
    for entry in found:
        if not genuine(entry):
            raise ChainBroken("altered", entry.seq)
    _check_order([entry.seq for entry in found], first=1 if after is None else after.seq + 1)
    last = after
    for entry in found:
        if entry.prev != (GENESIS if last is None else last.digest):
            raise ChainBroken("altered", entry.seq - 1 if last is not None else entry.seq)
        last = entry
    end = Head(0, GENESIS) if last is None else Head(last.seq, last.digest)
    if head is not None and end != head:
        raise ChainBroken("missing", end.seq + 1) if head.seq > end.seq else ChainBroken("altered", end.seq)
    return end


def common_length(ours: Sequence[Entry], theirs: Sequence[Entry]) -> int:
    """How many first entries two chains share."""
    shared = 0
    for mine, other in zip(ours, theirs, strict=False):
        if mine.digest != other.digest:
            break
        shared += 1
    return shared


def _check_order(seqs: Sequence[int], first: int) -> None:
    expected = range(first, first + len(seqs))
    if list(seqs) == list(expected):
        return
    at = next(want for want, seq in zip(expected, seqs, strict=True) if want != seq)
    raise ChainBroken("reordered" if sorted(seqs) == list(expected) else "missing", at)


def _digest(seq: int, prev: str, body: str) -> str:
    return hashlib.sha256(_DOMAIN + f"{seq}\n{prev}\n".encode() + body.encode()).hexdigest()
