"""How far a run has come, as its folder says: whatever process did the work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fedkit.errors import FedkitError
from fedkit.federation import strict_json
from fedkit.federation.envelope import read

_METRICS, _USAGE = "metrics.jsonl", "usage.json"


def progress_of(job: str, folder: Path) -> dict[str, Any]:
    """``round`` (the last that ended), ``rounds`` (all of the job's; None if it cannot be read) and ``bytes``.

    Args:
        job: the envelope's text; it was verified when the run was submitted.
        folder: the run's; it need not be there.
    """
    return {"round": _last_round(folder / _METRICS), "rounds": _rounds(job), "bytes": _received(folder / _USAGE)}


def _last_round(path: Path) -> int:
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError:
        return 0
    # What follows the last line break was cut off by a kill.
    for line in reversed(lines[:-1]):
        try:
            return int(json.loads(line)["round"])
        except (ValueError, KeyError, TypeError):
            continue
    return 0


def _rounds(job: str) -> int | None:
    try:
        said = strict_json.read(read(job).payload, "the job")
        # Statistics are no rounds.
        return 0 if "statistics" in said else int(said["config"]["federation"]["num_rounds"])
    except (FedkitError, KeyError, TypeError, ValueError):
        return None


def _received(path: Path) -> int:
    try:
        return sum(int(size) for size in json.loads(path.read_bytes())["bytes_received"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return 0
