"""A copy of a folder that goes on working meanwhile: each file as it was at one moment, and a list to hold it against.

A backup is made under another name and gets its own only once all of it is on disk and was read again, so that one that
was killed is never taken for one. Its list tells a damaged copy from a whole one; whoever can write there can write
another list too, so it proves nothing against them.

::

    FK766  a backup that cannot be made, or is not what was written
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import shutil
import sqlite3
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from fedkit.errors import DeploymentError
from fedkit.storage.atomic import sync_folder
from fedkit.storage.formats import require_known
from fedkit.storage.private import make_folder, read, write_new

LIST = "backup.json"
FORMAT = 1
_CHUNK = 2**20
_MOST_BYTES, _LATEST = 2**28, 253_402_300_800
"""Of a list; seconds since the epoch at the end of the last year of four digits."""
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def described(path: Path) -> dict[str, Any]:
    """Digest and size of a regular file.

    Raises:
        OSError: it cannot be read, is a link or no file.
    """
    with _opened(path) as file:
        return _passed(file, lambda _: None)


def _opened(path: Path) -> BinaryIO:
    # Whoever can write to a backup may have put a link there, or a pipe that is waited for without end.
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if stat.S_ISREG(os.fstat(handle).st_mode):
        return open(handle, "rb")
    os.close(handle)
    raise OSError(errno.EINVAL, "it is no regular file")


def _passed(file: BinaryIO, to: Callable[[bytes], object]) -> dict[str, Any]:
    """Hand on what a file holds; its digest and size."""
    found, size = hashlib.sha256(), 0
    while part := file.read(_CHUNK):
        to(part)
        found.update(part)
        size += len(part)
    return {"sha256": found.hexdigest(), "size": size}


def copy_database(source: Path, copy: Path, *, mend: bool = True) -> None:
    """Copy a SQLite file as it is between two transactions, whoever writes to it.

    Args:
        mend: SQLite may take back first what a killed process has left half done, without which it copies nothing.

    Raises:
        sqlite3.Error: it cannot be read.
    """
    uri = f"{source.absolute().as_uri()}?mode={'rw' if mend else 'ro'}"
    with closing(sqlite3.connect(uri, uri=True, timeout=30.0)) as one, closing(sqlite3.connect(copy)) as other:
        one.backup(other)


def copy_file(source: Path, copy: Path, *, live: bool = True) -> None:
    """Copy a file between two writers that take its lock, and a SQLite file between two transactions; mode 0600.

    Args:
        live: somebody may write to it.

    Raises:
        OSError, sqlite3.Error: it cannot be read, or the copy not be written.
    """
    copy.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.close(os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    if live and source.suffix in (".sqlite", ".db"):
        copy_database(source, copy)
        return
    with open(os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file, copy.open("wb") as to:
        fcntl.flock(file, fcntl.LOCK_SH)
        shutil.copyfileobj(file, to, _CHUNK)


@contextmanager
def becoming(target: Path) -> Iterator[Path]:
    """A new folder that gets its name when the block has ended well, durably; else nothing of it stays.

    Raises:
        DeploymentError: FK704, the name is taken; FK700, the folder cannot be made; FK766, the disk.
    """
    if target.exists() or target.is_symlink():
        raise DeploymentError(
            f"{target} exists; nothing in it is overwritten",
            code="FK704",
            remedy="name a folder that does not exist yet",
        )
    if not target.parent.is_dir():
        raise DeploymentError(
            f"{target.parent} is no folder",
            code="FK700",
            remedy="name a folder in one that is there, or mount its disk",
        )
    scrap = None
    try:
        scrap = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.unfinished-"))
        yield scrap
        _sync(scrap)
        scrap.rename(target)
        sync_folder(target.parent)
    except (OSError, sqlite3.Error) as error:
        raise DeploymentError(
            f"{target} cannot be written whole ({error})",
            code="FK766",
            remedy="see that its disk has room; nothing of it is kept",
        ) from None
    finally:
        if scrap is not None:
            shutil.rmtree(scrap, ignore_errors=True)


def write_list(folder: Path, kind: str, names: Iterable[str], values: Mapping[str, Any]) -> dict[str, Any]:
    """Read every copy again and list it; returns what the list says.

    Args:
        kind: ``site`` or ``coordinator``.
        values: what else it is to tell.

    Raises:
        OSError: a copy cannot be read.
        DeploymentError: FK700, FK704.
    """
    files = {name: described(folder / name) for name in sorted(names)}
    found = {"format": FORMAT, "kind": kind, **values, "files": files}
    write_new(folder / LIST, (json.dumps(found, indent=1, allow_nan=False) + "\n").encode())
    return found


def read_list(folder: Path, kind: str, told: Sequence[str] = ()) -> dict[str, Any]:
    """A backup's list, once each file that it names was found to be what was written, and no other is there.

    Args:
        told: what else it must tell, each a text.

    Raises:
        DeploymentError: FK766; FK759, a newer fedkit has made it.
    """
    try:
        values: dict[str, Any] = json.loads(read(folder / LIST, _MOST_BYTES))
        require_known(folder / LIST, values["format"], FORMAT, writer=values.get("fedkit"))
        files = dict(values["files"])
        if values["kind"] != kind:
            raise ValueError(f"a backup of a {values['kind']}")
        if values["format"] != FORMAT or type(values["made_at"]) is not int or not 0 <= values["made_at"] < _LATEST:
            raise ValueError("neither its format nor its time is one")
        if any(not isinstance(values[name], str) for name in told):
            raise ValueError(f"{' or '.join(told)} is no text")
        sizes = {name: each["size"] for name, each in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _unusable(folder, f"{LIST} does not say what it holds ({error})") from None
    there = {
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir() or path.is_symlink()
    }
    if odd := sorted(there ^ {*files, LIST}):
        raise _unusable(folder, f"{odd[0]} is {'missing' if odd[0] in files else 'not on its list'}")
    for name, each in files.items():
        try:
            # One that has grown beyond measure is not read to its end.
            same = (folder / name).lstat().st_size == sizes[name] and described(folder / name) == each
        except OSError:
            same = False
        if not same:
            raise _unusable(folder, f"{name} is not what was written")
    return values


def put_back(backup: Path, files: Mapping[str, Any], scrap: Path) -> None:
    """Copy a backup's files into a new folder.

    Args:
        files: as `read_list` has found them to be.

    Raises:
        OSError: one cannot be read or written.
        DeploymentError: FK766, one is not what it was: it was changed meanwhile, or its disk gives other bytes now.
    """
    for name, told in files.items():
        copy = scrap / name
        copy.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _opened(backup / name) as file, open(os.open(copy, _NEW, 0o600), "wb") as to:
            same = _passed(file, to.write) == told
        if not same:
            raise _unusable(backup, f"{name} is not what it was a moment ago")


def make_folders(folder: Path, names: Iterable[str]) -> None:
    """Folders that are there even where they hold nothing."""
    for name in names:
        if not (folder / name).exists():
            make_folder(folder / name)


def _sync(folder: Path) -> None:
    for path in sorted(folder.rglob("*")):
        if path.is_dir():
            sync_folder(path)
            continue
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    sync_folder(folder)


def _unusable(folder: Path, why: str) -> DeploymentError:
    return DeploymentError(
        f"{folder} is no whole backup: {why}",
        code="FK766",
        remedy="take an older backup, or another copy of this one; nothing was put back",
    )
