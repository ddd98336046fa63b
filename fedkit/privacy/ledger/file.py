"""The ledger on disk: one SQLite file that holds a hash chain, the replies that may be resent, and nothing to trust.

Rollback journal, ``synchronous=EXTRA``, ``BEGIN IMMEDIATE``: when a transaction returns, all of it is in the one file
and on the disk, and processes take turns by locks on the file itself, whatever they call it. A write-ahead log would
be faster, but what is in it is lost with it, and its locks go by the name. The file must lie on a local disk: the
locks do not work over NFS or SMB.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import astuple
from pathlib import Path
from urllib.parse import quote

from fedkit.errors import PrivacyError
from fedkit.privacy.ledger.book import Book
from fedkit.privacy.ledger.facts import Fact, Opened, encode
from fedkit.privacy.ledger.place import Place, require_name
from fedkit.privacy.ledger.sealed import opened, reseal, sealed
from fedkit.privacy.ledger.sqlite_errors import RESTORE, explained
from fedkit.storage.atomic import sync_folder
from fedkit.storage.chain import ChainBroken, Entry, Head, link, verify
from fedkit.storage.sealing import Vault

_APPLICATION = 0x66656B74
_SCHEMA = f"""
PRAGMA application_id = {_APPLICATION};
PRAGMA user_version = 1;
CREATE TABLE chain (position INTEGER PRIMARY KEY, seq INTEGER NOT NULL, prev TEXT NOT NULL, body TEXT NOT NULL,
    digest TEXT NOT NULL);
