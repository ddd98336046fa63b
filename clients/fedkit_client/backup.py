"""``fedkit client backup``: a copy of a site's folder, while it runs or not.

The order is what makes the copy one that a crash could have left: the audit log first, then what its lines tell of, the
ledgers last. So every charge and every withdrawal that the copied log tells of is in the copied files, as a start
demands, and a charge that came meanwhile is in the ledger at most.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fedkit import __version__
from fedkit.errors import DeploymentError
from fedkit.storage.backup import becoming, copy_file, write_list
from fedkit_client.folder import SiteFolder
from fedkit_client.retired import CLOSED
from fedkit_client.unlinked import require_unlinked
from fedkit_client.vault_lock import unchanged

KIND = "site"
_FIRST = ("audit*",)
_OWN = (
    "site.yaml", "enrolment.json", "authorities.jsonl", "ca.crt", "node.key", "signing.key", "keyring.jsonl",
    "rounds.json", "plans.json", "asked.json", "approvals.jsonl", "usage.jsonl*", "withdrawals.jsonl",
    "rectified.jsonl", "pseudonym.key", "studies/*", "paused.json", "quarantine.json", "evidence/**/*",
    "alerts.sqlite", "console_users.json", "console_wrong.json", "client.log*", "vault.json", "lineage.sqlite",
)  # fmt: skip
_LAST = ("ledgers/*.sqlite",)
_MADE_ANEW = ("client.pid", "state.json", "*.lock", "*-journal", "*-wal", "*-shm", ".*", CLOSED)
"""What belongs to a process, and not to the folder."""


def make_backup(folder: SiteFolder, site: str, target: Path, now: float | None = None) -> dict[str, Any]:
    """Copy what fedkit keeps in a site's folder into a new folder, and look at the copy.

    Args:
        target: must not exist, and not lie in the folder.

    Returns:
        The list, and ``left_out``: files that are not fedkit's, such as a table, which are the hospital's to copy.

    Raises:
        DeploymentError: FK704, FK700, FK766; FK706, a link in the folder; FK793, its keys are being changed.
        PrivacyError: a ledger that is not what was written, or does not know a charge that the log tells of.

    Guarantee: the backup is there as a whole, on disk and read again, or not at all; nothing in the folder changes.
    """
    if target.absolute().resolve().is_relative_to(folder.path.resolve()):
        raise DeploymentError(
            f"{target} lies in the folder that is to be copied", code="FK704", remedy="name a folder on another disk"
        )
    require_unlinked(folder.path)
    at = time.time() if now is None else now
    with unchanged(folder.path), becoming(target) as scrap:
        names: list[str] = []
        for source in _sources(folder.path):
            name = source.relative_to(folder.path).as_posix()
            try:
                copy_file(source, scrap / name, live="evidence" not in Path(name).parts)
            except FileNotFoundError:
                # A pause that has just ended, a log that was just turned over: it is not there any more.
                (scrap / name).unlink(missing_ok=True)
                continue
            names.append(name)
        copied = SiteFolder(scrap)
        values = {"site": site, "fedkit": __version__, "made_at": int(at), "ledgers": _looked_at(copied)}
        made = write_list(scrap, KIND, names, values)
    return {**made, "folder": str(target), "left_out": left_out(folder.path)}


def _looked_at(copy: SiteFolder) -> dict[str, dict[str, Any]]:
    """Where each copied ledger ends, once its chain holds and it knows what the copied log tells of."""
    from fedkit.privacy.ledger.ledger import Ledger
    from fedkit_client.told_charges import require_known, told_charges

    told, found = told_charges(copy), dict[str, dict[str, Any]]()
    for path in sorted(copy.ledgers.glob("*.sqlite")):
        with Ledger(path, read_only=True) as ledger:
            dataset = path.stem
            # A kill may come between a ledger and its budget.
            own = ledger.account(dataset) if dataset in ledger.book().accounts else None
            require_known(path, dataset, own, told.get(dataset, {}))
            last = ledger.file.book.last
            found[dataset] = {"entries": last.seq, "head": last.digest} if last is not None else {}
    return found


def _sources(folder: Path) -> Iterator[Path]:
    seen = set[Path]()
    for pattern in (*_FIRST, *_OWN, *_LAST):
        for path in sorted(folder.glob(pattern)):
            if path.is_file() and not path.is_symlink() and path not in seen and not _belongs_to_a_process(path):
                seen.add(path)
                yield path


def left_out(folder: Path) -> list[str]:
    """What lies in a site's folder and is not fedkit's, such as tables and the secrets of a webhook."""
    known = set(_sources(folder))
    there = (path for path in folder.rglob("*") if not path.is_dir() and not _belongs_to_a_process(path))
    return sorted(path.relative_to(folder).as_posix() for path in there if path not in known)


def _belongs_to_a_process(path: Path) -> bool:
    # Of evidence all is kept, also what SQLite had beside a broken file.
    return "evidence" not in path.parts[:-1] and any(path.match(pattern) for pattern in _MADE_ANEW)
