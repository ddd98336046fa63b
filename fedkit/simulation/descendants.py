"""The processes that came of one that was started here, whatever they call themselves, and their end."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

_LEAVE_SECONDS = 5.0


def parents() -> dict[int, int]:
    """Process to its parent, of all that live; empty where the system does not tell."""
    found: dict[int, int] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, ValueError):
            fields = entry.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            if fields[0] != "Z":
                found[int(entry.parent.name)] = int(fields[1])
    return found


def children() -> set[int]:
    """Those of this process."""
    return {process for process, parent in parents().items() if parent == os.getpid()}


def descendants(roots: set[int]) -> set[int]:
    """Some processes, and all that came of them."""
    found, known = set(roots), parents()
    while more := {process for process, parent in known.items() if parent in found} - found:
        found |= more
    return found


def end(processes: set[int]) -> None:
    """Wait for processes that were asked to leave, and kill those that stay."""
    deadline = time.monotonic() + _LEAVE_SECONDS
    while left := processes & parents().keys():
        if time.monotonic() > deadline:
            for process in left:
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(process, signal.SIGKILL)
            return
        time.sleep(0.02)
