"""Where a ledger lies: one regular file under one name, and the same file for as long as it is open.

SQLite undoes what a killed process left half-written from a journal that is named after the file. Under a second name
(a hard link, a file that is mounted by itself) it finds none; and where the name leads to another file than the one
that is open, the next process finds a budget that nobody has charged.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import time
from pathlib import Path

from fedkit.errors import PrivacyError

_MOUNTS = Path("/proc/self/mountinfo")
_LONGEST = 240
_PATIENCE = 2.0


class Place:
    """The file that a name led to when it was opened.

    Args:
        path: as it was given; links are followed, once.

    Raises:
        PrivacyError: FK330, there is no regular file; FK336, the name cannot be used; FK355, the file has two names.

    Guarantee: where :meth:`check` returns, the name still leads to the file that it led to at first, and that file has
    no other name on this disk.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        require_name(path)
        self._named = path.absolute()
        found = self._status()
        if not stat.S_ISREG(found.st_mode):
            raise PrivacyError(
                f"{path} is {_kind(found.st_mode)} and no regular file",
                code="FK330",
                remedy="give the path of the ledger's file",
            )
        patient = time.monotonic() + _PATIENCE
        while found.st_nlink > 1 and time.monotonic() < patient:
            # A ledger that is being made has two names for a moment.
            time.sleep(0.01)
            found = self._status()
        self.real = Path(os.path.realpath(self._named))
        self._inode = found.st_dev, found.st_ino
        if str(self.real) in _mount_points():
            raise PrivacyError(
                f"the ledger {path} is mounted by itself, so that it has another name elsewhere",
                code="FK355",
                remedy="mount the folder that it lies in, never the file",
            )
        self._one_name(found)

    def check(self) -> None:
        """Refuse to go on where the name leads to another file by now, or to none, or the file has two names.

        Raises:
            PrivacyError: FK335, FK355.
        """
        try:
            found = os.stat(self._named)
        except OSError as error:
            raise self._moved(f"is no longer there ({error.strerror})") from error
        if (found.st_dev, found.st_ino) != self._inode:
            raise self._moved("leads to another file now")
        self._one_name(found)

    def _status(self) -> os.stat_result:
        try:
            return os.stat(self._named)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR):
                raise PrivacyError(
                    f"there is no ledger at {self.path}", code="FK330", remedy="create it, or correct the path"
                ) from error
            raise _unreachable(self.path, error) from error

    def _one_name(self, found: os.stat_result) -> None:
        if found.st_nlink != 1:
            raise PrivacyError(
                f"the file of the ledger {self.path} has {found.st_nlink} names",
                code="FK355",
                remedy=f"find the others by `find FOLDER -samefile {self.path}` and delete all names but one",
            )

    def _moved(self, what: str) -> PrivacyError:
        return PrivacyError(
            f"the ledger {self.path} was moved or replaced while it was open: its name {what}",
            code="FK335",
            remedy="stop all that uses it and put back the file that was open; else reconcile a backup with the newest"
            " export",
        )


def is_there(path: Path) -> bool:
    """Whether there is anything at a path; links are followed.

    Raises:
        PrivacyError: FK330, FK336, a path that cannot be asked about.
    """
    require_name(path)
    try:
        os.stat(path)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return False
        raise _unreachable(path, error) from error
    return True


def _unreachable(path: Path, error: OSError) -> PrivacyError:
    return PrivacyError(
        f"the ledger {path} cannot be reached ({error.strerror})",
        code="FK336",
        remedy="correct the path, or make its folder readable for this user",
    )


def require_name(path: Path) -> None:
    """Refuse a name that no ledger can have.

    Raises:
        PrivacyError: FK330, no text; FK336, too long for the journal that is named after it.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise PrivacyError(
            f"the ledger's path {str(path)!a} is not valid UTF-8",
            code="FK330",
            remedy="give the file a name in UTF-8",
        ) from error
    size = len(path.name.encode())
    if size > _LONGEST or "\0" in str(path):
        raise PrivacyError(
            f"the ledger's name {path.name[:40]!a}... has {size} bytes; at most {_LONGEST}, none of them NUL, leave"
            " room for its journal's",
            code="FK336",
            remedy="give it a shorter name",
        )


def _kind(mode: int) -> str:
    return "a folder" if stat.S_ISDIR(mode) else "a device, a socket or a pipe"


def _mount_points() -> frozenset[str]:
    try:
        lines = _MOUNTS.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return frozenset()
    points = (fields[4] for line in lines if len(fields := line.split(" ")) > 4)
    return frozenset(re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), point) for point in points)
