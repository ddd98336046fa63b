"""What the coordinator knows, in one SQLite file: invitations, sites, offers, tokens, runs. No secret is in it."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedkit.errors import DeploymentError
from fedkit.storage.formats import require_version, write_version

_SCHEMA = """
CREATE TABLE IF NOT EXISTS invitations (
    secret TEXT PRIMARY KEY, site TEXT NOT NULL, issued_at REAL NOT NULL, expires_at REAL NOT NULL,
    used_at REAL, void_at REAL);
CREATE TABLE IF NOT EXISTS sites (
    name TEXT PRIMARY KEY, node_id TEXT NOT NULL, node_key BLOB NOT NULL, site_key BLOB NOT NULL,
    enrolled_at REAL NOT NULL, revoked_at REAL, offer TEXT, offered_at REAL);
CREATE TABLE IF NOT EXISTS tokens (token TEXT PRIMARY KEY, user TEXT NOT NULL, issued_at REAL NOT NULL);
CREATE TABLE IF NOT EXISTS runs (
    run TEXT PRIMARY KEY, job TEXT NOT NULL, name TEXT NOT NULL, submitter TEXT NOT NULL, submitted_at REAL NOT NULL,
    state TEXT NOT NULL, outcome TEXT);
"""
_FORMAT = 1
_LATER = {"stopping": "INTEGER NOT NULL DEFAULT 0", "openings": "INTEGER NOT NULL DEFAULT 0"}
"""Columns of runs that a file by an older fedkit has not."""


@dataclass(frozen=True)
class Invited:
    """An invitation, as the coordinator remembers it.

    Attributes:
        secret: SHA-256 of the secret, hex.
        void_at: when a newer invitation, a revocation or a new coordinator's key made it useless.
    """

    secret: str
    site: str
    issued_at: float
    expires_at: float
    used_at: float | None
    void_at: float | None


@dataclass(frozen=True)
class SiteRow:
    """A site that has joined.

    Attributes:
        node_id: Flower's.
        node_key: as Flower's public_key_to_bytes gives it.
        site_key: raw Ed25519 public key.
        offer: envelope of its newest offer.
    """

    name: str
    node_id: int
    node_key: bytes
    site_key: bytes
    enrolled_at: float
    revoked_at: float | None
    offer: str | None
    offered_at: float | None


@dataclass(frozen=True)
class RunRow:
    """A run that was submitted.

    Attributes:
        state: queued, running, stopped, finished, failed.
        outcome: what the run directory's result says, once there is one.
        stopping: whether a user has ended it, and it has not ended yet.
        openings: how often it was begun since it last asked a site or ended.
    """

    run: str
    job: str
    name: str
    submitter: str
    submitted_at: float
    state: str
    outcome: str | None
    stopping: int = 0
    openings: int = 0


class Store:
    """The file, open; may be called from any thread.

    Guarantee: what a call has written is on disk when it returns.
    """

    def __init__(self, path: Path) -> None:
        self._lock = threading.RLock()
        try:
            # SQLite's further files take their mode from this one.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
            self._db = sqlite3.connect(path, check_same_thread=False, timeout=10.0)
            self._db.row_factory = sqlite3.Row
            # Before anything is written: what a newer fedkit has made is left as it is.
            require_version(self._db, path, _FORMAT)
            for pragma in ("journal_mode = WAL", "synchronous = FULL"):
                self._db.execute(f"PRAGMA {pragma}")
            self._db.executescript(_SCHEMA)
            write_version(self._db, _FORMAT)
            known = {row["name"] for row in self._db.execute("PRAGMA table_info(runs)")}
            for name in _LATER.keys() - known:
                self._db.execute(f"ALTER TABLE runs ADD COLUMN {name} {_LATER[name]}")
        except (OSError, sqlite3.Error) as error:
            raise DeploymentError(
                f"{path} cannot be opened: {error}", code="FK705", remedy="restore the folder from its backup"
            ) from None

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    @contextmanager
    def _write(self) -> Iterator[sqlite3.Connection]:
        with self._lock, self._db:
            yield self._db

    def _rows(self, query: str, values: tuple[Any, ...] = ()) -> list[sqlite3.Row]:
        with self._lock:
            return self._db.execute(query, values).fetchall()

    # Invitations

    def add_invitation(self, secret: str, site: str, now: float, expires_at: float) -> None:
        """Remember an invitation; an older one of the same site is void."""
        with self._write() as db:
            db.execute(
                "UPDATE invitations SET void_at = ? WHERE site = ? AND used_at IS NULL AND void_at IS NULL",
                (now, site),
            )
            db.execute("INSERT INTO invitations VALUES (?, ?, ?, ?, NULL, NULL)", (secret, site, now, expires_at))

    def invitations(self) -> list[Invited]:
        """All invitations ever made."""
        return [Invited(**row) for row in self._rows("SELECT * FROM invitations ORDER BY issued_at")]

    def use_invitation(self, secret: str, now: float) -> bool:
        """Mark an invitation as used; False if it was, or is void: of two at once, one wins."""
        with self._write() as db:
            done = db.execute(
                "UPDATE invitations SET used_at = ? WHERE secret = ? AND used_at IS NULL AND void_at IS NULL",
                (now, secret),
            )
            return done.rowcount == 1

    def void_invitations(self, now: float, site: str | None = None) -> int:
        """Make open invitations useless: those of a site, or all; returns how many were open."""
        with self._write() as db:
            done = db.execute(
                "UPDATE invitations SET void_at = ? WHERE used_at IS NULL AND void_at IS NULL AND expires_at > ?"
                " AND (? IS NULL OR site = ?)",
                (now, now, site, site),
            )
            return done.rowcount

    # Sites

    def put_site(self, name: str, node_id: int, node_key: bytes, site_key: bytes, now: float) -> None:
        """A site has joined, or joined again with new keys."""
        with self._write() as db:
            db.execute(
                "INSERT OR REPLACE INTO sites VALUES (?, ?, ?, ?, ?, NULL, NULL, NULL)",
                (name, str(node_id), node_key, site_key, now),
            )

    def sites(self) -> list[SiteRow]:
        """All sites, revoked ones too, by name."""
        rows = self._rows("SELECT * FROM sites ORDER BY name")
        return [SiteRow(**{**dict(row), "node_id": int(row["node_id"])}) for row in rows]

    def site(self, name: str) -> SiteRow | None:
        """One site."""
        return next((site for site in self.sites() if site.name == name), None)

    def site_key(self, name: str) -> bytes | None:
        """The raw key with which a site signs; None for one that has never joined."""
        site = self.site(name)
        return None if site is None else site.site_key

    def site_keys(self) -> dict[str, bytes]:
        """The raw public keys of the sites that are enrolled now."""
        return {site.name: site.site_key for site in self.sites() if site.revoked_at is None}

    def set_node_id(self, name: str, node_id: int) -> None:
        """Flower knows a site's key by another number now."""
        with self._write() as db:
            db.execute("UPDATE sites SET node_id = ? WHERE name = ?", (str(node_id), name))

    def put_offer(self, name: str, offer: str, now: float) -> None:
        """A site's newest offer."""
        with self._write() as db:
            db.execute("UPDATE sites SET offer = ?, offered_at = ? WHERE name = ?", (offer, now, name))

    def revoke_site(self, name: str, now: float) -> None:
        """A site counts no longer."""
        with self._write() as db:
            db.execute("UPDATE sites SET revoked_at = ? WHERE name = ? AND revoked_at IS NULL", (now, name))

    # Tokens

    def put_token(self, user: str, token: str, now: float) -> None:
        """A user's token, as its hash; the one before is forgotten."""
        with self._write() as db:
            db.execute("DELETE FROM tokens WHERE user = ?", (user,))
            db.execute("INSERT INTO tokens VALUES (?, ?, ?)", (token, user, now))

    def drop_tokens(self, user: str) -> None:
        """A user's token counts no longer."""
        with self._write() as db:
            db.execute("DELETE FROM tokens WHERE user = ?", (user,))

    def tokens(self) -> list[tuple[str, str]]:
        """Hash and user of every token."""
        return [(row["token"], row["user"]) for row in self._rows("SELECT token, user FROM tokens")]

    # Runs

    def add_run(self, run: str, job: str, name: str, submitter: str, now: float) -> bool:
        """Remember a run, queued; False if its id was there before."""
        try:
            with self._write() as db:
                db.execute(
                    "INSERT INTO runs (run, job, name, submitter, submitted_at, state)"
                    " VALUES (?, ?, ?, ?, ?, 'queued')",
                    (run, job, name, submitter, now),
                )
        except sqlite3.IntegrityError:
            return False
        return True

    def set_run(self, run: str, state: str, outcome: str | None = None) -> None:
        """How a run stands; one that has ended is stopped no more."""
        with self._write() as db:
            db.execute(
                "UPDATE runs SET state = ?, outcome = ?, openings = 0,"
                " stopping = CASE WHEN ? IN ('finished', 'failed') THEN 0 ELSE stopping END WHERE run = ?",
                (state, outcome, state, run),
            )

    def begin_run(self, run: str) -> None:
        """A run's turn: it counts as being opened until `run_opened`."""
        with self._write() as db:
            db.execute("UPDATE runs SET state = 'running', openings = openings + 1 WHERE run = ?", (run,))

    def run_opened(self, run: str) -> None:
        """A run has asked its first site."""
        with self._write() as db:
            db.execute("UPDATE runs SET openings = 0 WHERE run = ?", (run,))

    def take_up_run(self, run: str) -> None:
        """A run that a killed process had begun waits for its turn again."""
        with self._write() as db:
            db.execute("UPDATE runs SET state = 'queued' WHERE run = ?", (run,))

    def stop_run(self, run: str) -> bool:
        """Remember that a run is to end; one that failed has another turn for it. False if it is over."""
        with self._write() as db:
            done = db.execute(
                "UPDATE runs SET stopping = 1, state = CASE state WHEN 'failed' THEN 'queued' ELSE state END"
                " WHERE run = ? AND state != 'finished'",
                (run,),
            )
            return done.rowcount == 1

    def runs(self) -> list[RunRow]:
        """All runs, the newest first."""
        return [RunRow(**row) for row in self._rows("SELECT * FROM runs ORDER BY submitted_at DESC, run")]

    def runs_before(self, row: RunRow) -> list[str]:
        """The runs that have their turn before a queued one; of any other run, none."""
        found = [other for other in reversed(self.runs()) if other.state in ("queued", "running")]
        queued = [other.run for other in found if other.state == "queued"]
        # Its turn may have come since the row was read.
        if row.run not in queued:
            return []
        return [other.run for other in found if other.state == "running"] + queued[: queued.index(row.run)]

    def run(self, run: str) -> RunRow | None:
        """One run."""
        return next((RunRow(**row) for row in self._rows("SELECT * FROM runs WHERE run = ?", (run,))), None)
