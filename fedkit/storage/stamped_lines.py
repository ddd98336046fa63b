"""Logs whose lines begin with a time, as `logging` writes it: what was written before a moment is taken out."""

from __future__ import annotations

import fcntl
import os
import re
import time
from pathlib import Path

STAMP = re.compile(rb"[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9:,]{12} ")


def cut(path: Path, before: float, remove: bool) -> bytes:
    """The lines that were written before a moment, with what belongs to them; taken out of the file if asked for.

    The file stays the same one: whoever holds it open goes on in it. A line that another process writes in the moment
    between the last look and the cut is lost.

    Raises:
        OSError: the disk, there is no file, or it is a link.
    """
    handle = os.open(path, (os.O_RDWR if remove else os.O_RDONLY) | os.O_NOFOLLOW | os.O_CLOEXEC)
    with os.fdopen(handle, "r+b" if remove else "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX if remove else fcntl.LOCK_SH)
        content, at, old = file.read(), 0, True
        for line in content.splitlines(keepends=True):
            if STAMP.match(line):
                old = time.mktime(time.strptime(line[:19].decode(), "%Y-%m-%d %H:%M:%S")) < before
            if not old:
                break
            at += len(line)
        if remove and at:
            content += file.read()
            file.seek(0)
            # Over what was there, which the file system may keep otherwise.
            file.write(content[at:] + bytes(at))
            file.flush()
            os.fsync(file.fileno())
            file.truncate(len(content) - at)
    return content[:at]
