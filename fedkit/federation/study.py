"""A study agreement as it is signed and travels: an admin's text, and each site's word about exactly that text.

The file is one line of JSON, ``{"format", "agreement", "assents"}``: texts of envelopes of the kinds ``study`` and
``assent``. A site's newest assent counts, and of two of one second the one that leaves.

::

    FK540, FK541, FK547  as in `envelope`: unreadable; a wrong signature, or by another key than the agreement names
    FK542  another federation, study or text than it belongs to, or a site that is no party
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from fedkit.errors import FederationError
from fedkit.federation import strict_json
from fedkit.federation.envelope import Signed, read, seal, unseal
from fedkit.federation.keyring import Keyring, public_key
from fedkit.governance.agreement import Agreement, plain
from fedkit.governance.agreement_file import agreement_of
from fedkit.storage.keys import SigningKey, fingerprint

FORMAT = "fedkit-study-1"
MOST_BYTES = strict_json.MOST_BYTES
"""Of a file: a request that carries it has room for it."""

Act = Literal["sign", "leave"]
_FILE: Mapping[str, type] = {"format": str, "agreement": str, "assents": list}
_TERMS: Mapping[str, type | tuple[type, ...]] = {
    "wire": int, "federation": str, "author": str, "issued_at": int, "study": str, "version": int, "description": str,
    "purpose": str, "begin": str, "end": str, "parties": dict, "data": dict, "retention_days": int, "contacts": list,
}  # fmt: skip
_ASSENT: Mapping[str, type] = {
    "wire": int, "federation": str, "study": str, "agreement": str, "site": str, "public": str, "act": str,
    "issued_at": int,
}  # fmt: skip
_ACTS = ("sign", "leave")


@dataclass(frozen=True)
class Assent:
    """A site's word about a text: that it signs it, or that it leaves it."""

    site: str
    act: str
    issued_at: int
    text: str


@dataclass(frozen=True)
class Study:
    """An agreement and who has said what about it; every assent's signature was found good.

    Attributes:
        federation: fingerprint of the CA.
        author: the admin who signed the text, by the name that they had; see `require_author`.
        signed: the agreement's envelope.
        assents: site to its newest word.
    """

    agreement: Agreement
    federation: str
    author: str
    signed: Signed
    assents: Mapping[str, Assent]

    @property
    def digest(self) -> str:
        """SHA-256 of the agreement's payload, hex; jobs and assents name the text by it."""
        return self.signed.digest

    @property
    def text(self) -> str:
        """The file."""
        texts = [self.assents[site].text for site in sorted(self.assents)]
        return strict_json.write({"format": FORMAT, "agreement": self.signed.text, "assents": texts})

    def has_signed(self, site: str) -> bool:
        """Whether the site's newest word is that it signs."""
        said = self.assents.get(site)
        return said is not None and said.act == "sign"


def make_study(agreement: Agreement, federation: str, author: str, key: SigningKey, now: float) -> Study:
    """Sign an agreement.

    Args:
        author: the signer's name in the keyring.

    Raises:
        FederationError: FK540, terms that no reader would take.
    """
    values = {"federation": federation, "author": author, "issued_at": int(now), **plain(agreement)}
    return open_study(_file(seal("study", values, key), ()), federation)


