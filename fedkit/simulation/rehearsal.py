"""A simulation held against site files before its first round: what a hospital would refuse is refused here.

``federation.policies`` names a folder. ``SITE.yaml`` in it is a site's file, whose source is not read. ``job.yaml``,
which may be absent, says what a config does not: ``study``, ``submitter`` and ``key`` (a fingerprint), ``at`` (a date
and time with its offset from UTC, in quotes; now otherwise) and ``approved`` (sites where a person has approved it).
``study.yaml`` is the agreement of that study, as `fedkit server study create` takes it: its parties count as having
signed it, and nothing of its budget as spent before.

::

    FK121  the folder, a site's file in it or job.yaml cannot be used; a site without a file is refused
    FK122  study.yaml cannot be used
    FK542, FK560 to FK579  what a site refuses, under the first site's code
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from fedkit.config.experiment import ExperimentConfig
from fedkit.data.table import name_text
from fedkit.errors import ConfigError, FederationError, FedkitError
from fedkit.federation.job import NAME, job_config
from fedkit.governance.admission import admit
from fedkit.governance.agreement import Agreement, Standing
from fedkit.governance.agreement_file import read_agreement_file
from fedkit.governance.clauses import Circumstances
from fedkit.governance.reading import Reader
from fedkit.governance.site_file import load_mapping, read_site_file
from fedkit.governance.terms import NO_STUDY, SiteFile
from fedkit.storage.keys import is_fingerprint

JOB, STUDY = "job.yaml", "study.yaml"
CODE = "FK121"
_TEXT = "rehearsed"
"""In the place of a digest: nobody has signed the agreement that is rehearsed."""

_KEYS = ("study", "submitter", "key", "at", "approved")


@dataclass(frozen=True)
class JobFile:
    """What ``job.yaml`` says."""

    now: float
    study: str = NO_STUDY
    submitter: str = ""
    key: str = ""
    approved: tuple[str, ...] = ()


def rehearse(config: ExperimentConfig, python: Sequence[str] = ()) -> tuple[str, ...]:
    """Hold a run against the file of each of its sites; does nothing where ``federation.policies`` is null.

    What is held against them is the job that would be submitted: noise is secure where the run is private.

    Args:
        python: what the caller has given in Python in the config's place; no job can carry it.

    Returns:
        The sites that admit it.

    Raises:
        ConfigError: FK120, FK121, FK122.
        FederationError: see the module; every site's refusals at once.

    Guarantee: no record is read.
    """
    if config.federation.policies is None:
        return ()
    folder = Path(config.federation.policies).expanduser()
    names = [name_text(name) for name in config.data.records]
    if python:
        raise ConfigError(
            [f"{' and '.join(python)} given in Python, which no job can carry; name one of a config, or set"
             " federation.policies=null"], code=CODE,
        )  # fmt: skip
    try:
        files = _files(folder, names)
        said = _job_file(folder, names)
        agreement = _agreement(folder, said.study)
    except OSError as error:
        # No permission on the folder, or a site's name that no file can have.
        raise ConfigError([f"{folder} cannot be looked at ({error.strerror})"], code=CODE) from None
    job = job_config(config)
    if job.privacy.mode != "none":
        job = replace(job, privacy=replace(job.privacy, noise="secure"))
    refused: list[tuple[str, FedkitError]] = []
    for name, file in files.items():
        others = tuple(other for other in names if other != name)
        approval = "approved" if name in said.approved else "not asked for before"
        signed = _standing(agreement, said.study, name)
        asked = Circumstances(said.now, said.study, said.submitter, said.key, others, approval, _TEXT, signed)
        try:
            admit(job, file, asked)
        except FedkitError as error:
            refused.append((name, error))
    if refused:
        lines = "".join(f"\n  {name}: {error}" for name, error in refused)
        raise FederationError(
            f"{len(refused)} of {len(files)} sites would refuse this run{lines}", code=refused[0][1].code
        )
    return tuple(names)


def check_rehearsed(config: ExperimentConfig, rehearsed: Sequence[str], sites: Sequence[str]) -> None:
    """Refuse sites that the data have and the rehearsal had not.

    Raises:
        FederationError: FK542.
    """
    if config.federation.policies is None:
        return
    if strangers := [site for site in sites if site not in rehearsed]:
        raise FederationError(
            f"the data have the sites {', '.join(strangers)}, which data.records does not name and nobody has asked",
            code="FK542",
            remedy="declare every site in data.records",
        )


def _files(folder: Path, names: Sequence[str]) -> Mapping[str, SiteFile]:
    if not folder.is_dir():
        raise ConfigError([f"federation.policies is {folder}, which is no folder"], code=CODE)
    problems: list[str] = []
    if not names:
        problems.append("data.records is empty; a rehearsal needs every site's declared count")
    found: dict[str, SiteFile] = {}
    for name in names:
        path = folder / f"{name}.yaml"
        if path.name in (JOB, STUDY):
            problems.append(f"a site cannot be called {name} here: {JOB} and {STUDY} are the run's")
        elif not path.is_file():
            problems.append(f"{name} has no {path.name} in {folder}; a site that says nothing admits nothing")
        else:
            try:
                found[name] = read_site_file(path)
            except ConfigError as error:
                problems += error.problems
                continue
            if found[name].site != name:
                problems.append(f"{path.name} is the file of {found[name].site}; write site: {name}")
    if problems:
        raise ConfigError(problems, code=CODE)
    return found


def _agreement(folder: Path, study: str) -> Agreement | None:
    path = folder / STUDY
    if study == NO_STUDY or not (path.exists() or path.is_symlink()):
        return None
    return read_agreement_file(path, any_keys=True)


def _standing(agreement: Agreement | None, study: str, site: str) -> Standing:
    if agreement is None or agreement.study != study:
        there = "no study.yaml" if agreement is None else f"the agreement of {agreement.study}"
        return Standing(why=f"none; the folder has {there}")
    if site not in agreement.parties:
        return Standing(why=f"none; {site} is no party of {study}")
    return Standing(agreement, _TEXT, "")


def _job_file(folder: Path, names: Sequence[str]) -> JobFile:
    path = folder / JOB
    if not path.exists():
        return JobFile(time.time())
    found = Reader(folder)
    raw = found.mapping(dict(load_mapping(path, "leave it out", "study: NAME")), "", _KEYS)
    given: dict[str, Any] = {key: value for key, value in raw.items() if value is not None and key in _KEYS}
    texts = {}
    for key, good, example in (
        ("study", lambda text: bool(NAME.fullmatch(text)), "none"),
        ("submitter", lambda text: bool(NAME.fullmatch(text)), "ana"),
        ("key", is_fingerprint, "the sha256:... of a signing key"),
    ):
        if key in given:
            if not isinstance(given[key], str) or not good(given[key]):
                found.add(key, f"is {given[key]!r}; write such as {example}")
            texts[key] = str(given[key])
    now = _time(found, given["at"]) if "at" in given else time.time()
    approved = found.names(given["approved"], "approved", names) if "approved" in given else ()
    if found.problems:
        raise ConfigError([f"{path.name}: {problem}" for problem in found.problems], code=CODE)
    return JobFile(now, approved=approved, **texts)


def _time(found: Reader, value: Any) -> float:
    try:
        at = datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        at = None
    if at is None or at.tzinfo is None:
        found.add("at", f'is {value!r}; write it in quotes with its offset, such as "2026-01-05T10:00:00+01:00"')
        return 0.0
    return at.timestamp()
