"""An audit log: one signed JSON object a line, chained by hashes, only ever appended. Knows no federated learning.

A line is ``{"seq", "at", "kind", ...fields, "prev", "sig"}``: ``prev`` is the SHA-256 of the whole line before, its
signature included (64 zeros for the first); ``sig`` is Ed25519 over the line without it. So a later line vouches for
every byte of those before it, and the newest one is vouched for by its own signature. Whoever holds the key can write
another history, and anybody can cut off the end: only a head that is kept elsewhere shows either.

::

    FK770  a log that cannot be written; what it was to tell of must not happen
    FK771  a log that was altered, or whose end cannot be read: nothing is appended to it
"""

from __future__ import annotations

import fcntl
import hashlib
import itertools
import os
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from fedkit.errors import DeploymentError, FedkitError
from fedkit.storage.atomic import sync_folder
from fedkit.storage.audit_line import Event, Scalar, Unreadable, check_event, read_line, write_line
from fedkit.storage.chain import GENESIS, Head
from fedkit.storage.keys import SigningKey, fingerprint
from fedkit.storage.private import replace

MOST_AT_ONCE = 65_536
"""Bytes that one call may append, and hence the longest line and the most that a crash can tear."""

RECOVERED, ROTATED = "recovered", "rotated"
PATIENCE = 10.0
"""Seconds for which another process may keep the lock."""


@dataclass(frozen=True)
class Log:
    """A log and the key that signs it; many processes may append to one file.

    Guarantee: when :meth:`append` returns, its events are on disk, in one piece and in order, after all that were there
    before; where it raises, the caller must not do what they tell of.
    """

    path: Path
    key: SigningKey = field(repr=False)
    clock: Callable[[], float] = time.time

    def append(self, *events: Event) -> Head:
        """Write events durably, with one flush for all of them; returns the new head.

        A line that a crash has torn was never vouched for, since no append that wrote it had returned: its bytes are
        kept in a file of their own beside the log (``audit.torn-SEQ``), and a ``recovered`` event with their number and
        digest takes the line's place.

        Raises:
            DeploymentError: FK770, an event that cannot be told, a full disk, a lock that somebody keeps; FK771, the
                last line is not by this key, so somebody has altered the log: nothing is built on it.
        """
        for event in events:
            check_event(event)
        try:
            with self._locked(os.O_RDWR | os.O_APPEND | os.O_CREAT, fcntl.LOCK_EX) as handle:
                return self._append(handle, events)
        except OSError as error:
            raise self._failed(error.strerror or str(error)) from None

    def head(self) -> Head:
        """Where the log ends now; seq 0 where there is none yet, and whatever a crash has torn is not counted.

        Raises:
            DeploymentError: FK770, FK771.
        """
        try:
            with self._locked(os.O_RDONLY, fcntl.LOCK_SH) as handle:
                return self._end(handle)[0]
        except FileNotFoundError:
            return Head(0, GENESIS)
        except OSError as error:
            raise self._failed(error.strerror or str(error)) from None

    def _append(self, handle: int, events: Sequence[Event]) -> Head:
        head, torn = self._end(handle)
        size = os.fstat(handle).st_size
        if torn:
            self._keep_aside(head.seq + 1, torn)
            size -= len(torn)
            os.ftruncate(handle, size)
            told: dict[str, Scalar] = {"bytes": len(torn), "digest": hashlib.sha256(torn).hexdigest()}
            events = (Event(RECOVERED, told), *events)
        lines, at = [], round(self.clock(), 3)
        for event in events:
            line = write_line(head, at, event, self.key)
            head = Head(head.seq + 1, hashlib.sha256(line).hexdigest())
            lines.append(line + b"\n")
        data = b"".join(lines)
        if len(data) > MOST_AT_ONCE:
            raise self._failed(f"{len(data):,} bytes at once, at most {MOST_AT_ONCE:,} are taken")
        try:
            written = os.write(handle, data)
            if written < len(data):
                raise OSError(28, "No space left on device")
            os.fsync(handle)
            if not size:
                sync_folder(self.path.parent)
        except OSError:
            # So that nobody takes what was refused for something that happened.
            with suppress(OSError):
                os.ftruncate(handle, size)
                os.fsync(handle)
            raise
        return head

    def _end(self, handle: int) -> tuple[Head, bytes]:
        """The head, and what follows the last newline."""
        size = os.fstat(handle).st_size
        data = os.pread(handle, 2 * MOST_AT_ONCE + 2, max(0, size - 2 * MOST_AT_ONCE - 2))
        cut = data.rfind(b"\n")
        torn = data[cut + 1 :]
        start = data.rfind(b"\n", 0, max(cut, 0)) + 1
        if len(torn) > MOST_AT_ONCE or cut - start > MOST_AT_ONCE:
            raise self._broken("its end has no line of the length that a line can have")
        if cut < 0:
            return Head(0, GENESIS), torn
        try:
            last = read_line(data[start:cut])
        except Unreadable as error:
            raise self._broken(f"its last line {error}") from None
        handed_on = last.kind == ROTATED and last.fields.get("key") == fingerprint(self.key.public)
        if not handed_on and not last.signed_by(self.key.public):
            raise self._broken(f"line {last.seq} is not signed by the key {self.key.fingerprint}")
        return Head(last.seq, last.digest), torn

    def _keep_aside(self, seq: int, torn: bytes) -> None:
        # A crash may tear the line that tells of the first one: neither takes the other's place.
        names = (f"{self.path.stem}.torn-{seq}{f'-{number}' if number else ''}" for number in itertools.count())
        try:
            replace(next(place for name in names if not (place := self.path.with_name(name)).exists()), torn)
        except DeploymentError as error:
            raise self._failed(error.message) from None

    @contextmanager
    def _locked(self, flags: int, lock: int) -> Iterator[int]:
        end = time.monotonic() + PATIENCE
        while True:
            handle = os.open(self.path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                while not _taken(handle, lock):
                    if time.monotonic() > end:
                        raise self._failed(f"another process has kept its lock for {PATIENCE:g} s")
                    time.sleep(0.002)
                found = os.fstat(handle)
                if not stat.S_ISREG(found.st_mode) or stat.S_IMODE(found.st_mode) & 0o077:
                    raise self._failed(f"it is no plain file of mode 0600 but {stat.filemode(found.st_mode)}")
                # Whoever moved the log away meanwhile gets a new one, not lines in a file that nobody looks at.
                if _same(self.path, found):
                    yield handle
                    return
            finally:
                os.close(handle)

    def _failed(self, why: str) -> FedkitError:
        return DeploymentError(
            f"the audit log {self.path} cannot be written: {why}",
            code="FK770",
            remedy="free space on its disk, or make it writable; what it would tell of does not happen before",
        )

    def _broken(self, why: str) -> FedkitError:
        return DeploymentError(
            f"the audit log {self.path} is not what was written: {why}",
            code="FK771",
            remedy="see `log verify`; restore it from its backup, or keep it as evidence elsewhere and begin a new one",
        )


def _taken(handle: int, lock: int) -> bool:
    try:
        fcntl.flock(handle, lock | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _same(path: Path, found: os.stat_result) -> bool:
    try:
        now = path.stat()
    except FileNotFoundError:
        return False
    return (now.st_dev, now.st_ino) == (found.st_dev, found.st_ino)
