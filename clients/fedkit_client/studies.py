"""The study agreements that a site has signed: ``studies/NAME.json`` in its folder, each as it travels.

A text counts while it can be read, is by this federation, and the site's newest word in it is its signature.

::

    FK780  no agreement of that name, one that the site has left, or a text that does not follow the signed one
    FK781  an agreement in the folder that cannot be used; no run of that study is taken
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedkit.errors import DeploymentError, FedkitError
from fedkit.federation.study import Study, assented, merged, read_study, require_author
from fedkit.governance.agreement_file import NAME
from fedkit.governance.terms import NO_STUDY
from fedkit.storage.keys import SigningKey
from fedkit.storage.private import replace
from fedkit_client.folder import SiteFolder


@dataclass(frozen=True)
class Studies:
    """The folder of one site's agreements.

    Attributes:
        federation: fingerprint of the CA that the site pinned.
    """

    folder: Path
    site: str
    federation: str

    def path(self, name: str) -> Path:
        """Where the agreement of a study lies.

        Raises:
            DeploymentError: FK780, no study can be called so.
        """
        if not NAME.fullmatch(name) or name == NO_STUDY:
            raise DeploymentError(
                f"no study can be called {name[:100]!r}", code="FK780", remedy="see `fedkit client study list`"
            )
        return self.folder / f"{name}.json"

    def read(self, name: str) -> Study:
        """The agreement of a study, whatever the site has said about it.

        Raises:
            DeploymentError: FK780, there is none; FK781, it cannot be used.
        """
        path = self.path(name)
        if not path.exists() and not path.is_symlink():
            known = ", ".join(self.names()) or "none"
            raise DeploymentError(
                f"{self.site} has no agreement of the study {name}; it has {known}",
                code="FK780",
                remedy="sign it: `fedkit client study sign SITE.yaml FILE`",
            )
        try:
            _require_own(path)
            study = read_study(path, self.federation)
        except FedkitError as error:
            raise self._unusable(path, error.message) from None
        except OSError as error:
            raise self._unusable(path, error.strerror or type(error).__name__) from None
        if study.agreement.study != name:
            raise self._unusable(path, f"it is of the study {study.agreement.study}")
        return study

    def names(self) -> list[str]:
        """Every study of which a file is here, readable or not."""
        return sorted(path.stem for path in self.folder.glob("*.json") if NAME.fullmatch(path.stem))

    def signed(self, name: str) -> Study:
        """The agreement of a study that the site has signed and not left.

        Raises:
            DeploymentError: FK780, FK781.
        """
        study = self.read(name)
        if self.site not in study.assents or not study.has_signed(self.site):
            what = "left" if self.site in study.assents else "not signed"
            raise DeploymentError(
                f"{self.site} has {what} the study {name}", code="FK780", remedy="sign it, if it shall count again"
            )
        return study

    def sign(self, study: Study, key: SigningKey, now: float) -> Study:
        """The study with the site's signature; nothing is written, see `keep`.

        Raises:
            DeploymentError: FK780, an older text than the one here, or another one of the same version.
            FederationError: FK541, FK542, as `assented`.
        """
        return assented(self._following(study), self.site, key, "sign", now)

    def leave(self, name: str, key: SigningKey, now: float) -> Study:
        """The study with the site's word that it leaves; nothing is written, see `keep`.

        Raises:
            DeploymentError: FK780, FK781.
            FederationError: FK541, the site has another key now.
        """
        return assented(self.read(name), self.site, key, "leave", now)

    def put_away(self, name: str, now: float) -> Path:
        """Move an agreement aside that cannot be left by a signature: it counts no more, whatever is in it.

        Raises:
            DeploymentError: FK780, there is none; FK700.
        """
        path = self.path(name)
        aside = path.with_name(f"{name}.left-{int(now)}")
        try:
            path.rename(aside)
        except FileNotFoundError:
            raise DeploymentError(f"there is no agreement of the study {name}", code="FK780") from None
        except OSError as error:
            raise DeploymentError(f"{path} cannot be moved: {error.strerror}", code="FK700") from None
        return aside

    def keep(self, study: Study) -> Path:
        """Write it, durably; what was here of that study is replaced.

        Raises:
            DeploymentError: FK700.
        """
        path = self.path(study.agreement.study)
        self.folder.mkdir(mode=0o700, exist_ok=True)
        replace(path, f"{study.text}\n".encode())
        handle = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
        return path

    def _following(self, study: Study) -> Study:
        try:
            known = self.read(study.agreement.study)
        except DeploymentError as error:
            if error.code == "FK780":
                return study
            raise
        if known.digest == study.digest:
            return merged(known, study)
        if study.agreement.version <= known.agreement.version:
            raise DeploymentError(
                f"the file has version {study.agreement.version} of {study.agreement.study}, and {self.site} holds"
                f" another text of version {known.agreement.version}",
                code="FK780",
                remedy="ask for a text with a higher version",
            )
        return study

    def _unusable(self, path: Path, why: str) -> DeploymentError:
        return DeploymentError(
            f"{path} cannot be used: {why}",
            code="FK781",
            remedy="restore it from its backup, or move it away and sign the agreement again; until then no run of the"
            " study is taken",
        )


def summaries(studies: Studies) -> list[dict[str, Any]]:
    """One entry a file: its standing is ``signed``, ``left``, or ``unreadable`` with the code."""
    told: list[dict[str, Any]] = []
    for name in studies.names():
        try:
            found = studies.read(name)
        except DeploymentError as error:
            told.append({"study": name, "standing": "unreadable", "why": error.code})
            continue
        terms = found.agreement
        told.append({
            "study": name, "standing": "signed" if found.has_signed(studies.site) else "left",
            "version": terms.version, "digest": found.digest, "purpose": terms.purpose,
            "begin": terms.begin.isoformat(), "end": terms.end.isoformat(), "datasets": sorted(terms.data),
            "retention_days": terms.retention_days,
        })  # fmt: skip
    return told


def check_new(study: Study, folder: SiteFolder) -> None:
    """Refuse a file whose text no current admin of the federation has signed, as far as the site knows.

    Raises:
        FederationError: FK541; FK547.
    """
    require_author(study, folder.keyring(), current=True)


def studies_of(folder: SiteFolder, site: str) -> Studies:
    """A joined site's agreements.

    Raises:
        DeploymentError: FK741.
    """
    return Studies(folder.studies, site, folder.enrolment().federation)


def _require_own(path: Path) -> None:
    mode = path.lstat()
    if not stat.S_ISREG(mode.st_mode) or stat.S_IMODE(mode.st_mode) & 0o077 or mode.st_uid != os.geteuid():
        raise DeploymentError("it is no file, or others on this machine can reach it", code="FK781")
