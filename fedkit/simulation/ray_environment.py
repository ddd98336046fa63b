"""What a process is given while Ray runs in it, and what it gets back: variables, signals, a share of memory."""

from __future__ import annotations

import functools
import os
import secrets
import signal
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

_STORE_BYTES = 512 << 20
_MOST_CHARACTERS = 20


@functools.cache
def token() -> str:
    """What a cluster that this process starts asks whoever calls it for."""
    # Ray reads it once a process.
    return secrets.token_hex(32)


def short_folder() -> str | None:
    """Where temporary folders go, if a socket may lie deep enough in one there: its path has 107 characters."""
    return None if len(tempfile.gettempdir()) <= _MOST_CHARACTERS else "/tmp"  # noqa: S108 - the folder in it is ours


@contextmanager
def environment(values: Mapping[str, str], without: Sequence[str] = ()) -> Iterator[None]:
    """Variables that Ray reads, and those that it is not to see or sets itself; as they were afterwards."""
    names = (*values, *without)
    before = {name: os.environ.pop(name, None) for name in names}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


@contextmanager
def handlers_kept() -> Iterator[None]:
    """Ray takes SIGTERM for itself."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before if before is not None else signal.SIG_DFL)


def store_bytes() -> int:
    """Bytes of shared memory for objects: what there is, at most."""
    with suppress(OSError):
        status = os.statvfs("/dev/shm")  # noqa: S108
        return max(80 << 20, min(_STORE_BYTES, status.f_bavail * status.f_frsize // 2))
    return _STORE_BYTES
