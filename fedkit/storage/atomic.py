"""Write a file so that a reader, or a crash, sees the old content or the new and never half of it."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def write_bytes(path: Path, content: bytes) -> None:
    """Replace ``path`` with ``content``, durably.

    Raises:
        OSError: the folder cannot be written or is full; ``path`` is then as it was.
    """
    write_parts(path, (content,))


def write_parts(path: Path, parts: Iterable[bytes | memoryview]) -> None:
    """Replace ``path`` with the parts, one after the other, durably; no more than one need be in memory.

    Raises:
        OSError: the folder cannot be written or is full; ``path`` is then as it was.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(path)
        sync_folder(path.parent)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def link(source: Path, path: Path) -> None:
    """Give a file that is on disk and never changes a second name; a copy, where the file system knows no links.

    Raises:
        OSError: the folder cannot be written or is full; ``path`` is then as it was.
    """
    scrap = path.with_name(f".{path.name}.{os.getpid()}")
    scrap.unlink(missing_ok=True)
    try:
        os.link(source, scrap)
    except OSError:
        with source.open("rb") as file:
            write_parts(path, iter(lambda: file.read(2**20), b""))
        return
    scrap.replace(path)
    # Where both were names of one file already, replacing has done nothing.
    scrap.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable: a file that was replaced or made is found after a power failure.

    Raises:
        OSError: the folder is not there, or the disk fails.
    """
    if os.name == "nt":
        # A folder cannot be opened there; NTFS journals names itself.
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: Path, content: str) -> None:
    """Replace ``path`` with UTF-8 text, durably."""
    write_bytes(path, content.encode())


def write_json(path: Path, value: Any) -> None:
    """Replace ``path`` with indented JSON; NaN is refused, because it is no JSON.

    Raises:
        ValueError: ``value`` holds NaN or infinity.
    """
    write_text(path, json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def append_line(path: Path, line: str) -> None:
    """Append one line, durably; a crash can tear at most this line."""
    with path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")
        file.flush()
        os.fsync(file.fileno())
