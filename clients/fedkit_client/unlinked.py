"""A site's folder holds files, not links: what one leads to is nobody's to read, show, overwrite or delete here.

::

    FK706  a link in the place of a file or folder that fedkit keeps
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path

from fedkit.errors import DeploymentError

_KEPT = (
    "enrolment.json", "enrolment.closed.json", "authorities.jsonl", "keyring.jsonl", "ledgers", "rounds.json",
    "plans.json", "asked.json", "approvals.*", "studies", "usage.jsonl*", "withdrawals.jsonl", "rectified.jsonl",
    "pseudonym.key", "lineage.sqlite*", "audit.*", "client.pid", "state.json", "alerts.sqlite*",
    "evidence", "console_users.*", "console_wrong.json", "vault.*", "client.log*",
)  # fmt: skip
"""What fedkit makes and changes, but for a pause, which whatever lies at its place is.

`site.yaml`, certificates and keys may come from elsewhere, as a mounted secret does.
"""

_FOLDERS = ("ledgers", "evidence")
"""Whose entries are looked at too. A linked agreement in ``studies/`` is none, and can be left as any."""


def links(folder: Path) -> Iterator[Path]:
    """Links in the place of what fedkit keeps in a folder; nothing is followed."""
    for name in _entries(folder):
        if any(fnmatchcase(name, kept) for kept in _KEPT) and (folder / name).is_symlink():
            yield folder / name
    for name in _FOLDERS:
        if not (folder / name).is_symlink():
            yield from (path for each in _entries(folder / name) if (path := folder / name / each).is_symlink())


def require_unlinked(folder: Path) -> None:
    """Refuse a folder with such a link; a folder that is itself reached by one is not meant.

    Raises:
        DeploymentError: FK706.
    """
    found = list(links(folder))
    if found:
        named = ", ".join(map(str, found[:5]))
        raise DeploymentError(
            f"{named} {'is a link' if len(found) == 1 else 'are links'}, and nothing outside the site's folder is read"
            " or changed through one",
            code="FK706",
            remedy="find out who has put it there; then put the file or folder itself in its place, or take it away",
        )


def _entries(folder: Path) -> list[str]:
    # What cannot be looked at is refused by whoever needs it.
    with suppress(OSError):
        return sorted(os.listdir(folder))
    return []
