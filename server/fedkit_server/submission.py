"""A run, composed and signed where the user is: its sites and their declared counts come from the sites' own offers.

::

    FK728  sites that are unknown, revoked or absent, or a quorum that they cannot make
    FK729  a site that does not offer what the run asks for
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fedkit.config.experiment import ExperimentConfig
from fedkit.errors import DeploymentError, FedkitError
from fedkit.federation.envelope import Signed
from fedkit.federation.job import LONGEST_LIFE, job_config, make_job
from fedkit.governance.clauses import Circumstances
from fedkit.governance.statistics import Statistics, cost_of
from fedkit_server.fit import Check, checks, others, presence, waiting
from fedkit_server.profile import Profile

_WEEK = 7 * 86_400.0
_OPTIONS = {"federation.min_sites": "--min-sites N", "federation.timeout": "--deadline SECONDS"}

_SIMULATED = (
    "training.device", "training.engine", "training.max_clients_at_once", "training.memory_gb", "training.workers"
)  # fmt: skip


def composed(name: str | None, overrides: Sequence[str], config_dir: Path | None) -> ExperimentConfig:
    """The experiment as it will run at sites: with secure noise where it is private.

    Raises:
        ConfigError: as ``compose``.
        DeploymentError: FK729, noise that protects nobody was asked for, or what an option says.
    """
    from fedkit.config.compose import compose

    for word in overrides:
        if option := _OPTIONS.get(word.lstrip("+").partition("=")[0]):
            raise DeploymentError(
                f"{word} has no effect on a deployed run", code="FK729", remedy=f"give {option} in its place"
            )
    if engine := [word for word in overrides if word.lstrip("+").partition("=")[0] in _SIMULATED]:
        raise DeploymentError(
            f"{engine[0]} has no effect on a deployed run, whose sites train by the reference engine, each on the"
            " device that its own file names",
            code="FK729",
            remedy="leave it out",
        )
    asked = [word for word in overrides if word.startswith("privacy.noise=") and word != "privacy.noise=secure"]
    if asked:
        raise DeploymentError(
            f"{asked[0]} protects nobody; a deployed run has secure noise",
            code="FK729",
            remedy="leave it out, or simulate: `fedkit simulate`",
        )
    config = compose(name, overrides, config_dir, models=own_models(config_dir))
    if config.privacy.mode == "none":
        return config
    return replace(config, privacy=replace(config.privacy, noise="secure"))


def require_purpose(config: ExperimentConfig) -> None:
    """Refuse a run that does not say what it is for: no site's file can name that.

    Raises:
        DeploymentError: FK729.
    """
    if config.purpose is None:
        raise DeploymentError(
            "the run has no purpose, and each site admits only purposes that its file names",
            code="FK729",
            remedy="set purpose=NAME, such as purpose=heart-disease-research",
        )


def own_models(config_dir: Path | None) -> tuple[str, ...]:
    """Names of the models in the user's own folder, ``DIR/model/NAME.yaml``: installed where the run goes, not here.

    Raises:
        ConfigError: FK102, there is no such folder.
    """
    from fedkit.config.locate import option_files, user_folder

    ours = option_files("model", None)
    return tuple(name for name in option_files("model", user_folder(config_dir)) if name not in ours)


def require_model(config: ExperimentConfig, known: Sequence[str]) -> None:
    """Refuse a model that is neither fedkit's own nor listed by the coordinator.

    Args:
        known: what the coordinator has installed beside fedkit's own.

    Raises:
        DeploymentError: FK729.
    """
    from fedkit.config.arguments import MODEL_ARGUMENTS

    if config.model.name not in (*MODEL_ARGUMENTS, *known):
        raise DeploymentError(
            f"the coordinator does not know the model {config.model.name}; beside fedkit's own it lists"
            f" {', '.join(known) or 'none'}",
            code="FK729",
            remedy="list it in the coordinator's allow.yaml and start the coordinator again: see docs/own-model.md",
        )


def with_sites(
    config: ExperimentConfig,
    sites: Sequence[Mapping[str, Any]],
    names: Sequence[str],
    min_sites: int,
    deadline: float,
    asked: Circumstances,
) -> tuple[ExperimentConfig, list[str]]:
    """The config for these sites, once each is found to be there and to offer what it asks for.

    Args:
        sites: as the API lists them.
        asked: what is asked beside the config.

    Returns:
        The config, and what keeps sites waiting: an hour, or a person there.

    Raises:
        DeploymentError: FK728, FK729; every problem of every site at once.
        FederationError: FK540, an offer that cannot be read.
    """
    by_name = {site["name"]: site for site in sites}
    if absences := list(_absences(by_name, names, min_sites)):
        remedies = dict.fromkeys(remedy for _, remedy in absences)
        raise _refused([problem for problem, _ in absences], "FK728", "; ".join(remedies))
    offers = {name: by_name[name]["offer"]["datasets"] for name in names}
    offered = {name: offers[name].get(config.data.name) for name in names}
    config = with_delta(config, list(offered.values()))

    def found(costs: Mapping[str, float]) -> list[Check]:
        return [
            check
            for name, data in offered.items()
            for check in checks(config, name, data, offers[name], others(asked, name, names), costs.get(name))
        ]

    change = "change the run, leave the site out, or ask it to change its site.yaml"
    told = found({name: cost_of(asked.statistics) for name in names} if asked.statistics else {})
    if problems := [check.problem for check in told if check.problem]:
        raise _refused(problems, "FK729", change)
    records = {name: int(data["records"]) for name, data in offered.items() if data}
    data = replace(config.data, records=records, partition=None)
    federation = replace(config.federation, min_sites=min_sites, timeout=float(deadline))
    config = replace(config, data=data, federation=federation)
    # What noise alone tells of the cost is known once there is a plan.
    by_noise = asked.statistics is None and config.privacy.mode != "none" and config.privacy.epsilon is None
    if by_noise and (problems := [check.problem for check in found(_costs(config, names)) if check.problem]):
        raise _refused(problems, "FK729", "raise privacy.noise_multiplier, or lower federation.num_rounds")
    return config, waiting(told)


def _costs(config: ExperimentConfig, names: Sequence[str]) -> dict[str, float]:
    from fedkit.training.plan import declared_plans

    plans = declared_plans(job_config(config), list(names)).sites
    return {name: plan.privacy.epsilon for name, plan in plans.items() if plan.privacy is not None}


def circumstances(profile: Profile, study: str, now: float, statistics: Statistics | None = None) -> Circumstances:
    """What a job of this user would be held against beside its config."""
    return Circumstances(now, study, profile.name, profile.key().fingerprint, statistics=statistics)


def sign(
    config: ExperimentConfig,
    profile: Profile,
    *,
    study: str,
    min_sites: int,
    deadline: float,
    now: float,
    agreement: str = "",
    statistics: Statistics | None = None,
) -> tuple[str, Signed]:
    """A run's new id, and its job signed with the profile's key.

    Args:
        agreement: digest of the study's agreement; empty for a run of no study.

    Raises:
        FedkitError: whatever a site would refuse at sight.
    """
    kind = "statistics-" if statistics is not None else ""
    run = f"{datetime.fromtimestamp(now, UTC):%Y%m%d-%H%M%S}-{kind}{config.name[:60]}-{secrets.token_hex(3)}"
    # Every round may last as long as its deadline, twice, and the coordinator may be down for days.
    lifetime = min(LONGEST_LIFE, _WEEK + 2 * config.federation.num_rounds * deadline)
    signed = make_job(
        config, federation=profile.federation, run=run, study=study, submitter=profile.name, min_sites=min_sites,
        deadline=deadline, lifetime=lifetime, key=profile.key(), now=now, models=_installed(config),
        agreement=agreement, statistics=statistics,
    )  # fmt: skip
    return run, signed


def _installed(config: ExperimentConfig) -> tuple[str, ...]:
    from fedkit.config.arguments import MODEL_ARGUMENTS

    return () if config.model.name in MODEL_ARGUMENTS else (config.model.name,)


def _absences(
    sites: Mapping[str, Mapping[str, Any]], names: Sequence[str], min_sites: int
) -> Iterator[tuple[str, str]]:
    """What is wrong, and what to do about it."""
    if len(set(names)) < len(names):
        yield "--sites names a site twice", "name each site once"
    if not 1 <= min_sites <= len(names):
        many = f"{len(names)} {'site is' if len(names) == 1 else 'sites are'}"
        most = "1" if len(names) == 1 else f"1 to {len(names)}"
        least = f"set --min-sites to {most}, or name more sites" if names else "name sites: --sites A,B"
        yield f"--min-sites is {min_sites}; {many} named", least
    for name in names:
        if problem := presence(sites.get(name), name, sites).problem:
            known = name in sites and sites[name]["state"] != "revoked"
            wait = "start the sites that are not connected, or leave them out"
            yield problem, wait if known else "`fedkit server sites` lists them: mend the name, or leave it out"


def with_delta(config: ExperimentConfig, offered: Sequence[Mapping[str, Any] | None]) -> ExperimentConfig:
    """The config with the least delta that the sites admit, where it names none."""
    deltas = [float(data["delta"]) for data in offered if data]
    if config.privacy.mode == "none" or config.privacy.delta is not None or not deltas:
        return config
    # Each site names the most that it admits.
    return replace(config, privacy=replace(config.privacy, delta=min(deltas)))


def _refused(problems: Sequence[str], code: str, remedy: str) -> FedkitError:
    text = problems[0] if len(problems) == 1 else "\n  - ".join([f"{len(problems)} problems", *problems])
    return DeploymentError(text, code=code, remedy=remedy)