def read_study(path: Path, federation: str) -> Study:
    """A file that travels or lies in a folder.

    Raises:
        FederationError: as `open_study`; FK540 also for a file that is not there or cannot be read.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 2)
        text = content.decode().removesuffix("\n")
    except OSError as error:
        raise strict_json.unreadable(str(path), f"cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise strict_json.unreadable(str(path), "is no UTF-8") from None
    try:
        return open_study(text, federation)
    except FederationError as error:
        raise FederationError(f"{path}: {error.message}", code=error.code, remedy=error.remedy) from None


def open_study(text: str, federation: str) -> Study:
    """Read and verify a study, but for who its author is.

    Raises:
        FederationError: see the module; one assent that is not good spoils the whole.

    Guarantee: each assent is by the holder of the key that the agreement names for that site, about exactly this
    text. The author's signature is not looked at: `require_author` does.
    """
    values = strict_json.fields(strict_json.read(text, "the study", MOST_BYTES), _FILE, "the study")
    if values["format"] != FORMAT:
        raise FederationError("the study has another format", code="FK547", remedy="update the older side")
    if not all(isinstance(each, str) for each in values["assents"]):
        raise strict_json.unreadable("the study", "has an assent that is no text")
    signed = read(values["agreement"])
    said = strict_json.fields(strict_json.read(signed.payload, "the agreement"), _TERMS, "the agreement")
    if said["federation"] != federation:
        raise FederationError("the agreement is another federation's", code="FK542", remedy="name this one's")
    agreement = _terms(said)
    study = Study(agreement, federation, said["author"], signed, {})
    if len(values["assents"]) > len(agreement.parties):
        raise strict_json.unreadable("the study", "has more assents than parties")
    for each in values["assents"]:
        assent = _assent(study, each)
        if assent.site in study.assents:
            raise strict_json.unreadable("the study", f"has two assents of {assent.site}")
        study = replace(study, assents={**study.assents, assent.site: assent})
    return study


def require_author(study: Study, keyring: Keyring, *, current: bool) -> None:
    """Refuse a text that no admin of the federation has signed.

    Args:
        current: the key must count now; else it suffices that it once was an admin's.

    Raises:
        FederationError: FK541, FK547.
    """
    known = {fingerprint(public): (name, public) for name, public in _admins(keyring)}
    if current:
        keyring.signer(study.signed.key, "admin")
    name, public = known.get(study.signed.key, ("", b""))
    if not public or name != study.author:
        raise FederationError(
            f"the agreement {study.agreement.study} is not signed by an admin of the federation called {study.author}",
            code="FK541",
            remedy="have an admin make it: `fedkit server study create FILE.yaml`",
        )
    unseal(study.signed, "study", public)


def assented(study: Study, site: str, key: SigningKey, act: Act, now: float) -> Study:
    """The study with a site's word.

    Args:
        key: the site's own.

    Raises:
        FederationError: FK542, the site is no party; FK541, with another key than the one that the agreement names.
    """
    known = study.agreement.parties
    if site not in known:
        raise FederationError(
            f"{site} is no party of {study.agreement.study}; those are {', '.join(known)}",
            code="FK542",
            remedy="ask for a later text that names the site",
        )
    if known[site] != key.fingerprint:
        raise FederationError(
            f"the agreement names {known[site]} as the key of {site}, and its key is {key.fingerprint}",
            code="FK541",
            remedy="ask for a later text with the key that `fedkit server sites` lists",
        )
    before = study.assents.get(site)
    # A clock that was set back must not make the newer word the older one.
    at = max(int(now), before.issued_at + 1 if before is not None else 0)
    values = {
        "federation": study.federation, "study": study.agreement.study, "agreement": study.digest, "site": site,
        "public": base64.b64encode(key.public).decode(), "act": act, "issued_at": at,
    }  # fmt: skip
    said = _assent(study, seal("assent", values, key).text)
    return replace(study, assents={**study.assents, site: said})


def merged(one: Study, other: Study) -> Study:
    """One text with the newest word of each site.

    Raises:
        FederationError: FK542, they are two texts.
    """
    if one.digest != other.digest:
        raise FederationError(
            f"{other.digest[:12]} is another text of {other.agreement.study} than {one.digest[:12]}", code="FK542"
        )
    found = dict(one.assents)
    for site, said in other.assents.items():
        known = found.get(site)
        if known is None or _newness(said) > _newness(known):
            found[site] = said
    return replace(one, assents=found)


def _newness(said: Assent) -> tuple[int, bool]:
    return said.issued_at, said.act == "leave"


def _file(signed: Signed, assents: tuple[str, ...]) -> str:
    return strict_json.write({"format": FORMAT, "agreement": signed.text, "assents": list(assents)})


def _terms(said: Mapping[str, Any]) -> Agreement:
    terms = {name: said[name] for name in _TERMS if name not in ("wire", "federation", "author", "issued_at")}
    agreement, problems = agreement_of(terms)
    if agreement is None:
        raise strict_json.unreadable("the agreement", f"is none: {'; '.join(problems)}")
    # One set of terms has one text: nothing is in it that a reader would not see.
    if strict_json.write(plain(agreement)) != strict_json.write(terms):
        raise strict_json.unreadable("the agreement", "is not written as fedkit writes it")
    return agreement


def _assent(study: Study, text: str) -> Assent:
    signed = read(text)
    said = strict_json.fields(strict_json.read(signed.payload, "the assent"), _ASSENT, "the assent")
    site, agreement = said["site"], study.agreement
    if site not in agreement.parties:
        raise FederationError("an assent is by a site that is no party", code="FK542", remedy="leave it out")
    public = public_key(said["public"])
    if fingerprint(public) != agreement.parties[site]:
        raise FederationError(
            f"the assent of {site} is by another key than the agreement names",
            code="FK541",
            remedy="sign with that one",
        )
    unseal(signed, "assent", public)
    about = {"federation": study.federation, "study": agreement.study, "agreement": study.digest}
    if any(said[name] != value for name, value in about.items()):
        raise FederationError(f"the assent of {site} is about another text", code="FK542", remedy="sign this one")
    if said["act"] not in _ACTS or said["issued_at"] < 0:
        raise strict_json.unreadable("the assent", "neither signs nor leaves")
    return Assent(site, said["act"], said["issued_at"], text)


def _admins(keyring: Keyring) -> list[tuple[str, bytes]]:
    """Name and raw key of everybody who ever was an admin: a text outlives its author's key."""
    found = []
    for text in keyring.statements:
        said = strict_json.read(read(text).payload, "the statement")
        if said["action"] in ("root", "add", "rotate") and said["role"] == "admin":
            found.append((said["name"], public_key(said["key"])))
    return found