CREATE INDEX by_digest ON chain (digest);
CREATE TABLE head (one INTEGER PRIMARY KEY CHECK (one = 1), seq INTEGER NOT NULL, digest TEXT NOT NULL);
CREATE TABLE replies (digest TEXT PRIMARY KEY, reply BLOB NOT NULL, state BLOB NOT NULL);
CREATE TABLE figures (key TEXT PRIMARY KEY, epsilon REAL NOT NULL);
CREATE TRIGGER chain_is_kept BEFORE DELETE ON chain BEGIN SELECT RAISE(ABORT, 'append only'); END;
CREATE TRIGGER chain_is_fixed BEFORE UPDATE ON chain BEGIN SELECT RAISE(ABORT, 'append only'); END;
"""
_BROKEN = {"altered": "FK331", "missing": "FK332", "reordered": "FK333"}


class LedgerFile:
    """An open ledger file; one for each thread, and never carried over a fork.

    Guarantee: nothing is written unless the file still is what its name leads to, and has no other name.

    Args:
        read_only: nothing is ever written, not even to make the file readable.
        busy_seconds: how long to wait for another process.
        vault: seals stored replies; nothing else needs it.

    Raises:
        PrivacyError: FK330 to FK338 and FK355, see the package.
    """

    def __init__(
        self, path: Path, *, read_only: bool = False, busy_seconds: float = 30.0, vault: Vault | None = None
    ) -> None:
        self.path, self.vault, self._read_only, self._owner = path, vault, read_only, os.getpid()
        self._appended = False
        self._place = Place(path)
        with self._explained():
            # An absolute path: a URI would take the first part of a relative one for a host.
            uri = f"file:{quote(os.fsencode(self._place.real))}?mode={'ro' if read_only else 'rw'}"
            self._sql = sqlite3.connect(uri, uri=True, timeout=busy_seconds, isolation_level=None)
        try:
            self._place.check()
            self._prepare()
            self.book = self._load()
        except BaseException:
            self._sql.close()
            raise

    def close(self) -> None:
        """Let go of the file."""
        self._sql.close()

    def refresh(self) -> Book:
        """The book, with what other processes appended since."""
        self._check_usable()
        with self._explained():
            self._sql.execute("BEGIN")
            try:
                return self._catch_up()
            finally:
                self._sql.execute("ROLLBACK")

    @contextmanager
    def writing(self) -> Iterator[Book]:
        """A transaction: exclusive among processes, on the disk once left, and nothing of it if anything fails."""
        self._check_usable()
        with self._explained():
            self._sql.execute("BEGIN IMMEDIATE")
            try:
                yield self._catch_up()
                self._place.check()
                self._sql.execute("COMMIT")
            except BaseException:
                if self._sql.in_transaction:
                    self._sql.execute("ROLLBACK")
                if self._appended:
                    # The book holds what was rolled back; only the file says what stands.
                    self.book = Book()
                raise
            finally:
                self._appended = False

    def append(self, fact: Fact, at: float) -> Entry:
        """Record a fact within a transaction."""
        entry = link(self.book.last, encode(fact, at, secrets.token_hex(16)))
        self._appended = True
        self.book.apply(entry)
        self._sql.execute("INSERT INTO chain VALUES (?, ?, ?, ?, ?)", (entry.seq, *astuple(entry)))
        self._sql.execute("INSERT OR REPLACE INTO head VALUES (1, ?, ?)", (entry.seq, entry.digest))
        return entry

    def store_reply(self, digest: str, reply: bytes, state: bytes) -> None:
        """Keep a reply's bytes and the state after it, within a transaction."""
        pair = sealed(self.vault, self.book.ledger, digest, (reply, state))
        self._sql.execute("INSERT INTO replies VALUES (?, ?, ?)", (digest, *pair))

    def reply(self, digest: str, what: str = "") -> tuple[bytes, bytes] | None:
        """The reply and state that the commit entry ``digest`` stored; FK359 where its key is missing."""
        self._check_usable()
        with self._explained():
            row = self._sql.execute("SELECT reply, state FROM replies WHERE digest = ?", (digest,)).fetchone()
        pair = row and (_blob(row[0]), _blob(row[1]))
        return pair and opened(self.vault, self.book.ledger, digest, pair, what)

    def reply_sizes(self) -> dict[str, int]:
        """Bytes that each stored reply and its state take, by their commit's digest."""
        with self._explained():
            return dict(self._sql.execute("SELECT digest, length(reply) + length(state) FROM replies"))

    def reseal(self) -> None:
        """Seal every stored reply by the vault's newest key; no page keeps what they, or deleted ones, were before."""
        with self.writing() as book:
            reseal(self._sql, self.vault, book.ledger)
        with self._explained():
            self._sql.execute("VACUUM")

    def drop_reply(self, digest: str) -> None:
        """Delete a reply and its state, within a transaction."""
        self._sql.execute("DELETE FROM replies WHERE digest = ?", (digest,))

    def entries(self) -> list[Entry]:
        """All entries, as stored."""
        self._check_usable()
        with self._explained():
            return self._rows(after=0)

    def entry(self, digest: str) -> Entry:
        """The entry with a digest that the book knows."""
        self._check_usable()
        with self._explained():
            row = self._sql.execute("SELECT seq, prev, body, digest FROM chain WHERE digest = ?", (digest,)).fetchone()
        return Entry(*row)

    def figure(self, key: str) -> float | None:
        """A figure for display that was stored before; never used to decide anything."""
        self._check_usable()
        with self._explained():
            row = self._sql.execute("SELECT epsilon FROM figures WHERE key = ?", (key,)).fetchone()
        return row and float(row[0])

    def store_figure(self, key: str, epsilon: float) -> None:
        """Keep a figure for display."""
        self._check_usable()
        with self._explained():
            self._sql.execute("INSERT OR REPLACE INTO figures VALUES (?, ?)", (key, epsilon))

    def _prepare(self) -> None:
        with self._explained():
            application = self._sql.execute("PRAGMA application_id").fetchone()[0]
            version = self._sql.execute("PRAGMA user_version").fetchone()[0]
            if application != _APPLICATION:
                raise PrivacyError(f"{self.path} is no ledger of fedkit", code="FK330", remedy="correct the path")
            if version != 1:
                raise PrivacyError(
                    f"{self.path} has format {version}; this fedkit reads format 1",
                    code="FK330",
                    remedy="use the version that wrote it, or a newer one",
                )
            # From an earlier fedkit's write-ahead log too: SQLite brings it in once nobody else has the file open.
            if not self._read_only and self._sql.execute("PRAGMA journal_mode = DELETE").fetchone()[0] != "delete":
                raise PrivacyError(
                    f"the ledger {self.path} is in use by an older fedkit", code="FK338", remedy="stop that first"
                )
            self._sql.execute("PRAGMA synchronous = EXTRA")
            self._sql.execute("PRAGMA secure_delete = ON")
            # macOS: an ordinary fsync leaves the data in the drive's cache.
            self._sql.execute("PRAGMA fullfsync = ON")

    def _load(self) -> Book:
        self.book = Book()
        return self.refresh()

    def _catch_up(self) -> Book:
        book, last = self.book, self.book.last
        stored = self._sql.execute("SELECT seq, digest FROM head").fetchone()
        if last is not None:
            row = self._sql.execute("SELECT digest FROM chain WHERE position = ?", (last.seq,)).fetchone()
            if row is None or row[0] != last.digest:
                book, last = Book(), None
        found = self._rows(after=0 if last is None else last.seq)
        try:
            verify(found, after=last, head=Head(*stored) if stored else None)
        except ChainBroken as broken:
            self.book = Book()
            raise PrivacyError(
                f"the ledger {self.path} is not as it was written: entry {broken.seq} is {broken.kind}",
                code=_BROKEN[broken.kind],
                remedy=RESTORE,
            ) from broken
        for entry in found:
            book.apply(entry)
        if book is not self.book:
            raise PrivacyError(
                f"the ledger {self.path} was replaced by another history while it was open",
                code="FK335",
                remedy=RESTORE,
            )
        if book.last is None:
            raise PrivacyError(f"the ledger {self.path} is empty", code="FK332", remedy=RESTORE)
        self.book = book
        return book

    def _rows(self, after: int) -> list[Entry]:
        rows = self._sql.execute(
            "SELECT seq, prev, body, digest FROM chain WHERE position > ? ORDER BY position", (after,)
        )
        return [Entry(int(seq), str(prev), str(body), str(digest)) for seq, prev, body, digest in rows]

    def _check_usable(self) -> None:
        if os.getpid() != self._owner:
            raise PrivacyError(
                "a ledger that was opened in another process cannot be used after a fork",
                code="FK330",
                remedy="open it again in this process",
            )
        # Before SQLite looks for a journal: beside another file it would find that file's.
        self._place.check()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise explained(error, self.path) from error


