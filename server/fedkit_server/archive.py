"""A run's folder as one tar: packed as it is read, without journal and links; unpacked into its own folder alone."""

from __future__ import annotations

import os
import shutil
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from fedkit.errors import DeploymentError
from fedkit.storage.private import make_folder

LEFT_OUT = ("journal",)
MOST_BYTES = 2**36
MOST_FILES = 100_000


_PIECE = 2**18


def packed(run: Path) -> Iterator[bytes]:
    """A run's regular files as a tar, in pieces; the journal, which only the coordinator needs, is left out.

    Nothing is written: whoever reads slowly, or not at all, holds one open file. A file that grows meanwhile is told as
    it was when it was opened.

    Raises:
        OSError: a file cannot be read, or has become shorter: what was sent is then no whole tar.
    """
    for folder, inner, files in os.walk(run):
        if Path(folder) == run:
            inner[:] = [name for name in inner if name not in LEFT_OUT]
        inner.sort()
        for name in sorted(files):
            path = Path(folder, name)
            if stat.S_ISREG(path.lstat().st_mode):
                yield from _member(path, path.relative_to(run).as_posix())
    yield bytes(2 * tarfile.BLOCKSIZE)


def _member(path: Path, name: str) -> Iterator[bytes]:
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
        found = os.fstat(file.fileno())
        member = tarfile.TarInfo(name)
        member.size, member.mtime, member.mode = found.st_size, int(found.st_mtime), 0o600
        yield member.tobuf()
        left = member.size
        while left:
            piece = file.read(min(_PIECE, left))
            if not piece:
                raise OSError(f"{path} has become shorter while it was read")
            left -= len(piece)
            yield piece
        yield bytes(-member.size % tarfile.BLOCKSIZE)


def unpack(source: Path, target: Path) -> list[str]:
    """Unpack into a new folder that only its owner may read; returns the files' names.

    Raises:
        DeploymentError: FK713, a tar that is none, or holds a link, a device, a place outside or too much; FK704.

    Guarantee: nothing is written outside ``target``, and nothing in it is executable or a link.
    """
    make_folder(target)
    try:
        with tarfile.open(source, "r:") as archive:
            members = []
            for member in archive:
                members.append(member)
                if not member.isreg() or len(members) > MOST_FILES:
                    raise _unsafe(f"holds {member.name[:80]!r}, which is no plain file, or more than {MOST_FILES}")
            if sum(member.size for member in members) > MOST_BYTES:
                raise _unsafe(f"holds more than {MOST_BYTES:,} bytes")
            for member in members:
                _write(archive, member, target)
        for folder, _, _ in os.walk(target):
            Path(folder).chmod(0o700)
    except (tarfile.TarError, OSError, ValueError, EOFError) as error:
        raise _unsafe(f"cannot be unpacked ({type(error).__name__})") from None
    return [member.name for member in members]


def _write(archive: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    # Not tarfile's own filter, which the first releases of Python 3.11 do not have.
    parts = PurePosixPath(member.name.lstrip("/")).parts
    content = archive.extractfile(member)
    if not parts or ".." in parts or content is None:
        raise _unsafe(f"holds {member.name[:80]!r}, which lies outside the run's folder")
    place = target.joinpath(*parts)
    place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    handle = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(handle, "wb") as file:
        shutil.copyfileobj(content, file)


def _unsafe(why: str) -> DeploymentError:
    return DeploymentError(
        f"the archive {why}", code="FK713", remedy="look at the run's folder on the coordinator's host"
    )
