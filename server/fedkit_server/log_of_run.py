"""A run's events: one JSON line each, numbered, for whoever watches."""

from __future__ import annotations

import json
import logging
import threading
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fedkit.federation.events import Event

EVENTS = "events.jsonl"
_SHOWN = {"at", "kind", "round", "site"}
_LOG = logging.getLogger("fedkit.server")


@dataclass
class RunLog:
    """The events of one run; may be called from any thread."""

    path: Path
    _lines: list[dict[str, Any]] = field(default_factory=list)
    _unwritten: str = ""
    _asked: dict[tuple[int, str], float] = field(default_factory=dict)
    _changed: threading.Condition = field(default_factory=threading.Condition)

    @classmethod
    def open(cls, folder: Path) -> RunLog:
        """The log in a run's folder, with what it holds; lines that cannot be read are passed over."""
        log = cls(folder / EVENTS)
        if log.path.is_file():
            content = log.path.read_bytes()
            found = [entry for line in content.splitlines() if (entry := _entry(line)) is not None]
            log._lines = [{**entry, "n": number} for number, entry in enumerate(found, 1)]
            # Whatever is appended next must begin a line of its own.
            log._unwritten = "" if content.endswith(b"\n") or not content else "\n"
        return log

    def add(self, event: Event, **more: Any) -> None:
        """One more event.

        Guarantee: a disk that takes nothing ends nothing; what could not be written is, with the next event.
        """
        now = time.time()
        with self._changed:
            entry = {"n": len(self._lines) + 1, "at": round(now, 3), **asdict(event), **more}
            if event.kind == "asked":
                self._asked[event.round, event.site] = now
            elif event.kind == "received" and (event.round, event.site) in self._asked:
                entry["seconds"] = round(now - self._asked[event.round, event.site], 3)
            self._lines.append(entry)
            text = self._unwritten + json.dumps(entry) + "\n"
            try:
                with self.path.open("a", encoding="utf-8") as file:
                    file.write(text)
                self._unwritten = ""
            except OSError as error:
                _LOG.error("%s takes no event: %s", self.path, error.strerror)
                # A part of it may have been written.
                self._unwritten = "\n" + text.removeprefix("\n")
            self._changed.notify_all()

    def after(self, number: int) -> list[dict[str, Any]]:
        """What happened after the event of that number."""
        with self._changed:
            return list(self._lines[max(0, number) :])

    def wait(self, number: int, timeout: float) -> list[dict[str, Any]]:
        """The same, waiting until there is something or the time is over."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._lines) > number, timeout)
            return list(self._lines[max(0, number) :])


def _entry(line: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and found.keys() >= _SHOWN else None
