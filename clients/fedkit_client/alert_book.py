"""``alerts.sqlite``: which alerts stand, and what each channel has still to be told; on disk before it is sent.

::

    FK785  the file cannot be used
    FK759  it was written by a newer fedkit
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedkit.errors import DeploymentError
from fedkit.storage.formats import require_version, write_version
from fedkit.storage.private import require_private
from fedkit_client.alert import Alert, at_least, weight
from fedkit_client.alert_facts import ChannelState

FORMAT = "fedkit-alert-1"
_TABLES_FORMAT = 1
MOST_QUEUED = 1000
"""Notices that one channel's queue holds."""

FIRST_PAUSE, LONGEST_PAUSE = 5.0, 600.0
_DAY = 86_400.0
_SCHEMA = """
CREATE TABLE IF NOT EXISTS standing (
    key TEXT PRIMARY KEY, since REAL NOT NULL, told REAL NOT NULL, severity TEXT NOT NULL, body TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS queue (
    number INTEGER PRIMARY KEY AUTOINCREMENT, channel TEXT NOT NULL, weight INTEGER NOT NULL, body TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS channels (
    name TEXT PRIMARY KEY, failures INTEGER NOT NULL, since REAL, why TEXT NOT NULL, next REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS dropped (channel TEXT NOT NULL, at REAL NOT NULL);
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""


@dataclass(frozen=True)
class Queued:
    """A notice that a channel has not taken yet.

    Attributes:
        body: JSON, as it is sent; its ``id`` is the same at every attempt.
    """

    number: int
    body: str


def notice(alert: Alert, state: str, site: str, at: float) -> str:
    """What a channel is told: JSON in ASCII on one line.

    Args:
        state: raised, repeated, cleared or test.
    """
    told = {"format": FORMAT, "id": uuid.uuid4().hex, "site": site, "state": state, "at": round(at, 3), **alert.plain()}
    return json.dumps(told, ensure_ascii=True, allow_nan=False)


@dataclass(frozen=True)
class AlertBook:
    """The file; opened for each call, so that it may be deleted at any time, which tells everything anew.

    Guarantee: an alert counts as told only in the transaction that queues it for every channel; a notice leaves the
    queue only when its channel has taken it, or a full queue or a deadline counts it as dropped.
    """

    path: Path

    def settle(
        self, alerts: Sequence[Alert], channels: Mapping[str, str], repeat: float, site: str, now: float
    ) -> list[tuple[str, Alert]]:
        """Compare what stands with what stood, and queue what is to be told.

        Args:
            channels: name to the least severity that it is told.
            repeat: seconds after which what still stands is told again.

        Returns:
            State (raised, repeated, cleared) and alert, of what was queued.

        Raises:
            DeploymentError: FK785; nothing is changed then.
        """
        told: list[tuple[str, Alert]] = []
        with self._opened() as database:
            stood = {
                row[0]: row[1:] for row in database.execute("SELECT key, since, told, severity, body FROM standing")
            }
            for alert in alerts:
                known = stood.pop(alert.key, None)
                if known is None:
                    told.append(("raised", alert))
                elif now - known[1] >= repeat:
                    told.append(("repeated", alert))
                else:
                    continue
                row = (alert.key, alert.since if known is None else known[0], now, alert.severity)
                database.execute(
                    "INSERT OR REPLACE INTO standing VALUES (?, ?, ?, ?, ?)", (*row, json.dumps(alert.plain()))
                )
            for key, (_, _, _, body) in stood.items():
                told.append(("cleared", Alert(**json.loads(body))))
                database.execute("DELETE FROM standing WHERE key = ?", (key,))
            for state, alert in told:
                for channel, least in channels.items():
                    # Its own failure is nothing that a channel can be told.
                    if at_least(alert.severity, least) and alert.about.get("channel") != channel:
                        self._queue(database, channel, alert, notice(alert, state, site, now), now)
            database.execute("DELETE FROM dropped WHERE at < ?", (now - _DAY,))
            database.commit()
        return told

    def due(self, channel: str, now: float) -> list[Queued]:
        """What a channel is to be told now, in order; nothing while it rests after a failure.

        Raises:
            DeploymentError: FK785.
        """
        with self._opened() as database:
            found = database.execute("SELECT next FROM channels WHERE name = ?", (channel,)).fetchone()
            # A clock that was put back must not keep a channel waiting for longer than it ever waits.
            if found is not None and now < found[0] <= now + LONGEST_PAUSE:
                return []
            rows = database.execute("SELECT number, body FROM queue WHERE channel = ? ORDER BY number", (channel,))
            return [Queued(*row) for row in rows]

    def took(self, channel: str, queued: Queued) -> None:
        """A channel has taken a notice.

        Raises:
            DeploymentError: FK785; it is told once more then.
        """
        with self._opened() as database:
            database.execute("DELETE FROM queue WHERE number = ?", (queued.number,))
            database.execute("DELETE FROM channels WHERE name = ?", (channel,))
            database.commit()

    def failed(self, channel: str, why: str, now: float) -> None:
        """A channel has not taken a notice, which stays first in its queue.

        Raises:
            DeploymentError: FK785.
        """
        with self._opened() as database:
            found = database.execute("SELECT failures, since FROM channels WHERE name = ?", (channel,)).fetchone()
            failures, since = found if found is not None else (0, now)
            rest = min(LONGEST_PAUSE, FIRST_PAUSE * 2.0 ** min(failures, 20))
            row = (channel, failures + 1, since, why[:200], now + rest)
            database.execute("INSERT OR REPLACE INTO channels VALUES (?, ?, ?, ?, ?)", row)
            database.commit()

    def channels(self, names: Sequence[str], now: float) -> dict[str, ChannelState]:
        """How each channel does.

        Raises:
            DeploymentError: FK785.
        """
        if not self.path.exists():
            return {name: ChannelState() for name in names}
        with self._opened() as database:
            return {name: _state(database, name, now) for name in names}

    def remember(self, facts: Mapping[str, Any]) -> None:
        """Keep plain values for :meth:`recall`.

        Raises:
            DeploymentError: FK785.
        """
        with self._opened() as database:
            rows = [(name, json.dumps(value)) for name, value in facts.items()]
            database.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?)", rows)
            database.commit()

    def recall(self) -> dict[str, Any]:
        """What was remembered; nothing where the file is not there.

        Raises:
            DeploymentError: FK785.
        """
        if not self.path.exists():
            return {}
        with self._opened() as database:
            try:
                return {name: json.loads(value) for name, value in database.execute("SELECT name, value FROM facts")}
            except ValueError:
                raise self._unusable("a fact that is no JSON") from None

    def older(self, before: float) -> list[str]:
        """What is kept from before a moment: notices that were made then, alerts that were told last then.

        Raises:
            DeploymentError: FK785.
        """
        if not self.path.exists():
            return []
        with self._opened() as database:
            return [text for _, _, text in _older(database, before)]

    def forget(self, before: float) -> None:
        """Delete that, its bytes too; a channel's notice counts as dropped, and what still stands is told anew.

        Raises:
            DeploymentError: FK785.
        """
        with self._opened() as database:
            database.execute("PRAGMA secure_delete = ON")
            for channel, key, _ in _older(database, before):
                if channel:
                    database.execute("DELETE FROM queue WHERE number = ?", (key,))
                    # By the clock of now: its loss is told for a day.
                    database.execute("INSERT INTO dropped VALUES (?, ?)", (channel, time.time()))
                else:
                    database.execute("DELETE FROM standing WHERE key = ?", (key,))
            database.commit()

    @staticmethod
    def _queue(database: sqlite3.Connection, channel: str, alert: Alert, body: str, now: float) -> None:
        held = database.execute("SELECT count(*) FROM queue WHERE channel = ?", (channel,)).fetchone()[0]
        own = weight(alert.severity)
        if held >= MOST_QUEUED:
            least = database.execute(
                "SELECT number, weight FROM queue WHERE channel = ? ORDER BY weight, number LIMIT 1", (channel,)
            ).fetchone()
            database.execute("INSERT INTO dropped VALUES (?, ?)", (channel, now))
            if least[1] > own:
                return
            database.execute("DELETE FROM queue WHERE number = ?", (least[0],))
        database.execute("INSERT INTO queue (channel, weight, body) VALUES (?, ?, ?)", (channel, own, body))

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        try:
            if not self.path.exists():
                os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600))
            require_private((self.path,))
            with closing(sqlite3.connect(self.path, timeout=10.0)) as database:
                # What was written is on disk, whatever is killed: this is the promise of the queue.
                database.execute("PRAGMA synchronous = FULL")
                require_version(database, self.path, _TABLES_FORMAT)
                database.executescript(_SCHEMA)
                write_version(database, _TABLES_FORMAT)
                yield database
        except (sqlite3.Error, OSError) as error:
            raise self._unusable(str(error)) from None

    def _unusable(self, why: str) -> DeploymentError:
        return DeploymentError(
            f"{self.path} cannot be used ({why}), so no alert is kept for its channel",
            code="FK785",
            remedy="free space on its disk; or move the file away: what stands is then told anew",
        )


def _older(database: sqlite3.Connection, before: float) -> list[tuple[str, int | str, str]]:
    """Channel, number and text of notices; nothing, key and text of alerts that stand."""
    queued = database.execute("SELECT channel, number, body FROM queue ORDER BY number").fetchall()
    found: list[tuple[str, int | str, str]] = [row for row in queued if json.loads(row[2])["at"] < before]
    stood = database.execute("SELECT key, body FROM standing WHERE told < ? ORDER BY key", (before,))
    return found + [("", key, body) for key, body in stood]


def _state(database: sqlite3.Connection, name: str, now: float) -> ChannelState:
    queued = database.execute("SELECT count(*) FROM queue WHERE channel = ?", (name,)).fetchone()[0]
    dropped = database.execute(
        "SELECT count(*) FROM dropped WHERE channel = ? AND at > ?", (name, now - _DAY)
    ).fetchone()[0]
    found = database.execute("SELECT failures, since, why FROM channels WHERE name = ?", (name,)).fetchone()
    failures, since, why = found if found is not None else (0, None, "")
    return ChannelState(queued, failures, since, why, dropped)
