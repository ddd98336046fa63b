"""``client.log``: all that a site does not tell others. One file, opened before the executor forks, appended by all.

What a coordinator sends makes it grow: beyond 20 MiB its text moves to ``client.log.1``, and these two are all.
"""

from __future__ import annotations

import fcntl
import io
import logging
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from fedkit.errors import DeploymentError
from fedkit.storage.sealed_lines import MARK, from_text, to_text
from fedkit.storage.sealing import Vault
from fedkit.storage.stamped_lines import STAMP

_LARGE = 20 * 2**20


def printable(text: str) -> str:
    r"""A text in which nothing ends a line or moves a cursor.

    >>> printable("a\nb\x1b[31m")
    'a\\nb\\x1b[31m'
    """
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode("ascii") for each in text)


KIND = "log"
SITE = "fedkit.site"
"""The logger of what may speak of the table."""

_FORM = "%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s"


class _OneLine(logging.Formatter):
    """What others sent may stand in a message, and must not look like a line of its own.

    Args:
        vault: seals what is said where records are at hand: by any process but this one, and by the logger `SITE`.
    """

    def __init__(self, vault: Vault | None) -> None:
        super().__init__(_FORM)
        self._vault, self._open = vault, os.getpid()

    def format(self, record: logging.LogRecord) -> str:
        if self._vault is None or (os.getpid() == self._open and record.name != SITE):
            return super().format(record)
        text = super().format(record)
        begin = f"{self.formatTime(record)} {record.process} {record.levelname} {record.name}: "
        return begin + to_text(self._vault, text.encode(errors="backslashreplace"), KIND).decode()

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = printable(record.message)
        return super().formatMessage(record)


class _Bounded(logging.StreamHandler[TextIO]):
    """Appends to a file that has a bound; several processes may, of which none has to open it anew."""

    def __init__(self, path: Path) -> None:
        handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        super().__init__(os.fdopen(handle, "a", encoding="utf-8", errors="backslashreplace"))
        self._path = path

    def close(self) -> None:
        """Close the file too, which is this handler's own."""
        super().close()
        self.stream.close()

    def emit(self, record: logging.LogRecord) -> None:
        """Append one line; whoever finds the file too large moves what it holds."""
        super().emit(record)
        # A full disk must not end what logs.
        with suppress(OSError, ValueError):
            if os.fstat(self.stream.fileno()).st_size > _LARGE:
                turn(self._path)


def turn(path: Path) -> None:
    """Move a log's text to a file beside it, in the place of what was there.

    The file stays the same one: children hold it open, as the error output of libraries too. A line that another
    process writes in the moment between is lost.

    Raises:
        OSError: the disk.
    """
    before = path.with_name(path.name + ".1")
    with path.open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file.fileno()).st_size <= _LARGE:
            return
        # First, so that a disk that is nearly full has room.
        before.unlink(missing_ok=True)
        try:
            with open(os.open(before, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as other:
                shutil.copyfileobj(file, other)
        except OSError:
            # No room for two of them.
            before.unlink(missing_ok=True)
        file.truncate(0)


def opened_lines(path: Path, vault: Vault | None) -> Iterator[str]:
    """The log's lines, oldest first, with what is sealed in them; what does not open stays as it is.

    Raises:
        OSError: it cannot be read.
    """
    for each in (path.with_name(path.name + ".1"), path):
        if each != path and not each.exists():
            continue
        with each.open(encoding="utf-8", errors="replace") as file:
            for line in file:
                begin, mark, rest = line.rstrip("\n").partition(MARK.decode())
                text = begin + mark + rest
                if mark and vault is not None:
                    with suppress(DeploymentError):
                        text = from_text(vault, (mark + rest).encode(), KIND).decode()
                yield text


def configure(path: Path, vault: Vault | None = None) -> None:
    """Send every log line of this process and those that it forks to a file with mode 0600.

    Args:
        vault: seals what may speak of records.

    Raises:
        OSError: it cannot be written.
    """
    handler = _Bounded(path)
    root = logging.getLogger()
    for before in list(root.handlers):
        root.removeHandler(before)
    handler.setFormatter(_OneLine(vault))
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    # Their lines say what ours do, for every request.
    for name in ("httpx", "httpcore", "flwr"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.captureWarnings(True)


def resealed(content: bytes, vault: Vault) -> bytes:
    """A log's lines under the newest key: plain ones too, for nobody can tell which of them speak of records."""
    found = []
    for line in content.splitlines():
        text = line
        if (at := line.find(MARK)) >= 0:
            with suppress(DeploymentError):
                text = from_text(vault, line[at:], KIND)
        stamp = line[:23].decode("ascii", "replace") if STAMP.match(line) else ""
        found.append(f"{stamp} ".lstrip().encode() + to_text(vault, text, KIND) + b"\n")
    return b"".join(found)


class _Said(io.TextIOBase):
    """Standard output, whose lines become lines of the log."""

    def __init__(self) -> None:
        self._rest = ""

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in filter(str.strip, lines):
            logging.getLogger(SITE).info("%s", line)
        return len(text)


def redirect(path: Path, vault: Vault | None = None) -> None:
    """Point standard output and error at the log: a library's words about a record must not reach a console.

    Args:
        vault: what Python writes is sealed as log lines are; what other code writes is then lost.
    """
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    if vault is not None:
        sys.stdout = sys.stderr = _Said()
        path = Path(os.devnull)
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    for number in (1, 2):
        os.dup2(handle, number)
    os.close(handle)
