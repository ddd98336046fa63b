"""A job: one run's whole config, signed by the user who submits it; what a coordinator can carry and not alter.

::

    FK540 to FK543, FK547  as in `envelope` and `keyring`
    FK546  a config that a job cannot carry: a path, a source of its own, seeded noise, ...
    FK101  a config that is wrong in itself
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from fedkit.config.experiment import ExperimentConfig, SourceConfig
from fedkit.config.serialize import from_dict, to_dict
from fedkit.data.names import require_site_names
from fedkit.data.table import name_text
from fedkit.errors import DataError, FederationError
from fedkit.federation import strict_json
from fedkit.federation.envelope import WIRE, Signed, check_times, read, seal, unseal
from fedkit.federation.keyring import Keyring
from fedkit.governance.statistics import Statistics, statistics_of
from fedkit.governance.terms import NO_STUDY
from fedkit.storage.keys import SigningKey

SOURCE = SourceConfig("site")
"""The one source that a job may name: each site's own."""

LONGEST_LIFE = 366 * 86_400.0
SKEW = 300.0
"""Seconds by which the signer's clock may be ahead of the reader's."""

LONGEST_DEADLINE = 30 * 86_400.0
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
"""What a run, a study, an experiment and a user may be called."""

_DEFAULTS = {"runs_dir": "runs", "ledgers_dir": None}
_FIELDS: Mapping[str, type | tuple[type, ...]] = {
    "wire": int, "federation": str, "run": str, "name": str, "study": str, "submitter": str, "issued_at": int,
    "expires_at": int, "min_sites": int, "deadline": strict_json.NUMBER, "config": dict,
}  # fmt: skip
_OPTIONAL: Mapping[str, type | tuple[type, ...]] = {"agreement": str, "statistics": dict}
"""Left out where a job has none, so that all others read as they did before there were any."""
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Job:
    """A job whose signature, times and config were found good.

    Attributes:
        federation: fingerprint of the federation's CA.
        run: unique for ever: ledgers know the run by it.
        study: which study it belongs to, for the sites' ledgers.
        submitter: the user's name in the keyring.
        min_sites: a round with fewer replies fails.
        deadline: seconds that a round waits for absent sites.
        config: the whole experiment; its source is each site's own.
        agreement: digest of the study agreement that it is submitted under; empty where it names none.
        digest: SHA-256 of the payload, hex; orders name the job by it.
        statistics: what is asked of the config's data set in place of a model; None for a run.
    """

    federation: str
    run: str
    name: str
    study: str
    submitter: str
    issued_at: int
    expires_at: int
    min_sites: int
    deadline: float
    config: ExperimentConfig
    signed: Signed
    agreement: str = ""
    statistics: Statistics | None = None

    @property
    def digest(self) -> str:
        """SHA-256 of the payload, hex."""
        return self.signed.digest

    @property
    def sites(self) -> tuple[str, ...]:
        """The sites that the job is for, in its order."""
        return tuple(self.config.data.records)


def job_config(config: ExperimentConfig) -> ExperimentConfig:
    """The config as a job carries it: without folders, and without what is each site's (source, column, partition)."""
    data = replace(config.data, source=SOURCE, site_column=None, partition=None)
    federation = replace(config.federation, policies=None)
    return replace(config, data=data, federation=federation, runs_dir=str(_DEFAULTS["runs_dir"]), ledgers_dir=None)


def make_job(
    config: ExperimentConfig,
    *,
    federation: str,
    run: str,
    study: str,
    submitter: str,
    min_sites: int,
    deadline: float,
    lifetime: float,
    key: SigningKey,
    now: float,
    models: Collection[str] = (),
    agreement: str = "",
    statistics: Statistics | None = None,
) -> Signed:
    """Sign a run for a federation.

    Args:
        config: any composed config; see :func:`job_config` for what is left out of it.
        federation: fingerprint of the federation's CA.
        run: a name that no other run ever has.
        deadline: seconds that a round waits for absent sites.
        lifetime: seconds for which sites take orders for it.
        now: seconds since the epoch.
        models: names of further models that the coordinator and the sites have installed.
        agreement: digest of the study's agreement; empty for a run of no study.
        statistics: what is asked for in place of a model.

    Raises:
        FederationError: FK540, FK543, FK546, whatever `open_job` would refuse.
        ConfigError: FK101, likewise.
    """
    carried = job_config(config)
    values = {
        "federation": federation,
        "run": run,
        "name": carried.name,
        "study": study,
        "submitter": submitter,
        "issued_at": int(now),
        "expires_at": int(now + lifetime),
        "min_sites": min_sites,
        "deadline": deadline,
        "config": to_dict(carried),
        **({"agreement": agreement} if agreement else {}),
        **({"statistics": statistics.as_dict()} if statistics is not None else {}),
    }
    signed = seal("job", values, key)
    _job(signed, {"wire": WIRE, **values}, federation, now, models)
    return signed


