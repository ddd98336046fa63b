"""Mirrors the runs of a coordinator's folder to a tracker, in a thread that only reads what the runs have written.

::

    DIR/tracking/KIND.json        how far each run was told
    DIR/tracking/tensorboard/RUN/ TensorBoard's files
    DIR/tracking/mlflow.db        MLflow's database, unless MLFLOW_TRACKING_URI names a server
"""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fedkit.errors import FedkitError, RunError
from fedkit.reporting.trackers import open_tracker
from fedkit.reporting.tracking import Mirror, Told
from fedkit.storage.private import make_folder, replace

_LOG = logging.getLogger("fedkit.tracking")
_EVERY, _MOST_SKIPPED = 2.0, 128
_FINAL = ("complete", "degraded", "stopped")
"""A run that has failed can be resumed."""


class Tracking:
    """A thread that mirrors; made by :func:`begin_tracking`.

    Guarantee: no run waits for it, and nothing that a tracker does or fails to do changes a run. After a kill a round
    may be told twice, none is left out.
    """

    def __init__(self, runs: Path, mirror: Mirror, memory: Path) -> None:
        self._runs, self._mirror, self._memory = runs, mirror, memory
        self._later: dict[str, tuple[int, int]] = {}
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._work, name="fedkit-tracking", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def close(self) -> None:
        """One last look, if it is not longer than a few seconds."""
        self._end.set()
        self._thread.join(5.0)

    def look(self) -> None:
        """Tell all that was not told; of what did not go well, less and less often."""
        folders = sorted(each for each in self._runs.iterdir() if each.is_dir() and not each.is_symlink())
        for run in folders:
            told = self._mirror.told.get(run.name)
            if told is not None and told.outcome in _FINAL:
                continue
            left, again = self._later.get(run.name, (0, 1))
            if left > 0:
                self._later[run.name] = left - 1, again
                continue
            before = None if told is None else asdict(told)
            if self._mirror.catch_up(run):
                self._later.pop(run.name, None)
            else:
                self._later[run.name] = again, min(_MOST_SKIPPED, again * 2)
            now = self._mirror.told.get(run.name)
            if now is not None and asdict(now) != before:
                self._remember()

    def _remember(self) -> None:
        told = {name: asdict(each) for name, each in self._mirror.told.items()}
        replace(self._memory, (json.dumps(told, sort_keys=True) + "\n").encode())

    def _work(self) -> None:
        while True:
            over = self._end.wait(_EVERY)
            try:
                self.look()
            except (FedkitError, OSError) as error:
                _LOG.warning("runs are not mirrored: %s", error)
            if over:
                return


def begin_tracking(kind: str, folder: Path) -> Tracking:
    """Open a tracker for a coordinator's folder, before anything of it is served.

    Raises:
        RunError: FK617, the tracker; FK611, the memory of what was told.
        DeploymentError: FK700.
    """
    place = folder / "tracking"
    if not place.is_dir():
        make_folder(place)
    memory = place / f"{kind}.json"
    return Tracking(folder / "runs", Mirror(open_tracker(kind, place), _remembered(memory)), memory)


def _remembered(path: Path) -> dict[str, Told]:
    try:
        found: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return {str(name): Told(**each) for name, each in found.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError):
        raise RunError(
            f"{path} cannot be read", code="FK611", remedy="move it away: all runs are mirrored anew"
        ) from None
