"""Runs' folders, fetched for their report into a scratch folder that goes with the process."""

from __future__ import annotations

import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from fedkit.errors import DeploymentError
from fedkit.reporting.report import write_report
from fedkit_server.archive import unpack
from fedkit_server.remote import segment


class Coordinator(Protocol):
    """What the dashboard asks; see `fedkit_server.remote.Remote`."""

    def get(self, path: str, **query: Any) -> dict[str, Any]:
        """Ask for something."""

    def post(self, path: str) -> dict[str, Any]:
        """Ask for something to be done."""

    def download(self, path: str, target: Path) -> None:
        """Stream an answer into a file."""


@dataclass(frozen=True)
class Fetched:
    """A run's report as it was when it was fetched.

    Attributes:
        at: seconds since the epoch.
    """

    html: str
    at: float


@dataclass
class Results:
    """What was fetched since the start."""

    remote: Coordinator
    _fetched: dict[str, Fetched] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def fetch(self, run: str) -> None:
        """Fetch a run's folder and make its report here, from its files alone.

        Raises:
            DeploymentError: what the coordinator refuses; an archive that cannot be unpacked.
            RunError: FK610 to FK614, nothing of it can be reported on yet.
        """
        # One at a time: a folder may be large.
        with self._lock, tempfile.TemporaryDirectory(prefix="fedkit-dashboard-") as scratch:
            file, folder = Path(scratch, "run.tar"), Path(scratch, "run")
            self.remote.download(f"/runs/{segment(run)}/archive", file)
            unpack(file, folder)
            html = write_report(folder).read_text(encoding="utf-8")
            self._fetched[run] = Fetched(html, time.time())

    def report(self, run: str) -> Fetched:
        """A report that was fetched.

        Raises:
            DeploymentError: FK722.
        """
        found = self.known(run)
        if found is None:
            raise DeploymentError(
                "the report of this run was not fetched yet", code="FK722", remedy="use the button on the run's page"
            )
        return found

    def known(self, run: str) -> Fetched | None:
        """The same, or None."""
        return self._fetched.get(run)
