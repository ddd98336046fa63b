"""Whose records a round has read: pseudonyms on the site's disk before the round's answer leaves.

One SQLite file. The set of a table's units is stored once, 16 bytes a unit, and each round points at one; a round whose
units are those of the round before adds one line.

::

    FK593  the file cannot be read, or was written by another key
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

from fedkit.errors import FederationError
from fedkit.storage.private import require_private
from fedkit_client.folder import SiteFolder
from fedkit_client.pseudonyms import PseudonymKey, pseudonym_key

_WIDTH = 16
_SCHEMA = """
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS sets (id INTEGER PRIMARY KEY, digest BLOB UNIQUE NOT NULL, units BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS uses (
    run TEXT NOT NULL, round INTEGER NOT NULL, kind TEXT NOT NULL, dataset TEXT NOT NULL, purpose TEXT NOT NULL,
    job TEXT NOT NULL, model TEXT NOT NULL, at INTEGER NOT NULL, rows INTEGER NOT NULL, units INTEGER,
    PRIMARY KEY (run, round, kind, units)
);
"""


@dataclass(frozen=True)
class Use:
    """One reading of a table.

    Attributes:
        kind: train or evaluate.
        job: digest of the signed job, and so of its config.
        model: the model's name in the config.
    """

    run: str
    round: int
    kind: str
    dataset: str
    purpose: str
    job: str
    model: str
    at: int


def leave(folder: SiteFolder, use: Use, rows: int, ids: Sequence[str] | None) -> None:
    """Write down whose rows a round has read; on disk when it returns.

    Args:
        ids: of the rows, in any order and any number of times; None where nobody can tell whose they are.

    Raises:
        FederationError: FK593: nothing may leave then.
        DeploymentError: FK700, FK706.
    """
    key = pseudonym_key(folder)
    with _opened(folder, key, make=True) as database:
        units = None if ids is None else _stored(database, key, use.dataset, ids)
        database.execute(
            "INSERT OR REPLACE INTO uses VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (use.run, use.round, use.kind, use.dataset, use.purpose, use.job, use.model, use.at, rows, units),
        )
        database.commit()


def runs_with(folder: SiteFolder, dataset: str, unit: str) -> list[dict[str, Any]]:
    """The runs that have read a unit's records: of each its rounds by kind.

    Every model of such a run from the first of its rounds of training on was made with them.

    Raises:
        FederationError: FK593.
    """
    if not folder.lineage.exists():
        return []
    key = pseudonym_key(folder, make=False)
    mark = key.of(dataset, unit)[:_WIDTH]
    with _opened(folder, key, make=False) as database:
        sets = [number for number, units in database.execute("SELECT id, units FROM sets") if _holds(units, mark)]
        found: dict[str, dict[str, Any]] = {}
        uses = database.execute(
            "SELECT run, kind, round, purpose, job, model, units FROM uses WHERE dataset = ? ORDER BY at, rowid",
            (dataset,),
        )
        for run, kind, number, purpose, job, model, units in uses:
            if units not in sets:
                continue
            told = found.setdefault(
                run,
                {"run": run, "purpose": purpose, "job": job, "model": model, "train": [], "evaluate": [],
                 "statistics": []},
            )  # fmt: skip
            told[kind] = sorted({*told[kind], number})
    return list(found.values())


def rounds_of(folder: SiteFolder, run: str) -> list[dict[str, Any]]:
    """How many rows and units each round of a run has read; who they are is not told.

    Raises:
        FederationError: FK593.
    """
    if not folder.lineage.exists():
        return []
    with _opened(folder, pseudonym_key(folder, make=False), make=False) as database:
        rows = database.execute(
            "SELECT round, kind, dataset, purpose, at, rows, length(sets.units) FROM uses LEFT JOIN sets"
            " ON uses.units = sets.id WHERE run = ? ORDER BY round, kind, at",
            (run,),
        ).fetchall()
    names = ("round", "kind", "dataset", "purpose", "at", "rows")
    return [
        dict(zip(names, row, strict=False)) | {"units": None if row[6] is None else row[6] // _WIDTH} for row in rows
    ]


def _stored(database: sqlite3.Connection, key: PseudonymKey, dataset: str, ids: Sequence[str]) -> int:
    distinct = sorted(set(ids))
    texts = [unit.encode("utf-8", "surrogatepass") for unit in (dataset, *distinct)]
    digest = key.digest(b"fedkit-units-1\n" + b"".join(len(text).to_bytes(4, "little") + text for text in texts))
    known = database.execute("SELECT id FROM sets WHERE digest = ?", (digest,)).fetchone()
    if known is not None:
        return int(known[0])
    # In an order of their own: that of the ids would tell something of them.
    marks = b"".join(sorted(key.of(dataset, unit)[:_WIDTH] for unit in distinct))
    made = database.execute("INSERT INTO sets (digest, units) VALUES (?, ?)", (digest, marks))
    return int(made.lastrowid or 0)


def _holds(units: bytes, mark: bytes) -> bool:
    at = units.find(mark)
    while at >= 0 and at % _WIDTH:
        at = units.find(mark, at + 1)
    return at >= 0


@contextmanager
def _opened(folder: SiteFolder, key: PseudonymKey, *, make: bool) -> Iterator[sqlite3.Connection]:
    path = folder.lineage
    try:
        if make:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600))
        require_private([path])
        with closing(sqlite3.connect(path, timeout=30)) as database:
            database.execute("PRAGMA synchronous = FULL")
            if make:
                database.executescript(_SCHEMA)
                database.execute("INSERT OR IGNORE INTO facts VALUES ('key', ?)", (key.check,))
            known = database.execute("SELECT value FROM facts WHERE name = 'key'").fetchone()
            if known is None or known[0] != key.check:
                raise FederationError(
                    f"{path.name} was written by another key than {folder.pseudonym_key.name}",
                    code="FK593",
                    remedy="restore both from one backup of the folder",
                )
            yield database
    except (sqlite3.Error, OSError) as error:
        raise FederationError(
            f"{path.name} cannot be used ({type(error).__name__}: {error})",
            code="FK593",
            remedy="see that the disk has room, or restore it from the folder's backup",
        ) from None
