"""``state.json``: how the node's loop stands, for ``status`` and the console; a small file, replaced as a whole."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedkit.errors import DeploymentError, FedkitError
from fedkit.storage.private import replace


@dataclass
class State:
    """What the loop tells others.

    Attributes:
        phase: ``starting``, ``connected``, ``retrying``, ``working``, ``stopped``.
        since: seconds since the epoch at which the phase began.
        connected_at: at which the site came to be connected, whatever it was asked since; None while it is not.
        problem: code, message and remedy of what keeps the site from its coordinator; None while nothing does.
        last: the newest message: kind, round, run, the code it was answered with ("" for a reply), when.
        answered, refused: messages since the start.
    """

    path: Path
    pid: int
    version: str
    phase: str = "starting"
    since: float = 0.0
    connected_at: float | None = None
    problem: dict[str, str] | None = None
    last: dict[str, Any] | None = None
    answered: int = 0
    refused: int = 0
    started_at: float = field(default_factory=time.time)
    clock: Callable[[], float] = time.time

    def enter(self, phase: str, problem: FedkitError | None = None) -> bool:
        """Write a new phase; returns whether anything but the time has changed."""
        said = None
        if problem is not None:
            said = {"code": problem.code, "message": problem.message, "remedy": problem.remedy}
        changed = (phase, said) != (self.phase, self.problem)
        if changed:
            self.since = self.clock()
        if phase not in ("connected", "working"):
            self.connected_at = None
        elif self.connected_at is None:
            self.connected_at = self.clock()
        self.phase, self.problem = phase, said
        self.write()
        return changed

    def took(self, kind: str, run: str, number: int, code: str) -> None:
        """Write what a message was answered with."""
        self.last = {"kind": kind, "run": run, "round": number, "code": code, "at": self.clock()}
        self.answered += not code
        self.refused += bool(code)
        self.write()

    def write(self) -> None:
        """Write the file; a full disk must not stop the loop, and shows in the next message."""
        values = {key: value for key, value in vars(self).items() if key not in ("path", "clock")}
        try:
            replace(self.path, (json.dumps(values) + "\n").encode())
        except DeploymentError:
            return


def read_state(path: Path) -> dict[str, Any] | None:
    """What the loop wrote last; None if it never ran here."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None
