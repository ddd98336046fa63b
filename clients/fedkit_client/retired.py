"""A folder whose place another one has taken: two with one history would spend a budget twice."""

from __future__ import annotations

import time
from pathlib import Path

from fedkit.errors import DeploymentError

CLOSED = "enrolment.closed.json"
"""What `join --from` made of the old folder's enrolment."""


def require_not_retired(folder: Path) -> None:
    """Refuse a folder that was taken over by a later joining.

    Raises:
        DeploymentError: FK741.
    """
    closed = folder / CLOSED
    if not closed.exists() or (folder / "enrolment.json").exists():
        return
    # That of the file's content is of the first joining; a rename changes this one, and so does a copy.
    day = time.strftime("%Y-%m-%d", time.gmtime(closed.stat().st_ctime))
    raise DeploymentError(
        f"{folder} was closed by `fedkit client join --from` (on {day}, by its file's time): the folder that was made"
        " then has its ledgers and its place",
        code="FK741",
        remedy="start that one, and never this one, a copy or a backup of it: two would spend one budget twice",
    )