def open_job(text: str, keyring: Keyring, federation: str, now: float, *, models: Collection[str] = ()) -> Job:
    """Read and verify a job.

    Args:
        federation: fingerprint of the CA that the reader belongs to.
        models: names of further models that the reader has installed.

    Raises:
        FederationError: see the module.
        ConfigError: FK101.

    Guarantee: a current operator or admin of the federation signed exactly this config, and it names no path, URL,
    query, folder or environment variable. It is parsed by the schema alone.
    """
    signed = read(text)
    member = keyring.signer(signed.key, "operator")
    job = _job(signed, unseal(signed, "job", member.public), federation, now, models)
    if job.submitter != member.name:
        raise FederationError(
            f"the job names {job.submitter!r} as its submitter, and {member.name} signed it",
            code="FK541",
            remedy="sign the job under your own name",
        )
    return job


def _job(signed: Signed, payload: Mapping[str, Any], federation: str, now: float, models: Collection[str]) -> Job:
    further = {name: kind for name, kind in _OPTIONAL.items() if name in payload}
    values = strict_json.fields(dict(payload), {**_FIELDS, **further}, "the job")
    if values["federation"] != federation:
        raise FederationError("the job is for another federation", code="FK542", remedy="submit it to its own")
    check_times("job", values["issued_at"], values["expires_at"], now, longest=LONGEST_LIFE, skew=SKEW)
    for name in ("run", "name", "study", "submitter"):
        if not NAME.fullmatch(values[name]):
            raise strict_json.unreadable("the job", f"has a {name} that is no 1 to 100 letters, digits, . _ and -")
    if "agreement" in further and (values["study"] == NO_STUDY or not _DIGEST.fullmatch(values["agreement"])):
        raise strict_json.unreadable("the job", "names an agreement that is no digest, or is of no study")
    _refuse(_raw_problems(values["config"]))
    config = from_dict(values["config"], python=False, models=models)
    _refuse(_problems(config))
    if values["name"] != config.name:
        raise strict_json.unreadable("the job", "has another name than its config")
    sites, deadline = len(config.data.records), values["deadline"]
    if not 1 <= values["min_sites"] <= sites:
        raise strict_json.unreadable(
            "the job", f"has min_sites {values['min_sites']}; its {sites} sites allow 1 to that"
        )
    if not 1 <= deadline <= LONGEST_DEADLINE:
        raise strict_json.unreadable(
            "the job", f"has a deadline of {deadline} s; 1 to {LONGEST_DEADLINE:.0f} are allowed"
        )
    found = {name: values[name] for name in _FIELDS if name not in ("wire", "deadline", "config")}
    agreement = values["agreement"] if "agreement" in further else ""
    statistics = _statistics(values["statistics"]) if "statistics" in further else None
    return Job(
        **found, deadline=float(deadline), config=config, signed=signed, agreement=agreement, statistics=statistics
    )


def _statistics(values: Mapping[str, Any]) -> Statistics:
    try:
        return statistics_of(values)
    except ValueError as error:
        raise strict_json.unreadable("the job", f"asks for statistics and {error}") from None


def _raw_problems(config: Mapping[str, Any]) -> Iterator[str]:
    """What no job may hold, looked at before the schema: its messages would be about something else."""
    data = config.get("data")
    source = data.get("source") if isinstance(data, dict) else None
    if isinstance(data, dict) and source != _plain_source() and source != {"kind": "site"}:
        yield "data.source is not {kind: site}; each site reads its own table"
    if isinstance(data, dict) and data.get("site_column") is not None:
        yield "data.site_column is set; each site's own file names its column"
    federation = config.get("federation")
    if isinstance(federation, dict) and federation.get("policies") is not None:
        yield "federation.policies is set; folders are each site's own"
    if isinstance(federation, dict) and (federation.get("kind") == "ray" or federation.get("address") is not None):
        yield "federation.kind is ray, or federation.address is set; sites train by themselves, never in a cluster"
    for key, value in _DEFAULTS.items():
        if config.get(key, value) != value:
            yield f"{key} is set; folders are each site's own"


def _problems(config: ExperimentConfig) -> Iterator[str]:
    for name in config.data.records:
        try:
            require_site_names([name])
        except DataError as error:
            yield f"data.records: {error.message}"
    if len(set(map(name_text, config.data.records))) < len(config.data.records):
        yield "data.records names a site twice, in two spellings; name each once"
    if config.privacy.mode != "none" and config.privacy.noise != "secure":
        yield f"privacy.noise is {config.privacy.noise}, which protects nobody; set privacy.noise=secure"


def _refuse(problems: Iterator[str]) -> None:
    if found := list(problems):
        raise FederationError("; ".join(found), code="FK546", remedy="submit the config with `fedkit server submit`")


def _plain_source() -> dict[str, Any]:
    return {name: getattr(SOURCE, name) for name in SOURCE.__dataclass_fields__}
