"""What a coordinator keeps of runs beyond its deadline: recorded updates and journals go, model and evidence stay.

The deadline is the strictest of ``retention_days`` in ``server.json`` and of the run's study agreement, from the end of
the run on.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fedkit.errors import DeploymentError, FedkitError
from fedkit.governance.retention import DAY
from fedkit.governance.terms import NO_STUDY
from fedkit.runs.deleted import DELETED, write_deleted
from fedkit.runs.directory import UPDATES
from fedkit.storage.atomic import sync_folder
from fedkit.storage.audit_line import Event, Scalar
from fedkit.storage.audit_verify import readable_lines
from fedkit.storage.chain import Head
from fedkit_server.folder import ServerFolder
from fedkit_server.store import RunRow, Store
from fedkit_server.studies import Studies

KIND = "deleted"
_PARTS = (UPDATES, "journal")
_OVER = ("finished", "stopped", "failed")
_ENDED = ("run_ended", "run_stopped")


@dataclass(frozen=True)
class Due:
    """A run of which something is to be deleted.

    Attributes:
        deadline: seconds since the epoch.
        reason: whose bound it was.
        digest: SHA-256 over the names, sizes and SHA-256 of its files, in their order.
    """

    run: str
    deadline: int
    reason: str
    digest: str
    size: int
    count: int

    def receipt(self) -> Event:
        """As the audit log has it."""
        said: dict[str, Scalar] = {"what": "updates and journal", **asdict(self)}
        return Event(KIND, said)


def due(folder: ServerFolder, store: Store, now: float) -> list[Due]:
    """Runs that are over, beyond their deadline, and of which updates or a journal are still there.

    Raises:
        FedkitError: a study's text, the log or a run's job that cannot be read: then nobody knows the deadline.
    """
    settings = folder.settings()
    studies, ended = Studies(folder.path / "studies", settings.federation), _ended(folder)
    found = []
    for row in store.runs():
        path = folder.runs / row.run
        files = list(_files(path))
        if row.state not in _OVER or not (files or any((path / part).exists() for part in _PARTS)):
            continue
        bounds = [(settings.retention_days, "retention_days of server.json"), *_agreed(studies, row)]
        known = [(days, why) for days, why in bounds if days is not None]
        if not known:
            continue
        days, why = min(known)
        deadline = int(ended.get(row.run, row.submitted_at) + days * DAY)
        if deadline <= now:
            digest, size = _digest(path, files)
            found.append(Due(row.run, deadline, why, digest, size, len(files)))
    return found


def purge(folder: ServerFolder, store: Store, now: float, tell: Callable[[Event], Head]) -> list[Due]:
    """Delete all that is due, each after its receipt.

    Args:
        tell: appends to the audit log, or raises: then nothing more is deleted.

    Raises:
        FedkitError: as :func:`due` and ``tell``; FK700, the disk.

    Guarantee: a run that is opened meanwhile keeps what it needs, or is refused; a kill leaves a receipt whose deletion
    the next purge ends, with a receipt of its own for what was left.
    """
    done = []
    for each in due(folder, store, now):
        path = folder.runs / each.run
        fresh = not (path / DELETED).exists()
        head = tell(each.receipt())
        write_deleted(path, {"at": int(now), **asdict(each), "seq": head.seq, "line": head.digest})
        # Whoever opens the run sets its state before it looks for the file; whoever writes the file looks at the state.
        row = store.run(each.run)
        if fresh and (row is None or row.state not in _OVER):
            (path / DELETED).unlink()
            continue
        try:
            for part in _PARTS:
                if (path / part).exists():
                    shutil.rmtree(path / part)
            sync_folder(path)
        except OSError as error:
            raise DeploymentError(
                f"{path} cannot be cleared: {error.strerror}",
                code="FK700",
                remedy="run it as the folder's owner, again",
            ) from None
        done.append(each)
    return done


def plain(found: list[Due]) -> list[dict[str, Any]]:
    """For ``--json``."""
    return [asdict(each) for each in found]


def _ended(folder: ServerFolder) -> dict[str, float]:
    """Run to when it ended, as the audit log tells; the last time counts."""
    if not folder.audit.exists():
        return {}
    return {str(line.fields.get("run")): line.at for line in readable_lines(folder.audit, _ENDED)}


def _agreed(studies: Studies, row: RunRow) -> list[tuple[int | None, str]]:
    try:
        study = json.loads(json.loads(row.job)["payload"])["study"]
    except (ValueError, KeyError, TypeError):
        raise DeploymentError(f"the job of {row.run} cannot be read", code="FK705") from None
    if study == NO_STUDY:
        return []
    try:
        return [(studies.newest(study).agreement.retention_days, f"the agreement of {study}")]
    except FedkitError as error:
        if error.code == "FK780":
            return []
        raise


def _files(path: Path) -> Iterator[Path]:
    for part in _PARTS:
        yield from sorted(each for each in (path / part).rglob("*") if each.is_file() and not each.is_symlink())


def _digest(path: Path, files: list[Path]) -> tuple[str, int]:
    found, size = hashlib.sha256(), 0
    for each in files:
        with each.open("rb") as file:
            inner = hashlib.file_digest(file, "sha256").hexdigest()
        length = each.stat().st_size
        found.update(f"{each.relative_to(path)} {length} {inner}\n".encode())
        size += length
    return found.hexdigest(), size
