"""What a site stores beyond its deadline: found, told in the audit log, deleted, in this order."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fedkit.governance.retention import DAY, Retention
from fedkit.storage.audit_line import Event, Scalar
from fedkit.storage.stamped_lines import cut
from fedkit_client import evidence_kept, lineage, usage
from fedkit_client.alert_book import AlertBook
from fedkit_client.folder import SiteFolder
from fedkit_client.studies import studies_of, summaries
from fedkit_client.unlinked import require_unlinked

KIND = "deleted"
"""Of the receipt in the audit log."""


@dataclass(frozen=True)
class Due:
    """What is to be deleted.

    Attributes:
        what: one of `fedkit.governance.retention.KEPT`.
        name: a file's, for logs, caches and alerts; a folder's, for evidence.
        deadline: seconds since the epoch, whole, at which it passed, of the newest of what it counts; for logs and
            alerts, the moment before which they were written.
        reason: whose bound it was.
        digest: SHA-256 of what is deleted; for replies, over the digests that the ledger's chain has of them.
        size: bytes.
        newest: when the newest of it was written, seconds since the epoch.
    """

    what: str
    deadline: int
    reason: str
    digest: str
    size: int
    count: int
    dataset: str = ""
    run: str = ""
    name: str = ""
    newest: int = 0

    def receipt(self) -> Event:
        """As the audit log has it, before it is deleted."""
        said: dict[str, Scalar] = {
            key: value for key, value in asdict(self).items() if value not in ("", 0) or key == "size"
        }
        return Event(KIND, said)


def due(folder: SiteFolder, site: str, retention: Retention, now: float) -> list[Due]:
    """All that is beyond its deadline.

    Raises:
        FedkitError: a ledger, agreement or lineage that cannot be read: of what cannot be told nothing is deleted.
    """
    # A link may have come since the site has started.
    require_unlinked(folder.path)
    agreed = _agreed(folder, site)
    found = [*_replies(folder, retention, agreed, now), *_lineage(folder, retention, now)]
    for path, how in _texts(folder):
        found += _lines(path, how, retention, now)
    return [
        *found,
        *_caches(folder, retention, now),
        *_alerts(folder, retention, now),
        *_evidence(folder, retention, now),
    ]


def delete(folder: SiteFolder, each: Due) -> None:
    """Delete it, its bytes in files of SQLite too; what has gone before is gone.

    Raises:
        FedkitError: it cannot be; it is found again; FK787, the site is quarantined: it may be evidence.
        OSError: the disk.
    """
    folder.quarantine.refuse()
    if each.what in ("replies", "statistics"):
        from fedkit.privacy.ledger.ledger import Ledger

        with Ledger(folder.ledger(each.dataset)) as ledger:
            ledger.prune(each.dataset, each.run)
    elif each.what == "lineage":
        lineage.forget(folder, each.dataset, each.run, each.newest)
    elif each.what == "logs":
        path = folder.path / each.name
        dict(_texts(folder))[path](path, each.deadline, True)
    elif each.what == "alerts":
        AlertBook(folder.alerts).forget(each.deadline)
    elif each.what == "evidence":
        evidence_kept.remove(folder, each.name)
    else:
        (folder.path / each.name).unlink(missing_ok=True)


def purge(
    folder: SiteFolder, site: str, retention: Retention, now: float, tell: Callable[[Event], object]
) -> list[Due]:
    """Delete all that is due, each after its receipt.

    Args:
        tell: writes a receipt durably, or raises: then nothing more is deleted.

    Raises:
        FedkitError: as :func:`due`, :func:`delete` and ``tell``.
    """
    found = due(folder, site, retention, now)
    for each in found:
        folder.quarantine.refuse()
        tell(each.receipt())
        delete(folder, each)
    return found


def plain(found: list[Due]) -> list[dict[str, Any]]:
    """For ``--json``, and over a frame's header."""
    return [asdict(each) for each in found]


