"""An audit log that is read on as it grows: each line once, and whatever is not what was written is found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fedkit.storage.audit import MOST_AT_ONCE
from fedkit.storage.audit_line import Line, Unreadable, read_line
from fedkit.storage.audit_verify import BrokenLog, settled_size, verify
from fedkit.storage.chain import GENESIS, Head

_START = Head(0, GENESIS)
FULL_EVERY = 3600.0
"""Seconds after which the whole log is verified again: a byte that was altered far back moves no end."""


@dataclass
class Following:
    """One reader of one log.

    Attributes:
        known: where the log ended when it was last seen, by this reader or one before it; a log that has no such line
            was cut or put back from a backup.

    Guarantee: if nobody else had the key, what was returned so far is what was appended, and nothing of it that `known`
        tells of is missing; alterations behind the end are found within `FULL_EVERY`.
    """

    path: Path
    keys: Sequence[bytes]
    known: Head = _START
    _offset: int = 0
    _head: Head = _START
    _looked: tuple[int, int, int] = (0, 0, 0)
    _verified: float = field(default=float("-inf"))

    def advance(self, now: float) -> list[Line]:
        """The lines that came since; none where nothing has.

        Args:
            now: seconds since the epoch; decides when the whole log is looked at again.

        Raises:
            BrokenLog: it is not what was written; it is looked at again at the next call.
            OSError: it cannot be read.
        """
        if not self.path.exists():
            if self.known.seq:
                raise BrokenLog(1, "is missing: there is no log any more")
            return []
        found = self.path.stat()
        looked = (found.st_ino, found.st_size, found.st_mtime_ns)
        due = not 0 <= now - self._verified < FULL_EVERY
        if looked == self._looked and not due:
            return []
        same = found.st_ino == self._looked[0] and found.st_size > self._offset
        if due or not same:
            self._all()
            self._verified = now
        lines = self._more()
        self._looked = looked
        return lines

    def _all(self) -> None:
        wanted = [head for head in (self.known, self._head) if head.seq]
        verify(self.path, self.keys, heads=wanted)

    def _more(self) -> list[Line]:
        head, offset, lines = self._head, self._offset, list[Line]()
        with self.path.open("rb") as file:
            end = settled_size(file.fileno())
            file.seek(offset)
            while offset < end and (raw := file.readline(MOST_AT_ONCE + 2)):
                number = head.seq + 1
                if not raw.endswith(b"\n"):
                    raise BrokenLog(number, f"is torn: {len(raw):,} bytes without an end")
                try:
                    line = read_line(raw[:-1])
                except Unreadable as error:
                    raise BrokenLog(number, str(error)) from None
                if line.prev != head.digest or line.seq != number:
                    raise BrokenLog(number, "does not follow the line before it")
                head, offset = Head(line.seq, line.digest), offset + len(raw)
                lines.append(line)
        if lines and not any(lines[-1].signed_by(key) for key in self.keys):
            raise BrokenLog(lines[-1].seq, "is not signed by this party, or was altered")
        self._head, self._offset = head, offset
        if head.seq >= self.known.seq:
            self.known = head
        return lines
