"""Under which agreement a user submits a run: the newest text, once it covers the run and every site has signed it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from fedkit.config.experiment import ExperimentConfig
from fedkit.errors import DeploymentError, FedkitError
from fedkit.federation.study import Study, open_study, require_author
from fedkit.governance.agreement_clauses import agreed, covered
from fedkit.governance.clauses import Clause
from fedkit.governance.statistics import Statistics, cost_of
from fedkit.governance.terms import NO_STUDY
from fedkit_server.fit import AGREEMENT, Check
from fedkit_server.remote import Remote, segment
from fedkit_server.studies import require_signed, unsigned

_PARTIES = "study.parties"


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
    if refused := _refused(study, config, statistics):
        lines = "".join(f"\n  - {_said(one, name)}" for one in refused)
        raise DeploymentError(f"the agreement does not cover the run{lines}", code="FK780", remedy=refused[0].remedy)
    return study.digest


def agreement_checks(remote: Remote, name: str) -> Callable[[ExperimentConfig, str], Check | None]:
    """For `preflight`: what :func:`agreement_for` would say of a run and a site; what is left of a budget it cannot."""
    if name == NO_STUDY:
        return lambda config, site: None
    try:
        study = fetched(remote, name)
    except FedkitError as error:
        gone = Check(AGREEMENT, name, "none", f"there is no agreement to go by ({error})", code="FK780")
        return lambda config, site: gone
    return checks_of(study, enrolled_keys(remote))


def checks_of(study: Study, keys: Mapping[str, str]) -> Callable[[ExperimentConfig, str], Check]:
    """The same for an agreement at hand; ``keys`` as those of :func:`enrolled_keys`."""
    name, version = study.agreement.study, f"version {study.agreement.version}"

    def check(config: ExperimentConfig, site: str) -> Check:
        alone = replace(config, data=replace(config.data, records={site: 1}))
        said = [f"{each} ({name}, {version})" for each in unsigned(study, [site], keys)]
        said += [_said(one, name) for one in _refused(study, alone) if one.key != _PARTIES]
        return Check(AGREEMENT, study.digest[:12], f"{version}, signed", "; ".join(said), code="FK780" if said else "")

    return check


def _refused(study: Study, config: ExperimentConfig, statistics: Statistics | None = None) -> list[Clause]:
    own = study.agreement.data.get(config.data.name)
    cost = None if statistics is None else cost_of(statistics)
    terms = covered(config, own, cost, statistics) if own else ()
    return [each for each in (*agreed(config, study.agreement, time.time()), *terms) if not each.holds]


def _said(one: Clause, name: str) -> str:
    return f"{one.key}: {one.what} is {one.value}, and {name} allows {one.bound}"


def enrolled_keys(remote: Remote) -> dict[str, str]:
    """Enrolled sites to the fingerprints of their keys."""
    sites = remote.get("/sites")["sites"]
    return {str(site["name"]): str(site["key"]) for site in sites if site["state"] != "revoked"}
