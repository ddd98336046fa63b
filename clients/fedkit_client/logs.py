"""``client.log``: all that a site does not tell others. One file, opened before the executor forks, appended by all."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

_LARGE = 20 * 2**20


def printable(text: str) -> str:
    r"""A text in which nothing ends a line or moves a cursor.

    >>> printable("a\nb\x1b[31m")
    'a\\nb\\x1b[31m'
    """
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode("ascii") for each in text)


class _OneLine(logging.Formatter):
    """What others sent may stand in a message, and must not look like a line of its own."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = printable(record.message)
        return super().formatMessage(record)


def configure(path: Path) -> None:
    """Send every log line of this process and those that it forks to a file with mode 0600.

    Raises:
        OSError: it cannot be written.
    """
    if path.exists() and path.stat().st_size > _LARGE:
        path.replace(path.with_name(path.name + ".1"))
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    root = logging.getLogger()
    for before in list(root.handlers):
        root.removeHandler(before)
    handler = logging.StreamHandler(os.fdopen(handle, "a", encoding="utf-8", errors="backslashreplace"))
    handler.setFormatter(_OneLine("%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s"))
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    # Their lines say what ours do, for every request.
    for name in ("httpx", "httpcore", "flwr"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.captureWarnings(True)


def redirect(path: Path) -> None:
    """Point standard output and error at the log: a library's words about a record must not reach a console."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    for number in (1, 2):
        os.dup2(handle, number)
    os.close(handle)