def create(path: Path, at: float) -> None:
    """Make an empty ledger: there is none, or all of it.

    Raises:
        PrivacyError: FK330, a file is there already; FK336, FK337, the folder cannot be written.
    """
    require_name(path)
    scrap = path.with_name(f".ledger-{secrets.token_hex(8)}")
    try:
        with closing(sqlite3.connect(scrap, isolation_level=None)) as sql:
            sql.executescript(_SCHEMA)
            first = link(None, encode(Opened(secrets.token_hex(16)), at, secrets.token_hex(16)))
            sql.execute("INSERT INTO chain VALUES (1, ?, ?, ?, ?)", astuple(first))
            sql.execute("INSERT INTO head VALUES (1, 1, ?)", (first.digest,))
        scrap.chmod(0o600)
        # A hard link, unlike a rename, never replaces a ledger that another process has just made.
        os.link(scrap, path)
        scrap.unlink()
        sync_folder(path.parent)
    except FileExistsError as error:
        raise PrivacyError(
            f"there is a file at {path} already; a new ledger would forget what it has spent",
            code="FK330",
            remedy="open it, or choose another path",
        ) from error
    except sqlite3.Error as error:
        raise explained(error, path) from error
    except OSError as error:
        code = "FK337" if error.errno == 28 else "FK336"
        remedy = "free space" if code == "FK337" else "choose a folder that this user may write, and a shorter path"
        raise PrivacyError(f"{path} cannot be created: {error.strerror}", code=code, remedy=remedy) from error
    finally:
        with suppress(OSError):
            scrap.unlink()


def may_write(path: Path) -> bool:
    """Whether a ledger can be written by this user: its file, and its folder for the journal."""
    return os.access(path, os.W_OK) and os.access(path.absolute().parent, os.W_OK)


def _blob(value: object) -> bytes:
    # Something else in its place is no reply; the digest will not match either.
    return value if isinstance(value, bytes) else b""
