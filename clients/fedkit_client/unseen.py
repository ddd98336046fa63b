"""Rounds that presumably left before a folder was put back: whose records were in them nobody at the site can tell."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from fedkit.reporting.incident import presumed_text
from fedkit_client.folder import SiteFolder
from fedkit_client.recalled import all_recalled
from fedkit_client.reconciled import presumed

RESTORED = "restored"


def unseen(folder: SiteFolder, datasets: Sequence[str], run: str = "") -> list[dict[str, Any]]:
    """Of each data set and run the rounds that its ledger was charged for after a restore and the log does not know.

    Args:
        run: this one alone.

    Raises:
        PrivacyError: a ledger that cannot be trusted.
    """
    from fedkit.privacy.ledger.ledger import Ledger

    found = []
    for name in datasets:
        if not folder.ledger(name).exists():
            continue
        with Ledger(folder.ledger(name), read_only=True) as ledger:
            gone = presumed(folder, ledger, name) if name in ledger.book().accounts else {}
        found += [{"dataset": name, "run": each, **told.plain()} for each, told in gone.items() if run in ("", each)]
    return found


def unseen_lines(found: Sequence[dict[str, Any]]) -> list[str]:
    """The same for a person, a line a run."""
    return [f"{each['run']} on {each['dataset']}: {presumed_text(each)}" for each in found]


def restores(folder: SiteFolder) -> list[dict[str, Any]]:
    """When the folder was put back, and of which time the backup was; plain JSON types.

    Raises:
        FederationError: FK593, the log is there and cannot be read.
    """
    return [
        {"at": line.at, "made_at": line.fields.get("made_at"), "exports": line.fields.get("exports")}
        for line in all_recalled(folder, (RESTORED,), "whether the folder was put back")
    ]


def restores_lines(found: Sequence[dict[str, Any]]) -> list[str]:
    """The same for a person, a line a restore."""
    return [
        f"the folder was put back at {_when(each['at'])} from the backup of {_when(each['made_at'])}: of rounds that"
        f" left between nothing is known here{' but what exports have shown' if each['exports'] else ''}"
        for each in found
    ]


def _when(seconds: Any) -> str:
    return f"{datetime.fromtimestamp(float(seconds), UTC):%Y-%m-%d %H:%M} UTC"
