"""Looks at a site's files for what alerts follow from; verifies the audit log and the ledgers on the way."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC
from pathlib import Path
from typing import Any

from fedkit.errors import FedkitError, PrivacyError
from fedkit.governance.terms import SiteFile
from fedkit.storage.audit_follow import Following
from fedkit.storage.audit_verify import BrokenLog
from fedkit.storage.chain import GENESIS, Head
from fedkit_client.alert import Alert
from fedkit_client.alert_book import AlertBook
from fedkit_client.alert_facts import Budget, Facts, History
from fedkit_client.alert_rules import alerts_at
from fedkit_client.folder import SiteFolder

_LEDGER_EVERY, _CERTIFICATE_EVERY = 600.0, 86_400.0
_PASSING = ("FK336", "FK337", "FK338")
"""Of a disk or another process, not of what the ledger says."""

_START = Head(0, GENESIS)
CERTIFICATE, AUTHORITY = "coordinator's certificate", "federation's CA"


@dataclass
class Look:
    """What one process knows of a site's files; for one thread.

    Attributes:
        public: the raw key that signs the log.
        broken: what the log is not, by the last look; empty while it is good.
    """

    file: SiteFile
    folder: SiteFolder
    public: bytes
    history: History = field(default_factory=History)
    broken: str = ""
    ends: dict[str, float] = field(default_factory=dict)
    _following: Following | None = None
    _budgets: dict[str, tuple[object, float, Budget, str]] = field(default_factory=dict)
    _asked: float = float("-inf")

    def log(self, now: float, known: Head = _START) -> Head:
        """Read the log on; a broken one is read no further, and what was read before counts.

        Args:
            known: where it once ended, at the first call.
        """
        if self._following is None:
            self._following = Following(self.folder.audit, [self.public], known)
        try:
            for line in self._following.advance(now):
                self.history.take(line)
            self.broken = ""
        except BrokenLog as error:
            self.broken = f"line {error.line} {error.why}"
        except OSError as error:
            self.broken = f"it cannot be read ({error.strerror})"
        return self._following.known

    def budgets(self, now: float) -> tuple[dict[str, Budget], dict[str, str]]:
        """Each data set's budget, and what is broken of ledgers; one that has not changed is not opened again soon."""
        found, broken = dict[str, Budget](), dict[str, str]()
        for name in self.file.data:
            path = self.folder.ledger(name)
            changed, known = _stamps(path), self._budgets.get(name)
            if known is None or known[0] != changed or not 0 <= now - known[1] < _LEDGER_EVERY:
                budget, why = _budget(path, name, None if known is None else known[2])
                known = self._budgets[name] = changed, now, budget, why
            found[name] = known[2]
            if known[3]:
                broken[f"ledgers/{name}.sqlite"] = known[3]
        return found, broken

    def certificates(self, now: float, shown: Callable[[], float | None]) -> dict[str, float]:
        """Ends of certificates; the coordinator's is asked for once a day, sooner where it was not told.

        Args:
            shown: the end of the one that the coordinator shows now.
        """
        if not 0 <= now - self._asked < _CERTIFICATE_EVERY:
            self._asked = now
            if (end := authority_end(self.folder)) is not None:
                self.ends[AUTHORITY] = end
            if (end := shown()) is not None:
                self.ends[CERTIFICATE] = end
            else:
                self._asked -= _CERTIFICATE_EVERY - _LEDGER_EVERY
        return self.ends


def authority_end(folder: SiteFolder) -> float | None:
    """When the newest CA that is trusted ends; None where it cannot be read."""
    from cryptography import x509

    try:
        newest = x509.load_pem_x509_certificates(folder.authority())[-1]
        return newest.not_valid_after_utc.astimezone(UTC).timestamp()
    except (OSError, ValueError, FedkitError):
        return None


def shown_end(host: str, port: int) -> float | None:
    """When the certificate ends that the coordinator shows; None where it shows none."""
    from fedkit_client.trust import shown_certificate

    try:
        shown = shown_certificate(host, port)
    except FedkitError:
        return None
    return None if shown is None else shown.ends.timestamp()


def _budget(path: Path, name: str, before: Budget | None) -> tuple[Budget, str]:
    from fedkit.privacy import rdp_filter
    from fedkit.privacy.ledger.figures import summary
    from fedkit.privacy.ledger.ledger import Ledger

    if not path.exists():
        # A ledger that was there and is gone is no new site.
        return Budget(problem="FK330"), "there is no ledger any more" if before is not None else ""
    try:
        with Ledger(path, read_only=True, busy_seconds=1.0) as ledger:
            told = summary(ledger, name, pld=False)
    except PrivacyError as error:
        if error.code in _PASSING:
            return before if before is not None else Budget(problem=error.code), ""
        return Budget(problem=error.code), error.code
    free = max(0.0, rdp_filter.conversion(told["order"], rdp_filter.kept(told["delta"])))
    figures = {key: told[key] for key in ("spent", "held", "left", "limit", "epsilon_spent")}
    return Budget(free=free, **figures), ""


def _stamps(path: Path) -> object:
    found: list[tuple[int, int, int] | None] = []
    for each in (path, path.with_name(path.name + "-wal")):
        try:
            looked = each.stat()
            found.append((looked.st_ino, looked.st_size, looked.st_mtime_ns))
        except OSError:
            found.append(None)
    return tuple(found)


def known_head(told: Mapping[str, Any]) -> Head:
    """Where the log ended, as an alert book remembers it."""
    head = told.get("head")
    good = isinstance(head, list) and len(head) == 2 and type(head[0]) is int and isinstance(head[1], str)
    return Head(head[0], head[1]) if good and head is not None else _START


def standing(
    file: SiteFile, folder: SiteFolder, public: bytes, now: float | None = None, look: Look | None = None
) -> tuple[list[Alert], Facts]:
    """What stands now by the files alone, whether the site runs or not; writes nothing.

    Args:
        look: the caller's, of the call before: then the log is read on from there.

    Raises:
        DeploymentError: FK785, FK706.
    """
    from fedkit_client import lock
    from fedkit_client.state import read_state

    now = time.time() if now is None else now
    book, look = AlertBook(folder.alerts), look or Look(file, folder, public)
    told, state = book.recall(), read_state(folder.state_file) or {}
    look.log(now, known_head(told))
    budgets, chains = look.budgets(now)
    if look.broken:
        chains["audit.jsonl"] = look.broken
    ends = told.get("ends")
    look.ends |= ends if isinstance(ends, dict) else {}
    problem, heard = state.get("problem"), told.get("heard")
    facts = Facts(
        budgets, lock.holder(folder.pid_file) is not None, heard if isinstance(heard, (int, float)) else None,
        str(problem["code"]) if isinstance(problem, dict) and "code" in problem else "",
        look.certificates(now, lambda: None), chains, book.channels(list(file.alerts.channels), now),
        folder.quarantine.since(),
    )  # fmt: skip
    return list(alerts_at(look.history, facts, file.alerts, now)), facts
