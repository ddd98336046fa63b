"""A person's word that was taken back since, as the audit log tells: a file put back from a backup brings none back.

Approvals and study agreements lie in files of the site's folder, and each decision is in the audit log too. Where the
log's newest word about a job or study takes back what the file says, the log counts. A log that says nothing about it
(it was begun anew) denies nothing; of a folder that was put back as a whole, log and all, it knows nothing.
"""

from __future__ import annotations

from fedkit.errors import DeploymentError
from fedkit.federation.study import Study
from fedkit.storage.audit_line import Line
from fedkit_client.approvals import APPROVED, Approvals
from fedkit_client.folder import SiteFolder
from fedkit_client.recalled import recalled
from fedkit_client.studies import Studies

_DAY = 86_400.0


def approval_standing(folder: SiteFolder, job: str, now: float) -> str:
    """``approved``, or why a job is not; never raises.

    Guarantee: a job that was denied after it was approved, or approved for a shorter time, is not approved by an older
    file while the log tells of it.
    """
    said = Approvals(folder.approvals_file).standing(job, now)
    if said != APPROVED:
        return said
    try:
        newest = _newest(folder, ("approved", "denied"), "job", job)
    except OSError as error:
        return f"not readable (the audit log: {error.strerror})"
    if newest is None:
        return said
    if newest.kind == "denied":
        return "denied, as the audit log tells and approvals.jsonl does not: approve it again if it shall count"
    days = newest.fields.get("days")
    # Logged before the file has it, so never sooner over than what the file says of the same decision.
    until = newest.at + days * _DAY if isinstance(days, (int, float)) else 0.0
    return said if now < until else "expired"


def signed_study(folder: SiteFolder, studies: Studies, name: str) -> Study:
    """The agreement of a study that the site has signed and not left, by its file and by the log.

    Raises:
        DeploymentError: FK780, it has left it, or has signed another text since; FK781, as `Studies.signed`, or the log
            cannot be read.
    """
    found = studies.signed(name)
    try:
        newest = _newest(folder, ("study_signed", "study_left"), "study", name)
    except OSError as error:
        raise DeploymentError(
            f"the audit log cannot be read ({error.strerror}), so nobody knows whether {name} was left",
            code="FK781",
            remedy="make it readable for the site's own user",
        ) from None
    if newest is None or (newest.kind == "study_signed" and newest.fields.get("agreement") == found.digest):
        return found
    what = "that the site has left it" if newest.kind == "study_left" else "of another text that was signed since"
    raise DeploymentError(
        f"the agreement of {name} in the folder is signed, and the audit log tells {what}",
        code="FK780",
        remedy="sign it again, if it shall count; a folder that was put back from a backup has the words of its day",
    )


def _newest(folder: SiteFolder, kinds: tuple[str, ...], field: str, value: str) -> Line | None:
    newest = None
    for line in recalled(folder, kinds):
        if line.fields.get(field) == value:
            newest = line
    return newest
