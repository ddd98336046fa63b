"""One process a folder: a lock that the system frees when its holder dies, however it dies."""

from __future__ import annotations

import fcntl
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedkit.errors import DeploymentError


@contextmanager
def hold(pid_file: Path) -> Iterator[None]:
    """Hold a folder's lock; the file names the holder. What a killed process left is taken over.

    Raises:
        DeploymentError: FK708, another process holds it; FK700, the file cannot be written.
    """
    try:
        handle = os.open(pid_file, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise DeploymentError(f"{pid_file} cannot be written: {error.strerror}", code="FK700") from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise DeploymentError(
                f"a coordinator is running in {pid_file.parent} (process {_pid(handle) or 'unknown'})",
                code="FK708",
                remedy=f"stop it first: `fedkit server halt {pid_file.parent}`",
            ) from None
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        os.fsync(handle)
        yield
        os.ftruncate(handle, 0)
    finally:
        # The file stays: removing it would let two processes lock two files of one name.
        os.close(handle)


def holder(pid_file: Path) -> int | None:
    """The process that holds the lock now; None if nobody does."""
    try:
        handle = os.open(pid_file, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return _pid(handle)
    finally:
        os.close(handle)
    return None


def halt(pid_file: Path, timeout: float) -> int | None:
    """Ask the holder to end and wait until it has; returns its process id, None if nobody held the lock.

    Raises:
        DeploymentError: FK709, it has not ended in time or belongs to another user.
    """
    pid = holder(pid_file)
    if pid is None:
        return None
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        return pid
    except PermissionError:
        raise DeploymentError(
            f"process {pid} belongs to another user", code="FK709", remedy="stop it as the user who started it"
        ) from None
    end = time.monotonic() + timeout
    while holder(pid_file) is not None:
        if time.monotonic() > end:
            raise DeploymentError(
                f"process {pid} has not ended within {timeout:g} s",
                code="FK709",
                remedy=f"see {pid_file.with_name('server.log')}; kill -9 {pid} loses nothing that is on disk",
            )
        time.sleep(0.05)
    return pid


def _pid(handle: int) -> int | None:
    text = os.pread(handle, 20, 0).decode("ascii", errors="replace").strip()
    return int(text) if text.isdecimal() else None
