"""Under which agreement a user submits a run: the newest text, once it covers the run and every site has signed it."""

from __future__ import annotations

import time
from collections.abc import Sequence

from fedkit.config.experiment import ExperimentConfig
from fedkit.errors import DeploymentError
from fedkit.federation.study import Study, open_study, require_author
from fedkit.governance.agreement_clauses import agreed, covered
from fedkit.governance.statistics import Statistics, cost_of
from fedkit.governance.terms import NO_STUDY
from fedkit_server.remote import Remote, segment
from fedkit_server.studies import require_signed


def fetched(remote: Remote, name: str) -> Study:
    """The newest text of a study, whose author was found to be an admin of the federation.

    Raises:
        FedkitError: it cannot be had, or is not what an admin has signed.
    """
    study = open_study(str(remote.get(f"/studies/{segment(name)}").get("study")), remote.profile.federation)
    require_author(study, remote.keyring(), current=False)
    return study


def agreement_for(
    remote: Remote,
    name: str,
    config: ExperimentConfig,
    sites: Sequence[str],
    statistics: Statistics | None = None,
) -> str:
    """Digest of the agreement that a run is to be submitted under; empty for a run of no study.

    Args:
        statistics: what is asked for in place of a model.

    Raises:
        DeploymentError: FK780, no such study, a site that has not signed it, or a run that it does not cover.
    """
    if name == NO_STUDY:
        return ""
    study = fetched(remote, name)
    if study.agreement.study != name:
        raise DeploymentError(
            f"the coordinator gave {study.agreement.study} for {name}", code="FK780", remedy="ask its admin"
        )
    require_signed(study, study.digest, sites, enrolled_keys(remote))
    own = study.agreement.data.get(config.data.name)
    cost = None if statistics is None else cost_of(statistics)
    terms = covered(config, own, cost, statistics) if own else ()
    clauses = (*agreed(config, study.agreement, time.time()), *terms)
    if refused := [clause for clause in clauses if not clause.holds]:
        lines = "".join(f"\n  - {one.key}: {one.what} is {one.value}, and {name} allows {one.bound}" for one in refused)
        raise DeploymentError(f"the agreement does not cover the run{lines}", code="FK780", remedy=refused[0].remedy)
    return study.digest


def enrolled_keys(remote: Remote) -> dict[str, str]:
    """Enrolled sites to the fingerprints of their keys."""
    sites = remote.get("/sites")["sites"]
    return {str(site["name"]): str(site["key"]) for site in sites if site["state"] != "revoked"}
