"""What lies in ``evidence/``: from when its days count, what it is, and how it goes."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from fedkit.errors import DeploymentError
from fedkit.storage.atomic import sync_folder
from fedkit.storage.audit_line import Unreadable, read_line
from fedkit.storage.audit_verify import raw_lines
from fedkit_client.folder import SiteFolder

STAMP = "%Y%m%dT%H%M%S.%fZ"
"""Of a folder's name: when it was made."""

_NAME = re.compile(r"[0-9]{8}T[0-9]{6}\.[0-9]{6}Z")
_LIFTED = "unquarantined"


def ended(folder: SiteFolder) -> Iterator[tuple[str, float]]:
    """Each folder of evidence, and the end of the quarantine in which it was kept, as the audit log tells.

    Nothing while the site is quarantined, nor where the log has a line that cannot be read: it may tell of another end.
    One of which the log tells no end counts from when it was made. A link, or another name, is nobody's evidence.
    """
    root = folder.evidence
    if root.is_symlink() or not root.is_dir() or folder.quarantine.there():
        return
    lifts = _lifts(folder)
    if lifts is None:
        return
    for path in sorted(root.iterdir()):
        if path.is_symlink() or not path.is_dir() or not _NAME.fullmatch(path.name):
            continue
        try:
            made = datetime.strptime(path.name, STAMP).replace(tzinfo=UTC).timestamp()
        except ValueError:
            continue
        yield path.name, min((lift for lift in lifts if lift >= made), default=made)


def described(folder: SiteFolder, name: str) -> tuple[str, int, int]:
    """SHA-256 over the names, sizes and SHA-256 of a folder's files in their order, their bytes and their number.

    Raises:
        OSError: one cannot be read.
    """
    found, size, count = hashlib.sha256(), 0, 0
    root = folder.evidence / name
    for path in sorted(root.rglob("*")):
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as file:
                inner = hashlib.file_digest(file, "sha256").hexdigest()
            length = path.stat().st_size
            found.update(f"{path.relative_to(root).as_posix()} {length} {inner}\n".encode())
            size, count = size + length, count + 1
    return found.hexdigest(), size, count


def remove(folder: SiteFolder, name: str) -> None:
    """Delete a folder of evidence; a kill leaves less of it, which is found again.

    Raises:
        DeploymentError: FK700, it cannot be, or is none.
    """
    path = folder.evidence / name
    try:
        if not _NAME.fullmatch(name) or folder.evidence.is_symlink():
            raise NotADirectoryError(20, "it is no folder of evidence")
        # Of a link within the link goes, and of one in its place nothing.
        shutil.rmtree(path)
        sync_folder(folder.evidence)
    except FileNotFoundError:
        return
    except OSError as error:
        raise DeploymentError(
            f"{path} cannot be deleted: {error.strerror or error}", code="FK700", remedy="run as the folder's owner"
        ) from None


def _lifts(folder: SiteFolder) -> list[float] | None:
    path: Path = folder.audit
    if not path.exists():
        return []
    found = []
    for raw in raw_lines(path):
        try:
            line = read_line(raw.rstrip(b"\n"))
        except Unreadable:
            return None
        if line.kind == _LIFTED:
            found.append(line.at)
    return found
