"""The format of what is stored: whatever a newer fedkit has written is refused, and never read as if it were older.

::

    FK759  a folder or file in a format that this fedkit does not know
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

from fedkit.errors import DeploymentError


def require_known(path: Path, found: Any, known: int, *, writer: object = None) -> None:
    """Refuse a format that is newer than what is known; any other is the caller's to judge.

    Args:
        found: as the file tells it.
        writer: the version of fedkit that the file names, if it names one.

    Raises:
        DeploymentError: FK759.

    >>> require_known(Path("server.json"), 1, 1)
    """
    # A bool is an int to Python, and no format.
    if type(found) is not int or found <= known:
        return
    named = writer if isinstance(writer, str) and writer.isprintable() and len(writer) < 50 else ""
    raise DeploymentError(
        f"{path} has format {found}, written by fedkit {named or 'of a later version'}; this fedkit reads formats up to"
        f" {known}",
        code="FK759",
        remedy=f"install fedkit {named or 'of the version that wrote it'} or newer, or put back a backup of before;"
        " nothing was changed",
    )


def require_version(database: sqlite3.Connection, path: Path, known: int) -> None:
    """`require_known` of a SQLite file's ``user_version``; files of before it was written have 0, and are read.

    Raises:
        DeploymentError: FK759.
    """
    require_known(path, database.execute("PRAGMA user_version").fetchone()[0], known)


def write_version(database: sqlite3.Connection, known: int) -> None:
    """Have a SQLite file tell its format from now on."""
    # Without a look each opening would write, and flush.
    if database.execute("PRAGMA user_version").fetchone()[0] != known:
        database.execute(f"PRAGMA user_version = {known:d}")
