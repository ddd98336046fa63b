"""The study agreements that a coordinator holds: ``studies/NAME/VERSION.json``, each as it travels.

A run of a study is taken only under its newest text, and only for sites whose signature under exactly that text is
here, by the key with which they are enrolled now.

::

    FK780  no such study, or a run of one that is not its newest text or that a site has not signed
    FK723  another text of a version that is known, or an older version
    FK705  a file that cannot be read
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedkit.errors import DeploymentError, FedkitError
from fedkit.federation.study import Study, merged, open_study, read_study, require_author
from fedkit.governance.agreement_file import NAME
from fedkit.governance.terms import NO_STUDY
from fedkit.reporting.study_text import standing, study_json
from fedkit.storage.keys import fingerprint
from fedkit.storage.private import replace

if TYPE_CHECKING:
    from fedkit.federation.job import Job
    from fedkit_server.handlers import Call
    from fedkit_server.state import State

_WRITING = threading.Lock()
"""One process has the folder: what is read is what is written over."""


@dataclass(frozen=True)
class Studies:
    """The folder of the coordinator's agreements."""

    folder: Path
    federation: str

    def names(self) -> list[str]:
        """Every study that is known."""
        return sorted(path.name for path in self.folder.glob("*") if path.is_dir() and NAME.fullmatch(path.name))

    def newest(self, name: str) -> Study:
        """The newest text of a study.

        Raises:
            DeploymentError: FK780, FK705.
        """
        found = self._versions(name)
        if not found:
            known = ", ".join(self.names()) or "none"
            raise DeploymentError(
                f"there is no study {name[:100]!r}; known are {known}",
                code="FK780",
                remedy="make it: `fedkit server study create FILE.yaml`",
            )
        path = found[max(found)]
        try:
            study = read_study(path, self.federation)
        except FedkitError as error:
            raise _broken(path, error.message) from None
        if (study.agreement.study, study.agreement.version) != (name, max(found)):
            raise _broken(path, "it is another text than its name says")
        return study

    def write(self, study: Study) -> None:
        """Keep a text and its assents, durably.

        Raises:
            DeploymentError: FK700.
        """
        terms = study.agreement
        place = self.folder / terms.study
        for folder in (self.folder, place):
            folder.mkdir(mode=0o700, exist_ok=True)
        replace(place / f"{terms.version}.json", f"{study.text}\n".encode())

    def _versions(self, name: str) -> dict[int, Path]:
        if not NAME.fullmatch(name):
            return {}
        found = (self.folder / name).glob("*.json")
        return {int(path.stem): path for path in found if path.stem.isdecimal()}


def studies_of(state: State) -> Studies:
    """The coordinator's agreements."""
    return Studies(state.folder.path / "studies", state.settings.federation)


def unsigned(study: Study, sites: Sequence[str], keys: Mapping[str, str]) -> Iterator[str]:
    """Why sites cannot take part in a run of a study, by name.

    Args:
        keys: site to the fingerprint of the key with which it is enrolled now.
    """
    why = {
        "open": "has not signed it",
        "left": "has left it",
        "other key": "is enrolled with another key than it names",
        "not enrolled": "is not enrolled",
    }
    for site in sites:
        if site not in study.agreement.parties:
            yield f"{site} is no party of it"
        elif said := why.get(standing(study, site, keys)):
            yield f"{site} {said}"


def require_signed(study: Study, digest: str, sites: Sequence[str], keys: Mapping[str, str]) -> None:
    """Refuse a run that a site would refuse because of who has signed what.

    Raises:
        DeploymentError: FK780, with every site's name.
    """
    problems = list(unsigned(study, sites, keys))
    if digest != study.digest:
        problems.insert(0, f"the job names the text {digest[:12] or 'none'}, and the newest is {study.digest[:12]}")
    if problems:
        raise DeploymentError(
            f"the study {study.agreement.study}, version {study.agreement.version}: {'; '.join(problems)}",
            code="FK780",
            remedy="have the sites sign it (`fedkit client study sign`), hand their files to `fedkit server study add`,"
            " or leave them out",
        )


def check_job(state: State, job: Job) -> None:
    """Refuse a job of a study that its sites have not signed; one of no study passes.

    Raises:
        DeploymentError: FK780, FK705.
    """
    if job.study != NO_STUDY:
        keys = {name: fingerprint(key) for name, key in state.store.site_keys().items()}
        require_signed(studies_of(state).newest(job.study), job.agreement, job.sites, keys)


def listed(call: Call) -> dict[str, Any]:
    """Every study by its newest text; one that cannot be read is told by its code."""
    keys = {name: fingerprint(key) for name, key in call.state.store.site_keys().items()}
    held, told = studies_of(call.state), []
    for name in held.names():
        try:
            told.append(study_json(held.newest(name), keys))
        except DeploymentError as error:
            told.append({"study": name, "problem": error.code})
    return {"studies": told}


def shown(call: Call) -> dict[str, Any]:
    """A study's newest text with its assents, as it travels."""
    return {"study": studies_of(call.state).newest(call.path["study"]).text}


def put(call: Call) -> dict[str, Any]:
    """Take a new text that an admin has signed, or the words of sites about one that is known.

    The signatures are their authority; the token says only who may speak here.
    """
    state = call.state
    study = open_study(call.fields({"study": str})["study"], state.settings.federation)
    held, terms = studies_of(state), study.agreement
    with _WRITING:
        known = held.newest(terms.study) if terms.study in held.names() else None
        if known is not None and known.digest != study.digest and terms.version <= known.agreement.version:
            raise DeploymentError(
                f"version {known.agreement.version} of {terms.study} is {known.digest[:12]}, and the file has version"
                f" {terms.version}, {study.digest[:12]}",
                code="FK723",
                remedy=f"write version: {known.agreement.version + 1}, or name the file of the newest text",
            )
        about: dict[str, Any] = {"study": terms.study, "version": terms.version, "agreement": study.digest}
        if known is None or known.digest != study.digest:
            call.access.require(call.user, "admin")
            require_author(study, state.keyring, current=True)
            state.trail.record("study_created", **about, user=call.user.name)
            before, grown = {}, study
        else:
            before, grown = dict(known.assents), merged(known, study)
        changed = {site: said for site, said in grown.assents.items() if before.get(site) != said}
        for site, said in changed.items():
            kind = "study_signed" if said.act == "sign" else "study_left"
            state.trail.record(kind, **about, site=site, user=call.user.name)
        held.write(grown)
    keys = {name: fingerprint(key) for name, key in state.store.site_keys().items()}
    return {**study_json(grown, keys), "changed": {site: said.act for site, said in changed.items()}}


def _broken(path: Path, why: str) -> DeploymentError:
    return DeploymentError(
        f"{path} cannot be used: {why}",
        code="FK705",
        remedy="restore it from its backup, or move it away and add the file again",
    )
