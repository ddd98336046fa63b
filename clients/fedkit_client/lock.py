"""One process a folder: a lock that the system frees when its holder dies, however it dies.

::

    FK753  the site is running already, from a copy of its folder too, or the lock cannot be taken
    FK754  a process that does not end
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from fedkit.errors import DeploymentError

if TYPE_CHECKING:
    from fedkit.storage.keys import SigningKey


@contextmanager
def hold(pid_file: Path) -> Iterator[None]:
    """Hold a folder's lock; the file names the holder. What a killed process left is taken over.

    Raises:
        DeploymentError: FK753.
    """
    try:
        handle = os.open(pid_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise DeploymentError(
            f"{pid_file} cannot be written: {error.strerror}", code="FK753", remedy="run as the folder's owner"
        ) from None
    try:
        if not _taken(handle):
            pid = _pid(handle)
            raise DeploymentError(
                f"the site of {pid_file.parent} is running already{f' (process {pid})' if pid else ''}",
                code="FK753",
                remedy="stop it first: `fedkit client stop SITE.yaml`",
            ) from None
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        yield
        os.ftruncate(handle, 0)
    finally:
        # The file stays: removing it would let two processes lock two files of one name.
        os.close(handle)


@contextmanager
def alone(key: SigningKey) -> Iterator[None]:
    """Hold a site's identity on this machine: of two folders with one key only one runs, whatever their paths.

    A copy of a folder has a ledger of its own, which knows nothing of what the other one spends. The name is one of the
    kernel's (an abstract socket of the network namespace), so nothing has to be writable, and it is free as soon as
    its holder is dead. Forks inherit it: it is to be taken when the long-lived ones are made.

    Args:
        key: the site's; the name follows from its signature, so that nobody else can take it beforehand.

    Raises:
        DeploymentError: FK753.
    """
    name = b"\0fedkit-site-" + hashlib.sha256(key.sign(b"fedkit-alone-1\n")).hexdigest()[:32].encode()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as held:
        if sys.platform == "linux":
            try:
                held.bind(name)
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                raise DeploymentError(
                    "a copy of this site's folder runs on this machine: two ledgers of one site would spend its budget"
                    " twice",
                    code="FK753",
                    remedy="stop that one, and keep only the folder whose ledgers were charged last",
                ) from None
        yield


def holder(pid_file: Path) -> int | None:
    """The process that holds the lock now; None if nobody does.

    Not to be called by the holder, which would lose its lock.
    """
    try:
        handle = os.open(pid_file, os.O_RDWR)
    except OSError:
        return None
    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return _pid(handle)
    finally:
        os.close(handle)
    return None


def stop(pid_file: Path, timeout: float) -> int | None:
    """Ask the holder to end and wait until it has; returns its process id, None if nobody held the lock.

    Raises:
        DeploymentError: FK754, it has not ended in time or belongs to another user.
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
            f"process {pid} belongs to another user", code="FK754", remedy="stop it as the user who started it"
        ) from None
    end = time.monotonic() + timeout
    while holder(pid_file) is not None:
        if time.monotonic() > end:
            raise DeploymentError(
                f"process {pid} has not ended within {timeout:g} s",
                code="FK754",
                remedy=f"see {pid_file.with_name('client.log')}; kill -9 {pid} loses nothing that is on disk",
            )
        time.sleep(0.05)
    return pid


def _taken(handle: int) -> bool:
    for _ in range(10):
        try:
            # A record lock: unlike flock's it does not pass to the executor's processes, which may outlive this one.
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            # `holder` takes it for a moment too.
            time.sleep(0.05)
        else:
            return True
    return False


def _pid(handle: int) -> int | None:
    text = os.pread(handle, 20, 0).decode("ascii", errors="replace").strip()
    return int(text) if text.isdecimal() else None
