"""Whether an audit log is what was written, and where it is not.

The chain is followed over the raw bytes of every line: since ``prev`` covers the whole line before, its signature
included, a line is vouched for by all that follow it, and the last one by its own signature. So the chain and one
signature find every flipped bit, every line that was removed, moved or put in, by anybody who has not the key. (`Log`
appends to a last line only after it has looked at its signature: nobody can have a forged end signed over.) All other
signatures are looked at with ``every``, ten times as slow, or to tell which of two lines is the false one.

A log that was cut is a good shorter log. Heads that the other side keeps are what finds that.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import re
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fedkit.storage.audit import MOST_AT_ONCE, PATIENCE, RECOVERED, ROTATED
from fedkit.storage.audit_line import Line, Unreadable, read_line
from fedkit.storage.chain import GENESIS, Head
from fedkit.storage.keys import fingerprint

_START = Head(0, GENESIS)


class BrokenLog(Exception):
    """A log that is not what was written.

    Args:
        line: the first line concerned, counted from 1 in the file.
        why: what is wrong with it.
    """

    def __init__(self, line: int, why: str) -> None:
        self.line, self.why = line, why
        super().__init__(f"line {line} {why}")


@dataclass(frozen=True)
class Verified:
    """A log that is what was written.

    Attributes:
        kinds: kind to its number of lines.
        kept: the lines of the kinds that were asked for, in order.
    """

    head: Head
    kinds: Mapping[str, int] = field(default_factory=dict)
    kept: tuple[Line, ...] = ()

    @property
    def recovered(self) -> int:
        """How often a torn last line was found: a crash, or a cut within the last line."""
        return self.kinds.get(RECOVERED, 0)


def verify(
    path: Path,
    keys: Sequence[bytes],
    *,
    heads: Collection[Head] = (),
    keep: Collection[str] = (),
    every: bool = False,
) -> Verified:
    """Read a whole log.

    Args:
        keys: raw public keys of the log's party, the oldest first; the newest one must be the one in force at the end.
        heads: where the log once ended, as others keep it.
        every: look at every signature.

    Raises:
        BrokenLog: altered, reordered, removed, torn or foreign lines, or a head that the log does not have.
        OSError: it cannot be read.

    Guarantee: if nobody else had the newest key, every byte up to the returned head is what was appended; and if the
    heads are all that others were told, nothing that was told to them is missing.
    """
    walk = _Walk(keys, every)
    wanted: dict[int, set[str]] = {}
    for head in heads:
        wanted.setdefault(head.seq, set()).add(head.digest)
    kinds, kept = Counter[str](), list[Line]()
    for number, raw in enumerate(raw_lines(path), start=1):
        line = walk.step(number, raw)
        kinds[line.kind] += 1
        if line.kind in keep:
            kept.append(line)
        if wanted.pop(line.seq, {line.digest}) != {line.digest}:
            raise BrokenLog(number, "is another line than the one whose digest the other side holds")
    walk.finish()
    if missing := sorted(seq for seq in wanted if seq > 0):
        raise BrokenLog(
            walk.head.seq + 1,
            f"is missing: the other side holds the signed head of line {missing[-1]}, and the log ends with line"
            f" {walk.head.seq}",
        )
    return Verified(walk.head, dict(kinds), tuple(kept))


@dataclass
class _Walk:
    """One pass over a log.

    Attributes:
        force: index of the key that signs now; -1 before the first line.
        signer: index of the key that must have signed the last line.
    """

    keys: Sequence[bytes]
    every: bool
    head: Head = _START
    last: Line | None = None
    force: int = -1
    signer: int = -1

    def step(self, number: int, raw: bytes) -> Line:
        if not raw.endswith(b"\n"):
            why = f"is torn: {len(raw):,} bytes without an end, which no append had vouched for or which somebody cut"
            raise BrokenLog(number, why if len(raw) <= MOST_AT_ONCE else "is longer than a line can be")
        try:
            line = read_line(raw[:-1])
        except Unreadable as error:
            raise BrokenLog(number, str(error)) from None
        if line.prev != self.head.digest or line.seq != self.head.seq + 1:
            raise self._blame(number, line)
        if self.last is None:
            self.force = self._first(number, line)
        self.signer = self.force
        if (self.every or line.kind == ROTATED) and not line.signed_by(self.keys[self.signer]):
            raise _altered(number)
        if line.kind == ROTATED:
            self.force = self._next(number, line)
        self.head, self.last = Head(line.seq, line.digest), line
        return line

    def finish(self) -> None:
        if self.last is None:
            return
        if not self.last.signed_by(self.keys[self.signer]):
            raise _altered(self.last.seq)
        if self.force != len(self.keys) - 1:
            raise BrokenLog(
                self.last.seq + 1,
                f"is missing: the key was replaced by {fingerprint(self.keys[-1])}, and the log does not tell of it",
            )

    def _first(self, number: int, line: Line) -> int:
        for index, key in enumerate(self.keys):
            if line.signed_by(key):
                return index
        raise BrokenLog(number, "is not signed by this party, or was altered")

    def _next(self, number: int, line: Line) -> int:
        for index in range(self.force + 1, len(self.keys)):
            if fingerprint(self.keys[index]) == line.fields.get("key"):
                return index
        raise BrokenLog(number, "hands the log on to a key that is not known")

    def _blame(self, number: int, line: Line) -> BrokenLog:
        """Which of two lines that do not fit is false, by their signatures."""
        if self.last is not None and not self.last.signed_by(self.keys[self.signer]):
            return _altered(self.last.seq)
        keys = self.keys if self.force < 0 else self.keys[self.force :]
        if not any(line.signed_by(key) for key in keys):
            return _altered(number)
        expected = self.head.seq + 1
        if line.seq > expected:
            return BrokenLog(number, f"is number {line.seq} where {expected} is due: lines are missing or out of order")
        if line.seq < expected:
            return BrokenLog(number, f"is number {line.seq} where {expected} is due: a line was repeated or moved")
        return BrokenLog(number, f"follows another line {self.head.seq} than the one before it")


def alerts(path: Path, kinds: Sequence[str]) -> dict[str, int]:
    """How many lines of these kinds a log has, in a glance that verifies nothing; zeros where there is no log."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            # A quote within a value is escaped, so this is nothing but a line's own kind.
            return {kind: sum(1 for _ in re.finditer(rb'"kind":"%s"' % kind.encode(), data)) for kind in kinds}
    except (OSError, ValueError):
        return dict.fromkeys(kinds, 0)


def readable_lines(path: Path, kinds: Collection[str] = ()) -> Iterator[Line]:
    """The lines of these kinds, or all, that can be read; nothing is verified.

    Raises:
        OSError: the file cannot be read.
    """
    needles = [f'"kind":"{kind}"'.encode() for kind in kinds]
    for raw in raw_lines(path):
        if needles and not any(needle in raw for needle in needles):
            continue
        try:
            yield read_line(raw.rstrip(b"\n"))
        except Unreadable:
            continue


def raw_lines(path: Path) -> Iterator[bytes]:
    """The bytes of each line with its newline, of one longer than any in parts; as long as the log is now.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        left = settled_size(file.fileno())
        while left > 0 and (raw := file.readline(min(left, MOST_AT_ONCE + 2))):
            left -= len(raw)
            yield raw


def settled_size(handle: int) -> int:
    """The file's size while nobody is in the middle of an append; that of a file whose lock is kept, as it is."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.002)
        else:
            size = os.fstat(handle).st_size
            fcntl.flock(handle, fcntl.LOCK_UN)
            return size
    return os.fstat(handle).st_size


def _altered(number: int) -> BrokenLog:
    return BrokenLog(number, "was altered: its signature is not by this party's key over these bytes")
