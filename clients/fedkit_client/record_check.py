"""What ``fedkit client doctor`` and a start say of the lineage and of the audit log."""

from __future__ import annotations

from typing import Any

from fedkit.errors import DeploymentError, FedkitError
from fedkit_client.audit import examined
from fedkit_client.before_logs import logs_before
from fedkit_client.check import Check, failed, tried
from fedkit_client.left import logs_of
from fedkit_client.lineage import require_usable
from fedkit_client.start import Opened

MOST_LOG = 256 * 2**20
"""Bytes of logs that are verified on the way, in some seconds; longer ones take `fedkit client log verify`."""

_NAME = "audit log"
_REMEDY = (
    "whoever altered it could alter what else is here: `fedkit client quarantine SITE.yaml --reason TEXT` and"
    " `fedkit client log verify SITE.yaml`; only then put the whole folder back from its backup (docs/for-it.md)"
)


def lineage_check(opened: Opened) -> Check:
    """Whether a round can write down whom it has read, which it must before it answers."""
    try:
        opened.folder.vault()
    except DeploymentError as error:
        # Closed, not broken: to put it back from a backup would lose rounds.
        return Check("lineage", "fail", f"it was not looked at: {error.message}", error.remedy)
    return tried("lineage", lambda: require_usable(opened.folder))


def log_check(opened: Opened) -> Check:
    """Whether the log is what was written, and those of the folders before."""
    folder = opened.folder
    try:
        size = sum(path.stat().st_size for path in logs_of(folder.path))
        if size > MOST_LOG:
            text = f"the log was not verified: it is {size / 2**20:,.0f} MiB long"
            return Check(_NAME, "warn", text, "`fedkit client log verify SITE.yaml` takes the time")
        found = {folder.audit.name: examined(folder), **logs_before(folder)}
    except OSError as error:
        return Check(
            _NAME, "fail", f"the log cannot be read ({error.strerror})", "make it readable for the site's user"
        )
    except FedkitError as error:
        return failed(_NAME, error)
    broken = [f"{name} is not what was written: {_why(told)}" for name, told in found.items() if not told["good"]]
    if broken:
        return Check(_NAME, "fail", "; ".join(broken), _REMEDY)
    return Check(_NAME, "ok", f"{sum(told['lines'] for told in found.values()):,} lines are as they were written")


def _why(told: dict[str, Any]) -> str:
    return f"line {told['line']} {told['why']}" if told.get("line") else str(told["why"])


def log_remarks(opened: Opened) -> list[str]:
    """The same as a warning before a start; a site that has no log yet is about to begin one."""
    if not opened.folder.audit.exists():
        return []
    found = log_check(opened)
    return [f"{found.found}; {found.remedy}"] if found.state == "fail" else []
