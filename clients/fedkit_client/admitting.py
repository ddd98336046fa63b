"""A verified job held against the site's own file and the word of its people, before anything else is done for it."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from fedkit.errors import DeploymentError, FederationError
from fedkit.federation.enrolled import other_sites
from fedkit.federation.job import Job
from fedkit.federation.keyring import Keyring
from fedkit.governance.admission import Admitted, admit
from fedkit.governance.clauses import WAITING
from fedkit.governance.terms import SiteFile
from fedkit.storage.sealing import Vault
from fedkit_client.approvals import APPROVED, Approvals
from fedkit_client.asked import Asked, asked_run
from fedkit_client.folder import SiteFolder
from fedkit_client.plans import Plans
from fedkit_client.questions import charged_as
from fedkit_client.standing import standing_of
from fedkit_client.taken_back import approval_standing

NO_KEY = "FK585"
"""The site has not the key of what it stores; why stays there."""

_LOG = logging.getLogger("fedkit.site")


def key_of(folder: SiteFolder) -> Vault | None:
    """What seals an answer of the site's, before anything is done for it.

    Raises:
        FederationError: FK585.
    """
    try:
        return folder.vault()
    except DeploymentError as error:
        raise FederationError(f"nothing is answered: {error.message}", code=NO_KEY, remedy=error.remedy) from None


def let_in(
    job: Job, enrolments: Sequence[str], keyring: Keyring, file: SiteFile, folder: SiteFolder, now: float
) -> Admitted:
    """What the job may do here.

    Args:
        job: opened: its signature, times and config are good.
        enrolments: as they came; nothing of them is verified yet.

    Raises:
        FederationError: FK540 to FK543, the enrolments; FK560 to FK579, the site's file, or the study's agreement.
        PrivacyError: FK3xx, a plan that cannot be made.

    Guarantee: no record is read. A run that only waits for a person is noted as a request.
    """
    others = other_sites(enrolments, keyring.coordinator, job, file.site, now)
    run, own, approvals = asked_run(job, others, now), file.data.get(job.config.data.name), None
    Asked(folder.asked_file).note(run)
    approval = ""
    if own is not None and own.policy.approval == "manual":
        approvals = Approvals(folder.approvals_file)
        approval = approval_standing(folder, job.digest, now)
    charged = charged_as(job.run, job.config, job.statistics, job.study, file.site)
    standing = standing_of(folder, keyring.federation, file.site, job.study, run.dataset, charged, now)
    try:
        return admit(job.config, file, run.circumstances(now, approval, standing), Plans(folder.plans_file))
    except FederationError as error:
        # What another clause refuses for good is not worth a person's time.
        if approvals is not None and error.code in WAITING and approval != APPROVED:
            try:
                if not approvals.note(run, now):
                    _LOG.warning("run %s is not noted as a request: too many wait, or approvals.jsonl is full", job.run)
            except DeploymentError as trouble:
                _LOG.error("run %s cannot be noted as a request: %s", job.run, trouble)
        raise
