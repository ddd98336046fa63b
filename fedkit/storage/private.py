"""Folders and files that only their owner may read: written whole, refused when others can reach them.

::

    FK700  a folder or file that cannot be made or written
    FK704  a place that is taken
    FK706  a folder or file that others may read or replace
"""

from __future__ import annotations

import errno
import os
import stat
import tempfile
from collections.abc import Iterable
from pathlib import Path

from fedkit.errors import DeploymentError

_OTHERS = 0o077


def make_folder(path: Path) -> None:
    """Make a folder with mode 0700; an empty one that is there is taken.

    Raises:
        DeploymentError: FK704, it is there and not empty, or no folder; FK700, it cannot be made.
    """
    try:
        require_free(path)
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.chmod(0o700)
    except OSError as error:
        raise _cannot(path, error) from None


def require_free(path: Path, remedy: str = "name a folder that does not exist yet") -> None:
    """Refuse a folder that :func:`make_folder` would refuse.

    Args:
        remedy: what a command's user can do about it.

    Raises:
        DeploymentError: FK704.
    """
    if path.is_dir():
        if any(path.iterdir()):
            raise DeploymentError(
                f"{path} exists and is not empty; nothing in it is overwritten", code="FK704", remedy=remedy
            )
    elif path.exists():
        raise DeploymentError(f"{path} is a file, which is not overwritten", code="FK704", remedy=remedy)


def require_absent(path: Path, remedy: str) -> None:
    """Refuse a file that :func:`write_new` would refuse, before anything is done that it would be written for.

    Raises:
        DeploymentError: FK704.
    """
    if path.exists():
        raise DeploymentError(f"{path} exists; it is not overwritten", code="FK704", remedy=remedy)


def write_new(path: Path, content: bytes) -> None:
    """Write a file that was not there, with mode 0600, durably.

    Raises:
        DeploymentError: FK704, it is there; FK700, it cannot be written.
    """
    try:
        # Never readable by others, not even between its creation and a chmod.
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        _fill(handle, content)
    except FileExistsError:
        raise DeploymentError(
            f"{path} exists; it is not overwritten", code="FK704", remedy="move it away, or name another file"
        ) from None
    except OSError as error:
        raise _cannot(path, error) from None


def replace(path: Path, content: bytes) -> None:
    """Replace a file, mode 0600, so that a reader or a crash sees the old content or the new.

    Raises:
        DeploymentError: FK700, it cannot be written; it is then as it was.
    """
    name = ""
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        _fill(handle, content)
        Path(name).replace(path)
    except OSError as error:
        if name:
            Path(name).unlink(missing_ok=True)
        raise _cannot(path, error) from None


def read(path: Path, most: int = -1) -> bytes:
    """What a regular file holds, up to ``most`` bytes; a link is not followed, and a pipe not waited for.

    Raises:
        OSError: there is none, it is a link or no file, or it cannot be read.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, "it is no regular file")
        return file.read(most)


def require_private(paths: Iterable[Path]) -> None:
    """Refuse folders and files that other users of this machine can read or replace; absent ones are passed over.

    Raises:
        DeploymentError: FK706, with a command that mends all of them.
    """
    loose = []
    for path in paths:
        try:
            mode = stat.S_IMODE(path.stat().st_mode)
        except OSError:
            continue
        if mode & _OTHERS:
            loose.append((path, mode, "700" if path.is_dir() else "600"))
    if loose:
        described = ", ".join(f"{path} ({mode:04o})" for path, mode, _ in loose)
        remedy = "; ".join(f"chmod {wanted} {path}" for path, _, wanted in loose)
        raise DeploymentError(
            f"others on this machine can reach {described}; folders need 0700, files 0600",
            code="FK706",
            remedy=f"{remedy}; if others had access, make the keys anew",
        )


def _fill(handle: int, content: bytes) -> None:
    with os.fdopen(handle, "wb") as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _cannot(path: Path, error: OSError) -> DeploymentError:
    return DeploymentError(
        f"{path} cannot be written: {error.strerror or error}", code="FK700", remedy="name a folder that you may write"
    )