def _agreed(folder: SiteFolder, site: str) -> Mapping[str, int | None]:
    """Study to the days of its agreement, as far as it can be read; one that was left binds too."""
    return {told["study"]: told.get("retention_days") for told in summaries(studies_of(folder, site))}


def _replies(folder: SiteFolder, retention: Retention, agreed: Mapping[str, int | None], now: float) -> Iterator[Due]:
    from fedkit.privacy.ledger.ledger import Ledger
    from fedkit.privacy.ledger.stored import stored

    if not retention.days and not agreed:
        return
    for path in sorted(folder.ledgers.glob("*.sqlite")):
        with Ledger(path, clock=lambda: now) as ledger:
            for each in stored(ledger):
                what = "statistics" if each.statistics else "replies"
                own, study = retention.days.get(what), agreed.get(each.study)
                days, since = retention.strictest(what, study), each.newest if each.statistics else each.over
                if days is None or each.over is None or since is None or since + days * DAY > now:
                    continue
                reason = f"retention.{what}" if own == days else f"study {each.study}"
                yield Due(
                    what, int(since + days * DAY), reason, each.digest, each.size, each.count, each.dataset, each.run
                )


def _lineage(folder: SiteFolder, retention: Retention, now: float) -> Iterator[Due]:
    days = retention.days.get("lineage")
    if days is None:
        return
    for dataset, run, newest, digest, size, count in lineage.older(folder, now - days * DAY):
        yield Due("lineage", newest + days * DAY, "retention.lineage", digest, size, count, dataset, run, newest=newest)


Cut = Callable[[Path, float, bool], bytes]
"""The lines of a file that were written before a moment; which are taken out of it if the flag says so."""


def _texts(folder: SiteFolder) -> Iterator[tuple[Path, Cut]]:
    for path, how in ((folder.log, cut), (folder.usage, usage.cut)):
        yield path.with_name(f"{path.name}.1"), how
        yield path, how


def _lines(path: Path, how: Cut, retention: Retention, now: float) -> Iterator[Due]:
    days = retention.days.get("logs")
    if days is None:
        return
    with suppress(FileNotFoundError):
        gone = how(path, int(now) - days * DAY, False)
        if gone:
            digest, count = hashlib.sha256(gone).hexdigest(), gone.count(b"\n")
            # The bound by which `delete` finds the same lines again.
            yield Due("logs", int(now) - days * DAY, "retention.logs", digest, len(gone), count, name=path.name)


def _caches(folder: SiteFolder, retention: Retention, now: float) -> Iterator[Due]:
    days = retention.days.get("caches")
    for path in (folder.asked_file, folder.plans_file):
        if days is None or not path.exists():
            continue
        content, changed = path.read_bytes(), path.stat().st_mtime
        if changed + days * DAY <= now:
            digest = hashlib.sha256(content).hexdigest()
            yield Due("caches", int(changed + days * DAY), "retention.caches", digest, len(content), 1, name=path.name)


def _alerts(folder: SiteFolder, retention: Retention, now: float) -> Iterator[Due]:
    days = retention.days.get("alerts")
    if days is None:
        return
    before = int(now) - days * DAY
    texts = AlertBook(folder.alerts).older(before)
    if texts:
        content = "".join(f"{text}\n" for text in texts).encode()
        digest = hashlib.sha256(content).hexdigest()
        yield Due("alerts", before, "retention.alerts", digest, len(content), len(texts), name=folder.alerts.name)


def _evidence(folder: SiteFolder, retention: Retention, now: float) -> Iterator[Due]:
    days = retention.days.get("evidence")
    if days is None:
        return
    for name, since in evidence_kept.ended(folder):
        if since + days * DAY <= now:
            digest, size, count = evidence_kept.described(folder, name)
            yield Due("evidence", int(since + days * DAY), "retention.evidence", digest, size, count, name=name)


def read_due(values: Any) -> list[Due]:
    """What :func:`plain` gave."""
    return [Due(**each) for each in json.loads(json.dumps(values))]
