"""``deleted.json`` of a run's folder: what was deleted from it when its deadline had passed, and by which receipt.

::

    FK636  a run whose updates and journal were deleted
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fedkit.errors import RunError
from fedkit.storage.private import replace

DELETED = "deleted.json"
_FORMAT = 1


def write_deleted(path: Path, told: dict[str, Any]) -> None:
    """Say in a run's folder what is deleted from it from now on.

    Args:
        told: at, deadline (seconds since the epoch), reason, size, digest, and the audit log's line: seq, line.

    Raises:
        DeploymentError: FK700.
    """
    replace(path / DELETED, (json.dumps({"format": _FORMAT, **told}) + "\n").encode())


def require_kept(path: Path) -> None:
    """Refuse a run whose updates and journal were deleted.

    Raises:
        RunError: FK636, with the receipt.
    """
    if not (path / DELETED).exists():
        return
    try:
        told = json.loads((path / DELETED).read_text(encoding="utf-8"))
        day = datetime.fromtimestamp(told["at"], UTC).strftime("%Y-%m-%d")
        why = f"on {day} by {told['reason']}; the receipt is line {told['seq']} ({told['line']}) of its coordinator's log"
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        why = f"as {DELETED} says, which cannot be read"
    raise RunError(
        f"the updates and the journal of {path} were deleted {why}",
        code="FK636",
        remedy="its model, result, digests and report are kept; look the line up with `fedkit server log show`",
    )
