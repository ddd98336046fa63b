"""Whose records a round has read: pseudonyms on the site's disk before the round's answer leaves.

One SQLite file. The set of a table's units is stored once, 16 bytes a unit, and each round points at one; a round whose
units are those of the round before adds one line.

::

    FK593  the file cannot be read, or was written by another key
    FK759  it was written by a newer fedkit
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

from fedkit.errors import FederationError
from fedkit.storage.formats import require_version, write_version
from fedkit.storage.private import require_private
from fedkit.storage.sealing import Vault
from fedkit_client.folder import SiteFolder
from fedkit_client.hidden import hidden_count, hidden_units, shown_count, shown_units
from fedkit_client.pseudonyms import PseudonymKey, pseudonym_key

_FORMAT = 1
_WIDTH = 16
_TABLES = {"facts", "sets", "uses"}
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
        vault = folder.vault()
        units = None if ids is None else _stored(database, key, use.dataset, ids, vault)
        kept = hidden_count(vault, rows, use.run, use.round, use.kind)
        database.execute(
            "INSERT OR REPLACE INTO uses VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (use.run, use.round, use.kind, use.dataset, use.purpose, use.job, use.model, use.at, kept, units),
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
        sets, vault = [], folder.vault()
        for number, digest, kept in database.execute("SELECT id, digest, units FROM sets"):
            if _holds(shown_units(vault, kept, digest), mark):
                sets.append(number)
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
        found = database.execute(
            "SELECT round, kind, dataset, purpose, at, rows, sets.digest, sets.units FROM uses LEFT JOIN sets"
            " ON uses.units = sets.id WHERE run = ? ORDER BY round, kind, at",
            (run,),
        ).fetchall()
        vault = folder.vault()
        return [
            {
                "round": number, "kind": kind, "dataset": dataset, "purpose": purpose, "at": at,
                "rows": shown_count(vault, rows, run, number, kind),
                "units": None if kept is None else len(shown_units(vault, kept, digest)) // _WIDTH,
            }
            for number, kind, dataset, purpose, at, rows, digest, kept in found
        ]  # fmt: skip


def older(folder: SiteFolder, before: float) -> list[tuple[str, str, int, str, int, int]]:
    """Rounds that were read before a moment, by data set and run: its newest, their digest, bytes and number.

    Raises:
        FederationError: FK593.
    """
    if not folder.lineage.exists():
        return []
    found: dict[tuple[str, str], list[tuple[Any, ...]]] = {}
    with _opened(folder, pseudonym_key(folder, make=False), make=False) as database:
        rows = database.execute(
            "SELECT uses.dataset, run, at, round, kind, job, hex(sets.digest), coalesce(length(sets.units), 0)"
            " FROM uses LEFT JOIN sets ON uses.units = sets.id WHERE at < ? ORDER BY uses.dataset, run, at, uses.rowid",
            (before,),
        )
        for dataset, run, *rest in rows:
            found.setdefault((dataset, run), []).append(tuple(rest))
    return [
        (dataset, run, max(row[0] for row in rows), hashlib.sha256(json.dumps(rows).encode()).hexdigest(),
         sum(row[-1] for row in rows), len(rows))
        for (dataset, run), rows in found.items()
    ]  # fmt: skip


def forget(folder: SiteFolder, dataset: str, run: str, until: int) -> None:
    """Delete a run's rounds up to a moment, and the sets that no round points at any more.

    Raises:
        FederationError: FK593.
    """
    with _opened(folder, pseudonym_key(folder, make=False), make=False) as database:
        database.execute("DELETE FROM uses WHERE dataset = ? AND run = ? AND at <= ?", (dataset, run, until))
        database.execute("DELETE FROM sets WHERE id NOT IN (SELECT units FROM uses WHERE units IS NOT NULL)")
        database.commit()


def require_database(folder: SiteFolder) -> bool:
    """Refuse a file that is no database, whatever its key; whether anything was ever written down in it.

    Raises:
        FederationError: FK593.
    """
    if not folder.lineage.exists():
        return False
    try:
        with closing(sqlite3.connect(folder.lineage, timeout=30)) as database:
            require_version(database, folder.lineage, _FORMAT)
            names = {name for (name,) in database.execute("SELECT name FROM sqlite_master")} & _TABLES
            used = any(database.execute(f"SELECT 1 FROM {name} LIMIT 1").fetchone() for name in names)  # noqa: S608
            # A kill may come before the first round's tables are all there: the next round makes the others.
            if used and names != _TABLES:
                raise sqlite3.DatabaseError(f"no table {', '.join(sorted(_TABLES - names))}")
            return used
    except sqlite3.Error as error:
        raise _unusable(folder, error) from None


def require_usable(folder: SiteFolder) -> str:
    """Refuse a file by which no round could be answered; says how many rounds it knows.

    Raises:
        FederationError: FK593.
    """
    if not require_database(folder):
        return "none yet: the first round makes it"
    with _opened(folder, pseudonym_key(folder, make=False), make=False) as database:
        (count,) = database.execute("SELECT count(*) FROM (SELECT DISTINCT run, round, kind FROM uses)").fetchone()
        database.execute("SELECT id, digest, units FROM sets LIMIT 1").fetchone()
    return f"{count:,} {'round' if count == 1 else 'rounds'} are known, by the folder's own key"


def all_shown(folder: SiteFolder) -> None:
    """Open every set and every count; tells nothing of them.

    Raises:
        FederationError: FK593.
    """
    if not folder.lineage.exists():
        return
    vault = folder.vault()
    with _opened(folder, pseudonym_key(folder, make=False), make=False) as database:
        for digest, kept in database.execute("SELECT digest, units FROM sets"):
            shown_units(vault, kept, digest)
        for run, number, kind, rows in database.execute("SELECT run, round, kind, rows FROM uses"):
            shown_count(vault, rows, run, number, kind)


def _stored(
    database: sqlite3.Connection, key: PseudonymKey, dataset: str, ids: Sequence[str], vault: Vault | None
) -> int:
    distinct = sorted(set(ids))
    texts = [unit.encode("utf-8", "surrogatepass") for unit in (dataset, *distinct)]
    digest = key.digest(b"fedkit-units-1\n" + b"".join(len(text).to_bytes(4, "little") + text for text in texts))
    known = database.execute("SELECT id FROM sets WHERE digest = ?", (digest,)).fetchone()
    if known is not None:
        return int(known[0])
    # In an order of their own: that of the ids would tell something of them.
    marks = b"".join(sorted(key.of(dataset, unit)[:_WIDTH] for unit in distinct))
    kept = hidden_units(vault, marks, digest)
    made = database.execute("INSERT INTO sets (digest, units) VALUES (?, ?)", (digest, kept))
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
            database.execute("PRAGMA secure_delete = ON")
            require_version(database, path, _FORMAT)
            if make:
                database.executescript(_SCHEMA)
                write_version(database, _FORMAT)
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
        raise _unusable(folder, error) from None


def _unusable(folder: SiteFolder, error: Exception) -> FederationError:
    return FederationError(
        f"{folder.lineage.name} cannot be used ({type(error).__name__}: {error})",
        code="FK593",
        remedy="see that the disk has room, or restore it from the folder's backup",
    )
