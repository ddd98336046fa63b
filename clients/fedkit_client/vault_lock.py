"""Who uses the keys of a site's folder, and who changes them: never both at a time.

::

    FK793  a vault that another process uses or changes
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedkit.errors import DeploymentError

PATIENCE = 10.0


@contextmanager
def unchanged(folder: Path) -> Iterator[None]:
    """Have nobody change a folder's vault meanwhile; needs no key.

    Raises:
        DeploymentError: FK793.
    """
    lock = VaultLock(folder)
    lock.share()
    try:
        yield
    finally:
        lock.let_go()


class VaultLock:
    """A file's lock, for as long as this lives."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            self._handle = os.open(folder / "vault.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise DeploymentError(
                f"{folder} cannot be written ({error.strerror})", code="FK793", remedy="run as the folder's owner"
            ) from None

    def __del__(self) -> None:
        if hasattr(self, "_handle"):
            os.close(self._handle)

    def let_go(self) -> None:
        """Neither use nor change them any more."""
        fcntl.flock(self._handle, fcntl.LOCK_UN)

    def share(self) -> None:
        """Use them; FK793 where somebody changes them for long."""
        self._take(fcntl.LOCK_SH)

    def alone(self) -> None:
        """Change them; FK793 where somebody uses them for long."""
        self._take(fcntl.LOCK_EX)

    def _take(self, kind: int) -> None:
        until = time.monotonic() + PATIENCE
        while True:
            try:
                fcntl.flock(self._handle, kind | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() > until:
                    raise DeploymentError(
                        f"another process uses the keys of {self._folder}",
                        code="FK793",
                        remedy="stop the site and its console, wait for other commands, then try again",
                    ) from None
                time.sleep(0.05)
