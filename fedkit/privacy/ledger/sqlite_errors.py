"""SQLite's errors in our words."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from fedkit.errors import PrivacyError

RESTORE = "restore a backup, then `fedkit ledger reconcile` it with the newest export"


def explained(error: sqlite3.Error, path: Path) -> PrivacyError:
    """SQLite's error in our words, with its own code."""
    name = str(getattr(error, "sqlite_errorname", ""))
    if name == "SQLITE_READONLY_ROLLBACK":
        return PrivacyError(
            f"the ledger {path} holds what a process that died had half-written, and this user may not undo it",
            code="FK336",
            remedy="open it once as a user who may write it: `fedkit ledger verify`",
        )
    if name.startswith(("SQLITE_READONLY", "SQLITE_PERM", "SQLITE_CANTOPEN", "SQLITE_AUTH")):
        return PrivacyError(
            f"the ledger {path} cannot be written ({error}); nothing was spent",
            code="FK336",
            remedy="make the file and its folder writable for this user",
        )
    if name.startswith(("SQLITE_FULL", "SQLITE_IOERR", "SQLITE_NOMEM")):
        return PrivacyError(
            f"the disk of the ledger {path} is full or failing ({error}); what was recorded before stands",
            code="FK337",
            remedy="free space, then send the same message again",
        )
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return PrivacyError(f"the ledger {path} is in use by another process", code="FK338", remedy="try again")
    if "too big" in str(error):
        return PrivacyError(f"a reply is too large for the ledger {path}", code="FK348", remedy="train a smaller model")
    return PrivacyError(f"the ledger {path} cannot be read ({error})", code="FK330", remedy=RESTORE)
