"""A person's decision about a run: on record first, then in force. For the command line and the console alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fedkit.errors import FedkitError
from fedkit_client.approvals import Approvals, Decision, require_days, require_reason
from fedkit_client.audit import record, signed_by
from fedkit_client.deciding import described
from fedkit_client.folder import SiteFolder


@dataclass(frozen=True)
class Denied:
    """A denial.

    Attributes:
        unlogged: why the audit log does not tell of it; empty where it does.
    """

    decision: Decision
    unlogged: str = ""


def approve_run(folder: SiteFolder, run: str, days: float, now: float, *, by: str = "") -> dict[str, Any]:
    """Approve exactly the job that was asked for; returns it as `described` with ``until``.

    Args:
        run: its name, or the job's digest.
        by: the console's user.

    Raises:
        DeploymentError: FK763, FK707, FK700, FK765; FK770, FK771: what is not on record is not approved.
    """
    require_days(days)
    approvals = Approvals(folder.approvals_file)
    before, found = approvals.read(), approvals.find(run)
    record(folder, "approved", run=found.run, job=found.job, dataset=found.dataset, days=days, **signed_by(by))
    _, decision = approvals.approve(found.job, days, now)
    return {**described(found, before, now), "standing": "approved", "until": decision.until}


def deny_run(folder: SiteFolder, run: str, reason: str, now: float, *, by: str = "") -> Denied:
    """Deny a run, one that was approved too; it can be approved again.

    Raises:
        DeploymentError: FK763, FK707, FK700, FK765.
    """
    require_reason(reason)
    approvals = Approvals(folder.approvals_file)
    found = approvals.find(run)
    # A log that cannot be written must keep nobody from denying.
    unlogged = ""
    try:
        record(folder, "denied", run=found.run, job=found.job, dataset=found.dataset, **signed_by(by))
    except (FedkitError, OSError) as error:
        unlogged = str(error)
    _, decision = approvals.deny(found.job, reason, now)
    return Denied(decision, unlogged)
