"""The folder of a Ray that is started here: nobody else's, and gone with it.

A process that is killed (``kill -9``) takes its Ray with it within seconds, and leaves the folder: the next one that
starts a Ray removes it. Whose process lives is told by a lock, which no other process inherits.
"""

from __future__ import annotations

import fcntl
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PREFIX = "fedkit-ray-"
_OWNER = "owner"
_MOST_CHARACTERS = 20
_YOUNG_SECONDS = 60.0
"""A folder without a lock may be one that is just being made."""
_REMOVE_SECONDS = 5.0


def above() -> Path:
    """Where it lies: among temporary folders, if a socket may lie deep enough there: its path has 107 characters."""
    usual = tempfile.gettempdir()
    return Path(usual if len(usual) <= _MOST_CHARACTERS else "/tmp")  # noqa: S108 - the folder in it is ours


@contextmanager
def folder() -> Iterator[Path]:
    """A folder for as long as the block lasts; those that killed processes left are removed first."""
    for left in above().glob(f"{PREFIX}*"):
        if _left_behind(left):
            _remove(left)
    # Ray opens its own folder to everybody; this one above it is not.
    made = Path(tempfile.mkdtemp(prefix=PREFIX, dir=above()))
    try:
        with (made / _OWNER).open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield made
    finally:
        _remove(made)


def _left_behind(path: Path) -> bool:
    """Another user's is not looked into."""
    try:
        with (path / _OWNER).open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except FileNotFoundError:
        with suppress(OSError):
            return time.time() - path.stat().st_mtime > _YOUNG_SECONDS
        return False
    except OSError:
        return False


def _remove(path: Path) -> None:
    # A process of the Ray that is just ending may yet write there.
    deadline = time.monotonic() + _REMOVE_SECONDS
    while path.exists():
        shutil.rmtree(path, ignore_errors=True)
        if time.monotonic() > deadline:
            return
        time.sleep(0.02)
