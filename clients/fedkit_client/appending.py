"""Files of lines that only grow: one writer at a time, on disk before anybody is told; half a line counts not."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from fedkit.errors import DeploymentError
from fedkit.storage.atomic import sync_folder
from fedkit.storage.private import require_private


@contextmanager
def appending(path: Path) -> Iterator[int]:
    """The file, made with mode 0600 if need be, for one writer; its name is durable when the block has ended.

    Raises:
        DeploymentError: FK700, the disk does not take it; FK706, others may read it.
    """
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            require_private([path])
            yield handle
        finally:
            os.close(handle)
        sync_folder(path.parent)
    except OSError as error:
        raise DeploymentError(
            f"{path} cannot be written ({error.strerror}); nothing of it counts",
            code="FK700",
            remedy="see that the disk has room and that you own the site's folder, then try again",
        ) from None


def read_shared(path: Path) -> bytes:
    """What the file holds between two writers; nothing where there is none.

    Raises:
        DeploymentError: FK706.
        OSError: it cannot be read.
    """
    require_private([path])
    try:
        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            return file.read()
    except FileNotFoundError:
        return b""


def mended(handle: int, good: Callable[[bytes], bool]) -> bytes:
    """What the file holds, without half a line that a crash has left at its end: nobody was told that it counts.

    Args:
        good: whether a line is one; such a one stays, and gets its end.
    """
    with open(handle, "rb", closefd=False) as file:
        file.seek(0)
        content = file.read()
    whole = content[: content.rfind(b"\n") + 1]
    if whole == content:
        return content
    if not good(content[len(whole) :]):
        os.ftruncate(handle, len(whole))
        return whole
    os.write(handle, b"\n")
    return content + b"\n"


def append(handle: int, lines: Sequence[str]) -> None:
    """Append lines, durably, all or none.

    Raises:
        OSError: none of them is there.
    """
    content, size = "".join(f"{line}\n" for line in lines).encode(), os.fstat(handle).st_size
    try:
        written = 0
        while written < len(content):
            written += os.write(handle, content[written:])
        os.fsync(handle)
    except OSError:
        os.ftruncate(handle, size)
        raise
