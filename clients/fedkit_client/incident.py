"""``fedkit client incident``: what left, when, to whom and under which guarantee, from log, ledgers, keyring and file.

No row is read. What fedkit cannot know is left for the hospital.

::

    FK788  times, a folder or a manifest that cannot be used
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fedkit.errors import DeploymentError, FedkitError, PrivacyError
from fedkit.federation.trail import examine
from fedkit.governance.terms import SiteData
from fedkit.storage.keys import fingerprint, load_signing_key
from fedkit_client.before_logs import logs_before
from fedkit_client.left import UNKNOWN, lines_of, what_left
from fedkit_client.released import accounts
from fedkit_client.start import Opened

FORMAT = "fedkit-incident-1"


def incident(opened: Opened, since: float, until: float, now: float, *, rehearsal: bool = False) -> dict[str, Any]:
    """Everything that the site's own files tell of a time; plain JSON types.

    Args:
        rehearsal: the site is made up.

    Raises:
        DeploymentError: FK788, times that cannot be, or a log that cannot be read.
    """
    if not since < until:
        raise DeploymentError(
            f"--since {_stamp(since)} is not before --until {_stamp(until)}",
            code="FK788",
            remedy="give an earlier --since",
        )
    folder = opened.folder
    budgets = {path.stem: accounts(folder, path.stem) for path in sorted(folder.ledgers.glob("*.sqlite"))}
    gone = _presumed(budgets, since)
    first = dict[str, float]()
    for each in gone:
        first[each["dataset"]] = min(first.get(each["dataset"], each["after"]), each["after"])
    try:
        found = what_left(lines_of(folder.path), since, until, first)
    except OSError as error:
        raise DeploymentError(
            f"the audit log of {folder.path} cannot be read ({error.strerror})",
            code="FK788",
            remedy="run as the folder's owner, or put the log back from its backup",
        ) from None
    names = sorted({each["dataset"] for each in [*found["answers"], *gone]} - {UNKNOWN})
    enrolment, pause = opened.enrolment, folder.pause.read()
    return {
        "format": FORMAT,
        "rehearsal": rehearsal,
        "site": opened.file.site,
        "made_at": _stamp(now),
        "since": _stamp(since),
        "until": _stamp(until),
        "recipient": {
            "address": enrolment.address,
            "federation": enrolment.federation,
            "coordinator": enrolment.coordinator,
            **_keyring(opened),
        },
        **found,
        "presumed": gone,
        "datasets": {name: _dataset(opened, name, found, gone) for name in names},
        "unprotected": sorted({each["run"] for each in found["answers"] if each["guarantee"].get("guarantee") != "dp"}),
        "usage_disclosed": opened.file.disclose_usage,
        "chains": _chains(opened),
        "paused": None if pause is None else {"since": pause.since},
        "quarantined": folder.quarantine.since(),
    }


def _keyring(opened: Opened) -> dict[str, Any]:
    """Whose keys count now: a user of the federation can fetch what the coordinator was sent."""
    try:
        keyring = opened.folder.keyring()
    except FedkitError as error:
        return {"coordinator_now": UNKNOWN, "users": [], "problem": error.code}
    users = [{"name": each.name, "role": each.role, "key": each.key} for each in keyring.members.values()]
    return {
        "coordinator_now": fingerprint(keyring.coordinator),
        "users": sorted(users, key=lambda each: each["name"]),
        "problem": "",
    }


def _presumed(budgets: Mapping[str, Mapping[str, Any]], since: float) -> list[dict[str, Any]]:
    """Runs of which rounds left that no log tells of; when exactly nobody knows, so all that may have been since."""
    return [
        {"dataset": name, **{key: run[key] for key in ("run", "study", "epsilon", "delta", "unit", "adjacency")},
         **run["presumed"]}
        for name, told in budgets.items()
        for run in told["runs"]
        if run["presumed"] is not None and run["presumed"]["before"] >= since
    ]  # fmt: skip


def _dataset(opened: Opened, name: str, found: Mapping[str, Any], gone: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    data = opened.file.data.get(name)
    told = accounts(opened.folder, name)
    asked = {each["run"] for each in [*found["answers"], *gone] if each["dataset"] == name}
    runs = [run for run in told.pop("runs") if run["run"] in asked]
    return {
        **_declared(data),
        "budget": told,
        "charged_runs": runs,
        "withdrawn_later": found["withdrawn_later"].get(name, 0),
        "first": min(
            [each["after"] for each in gone if each["dataset"] == name]
            + [each["at"] for each in found["answers"] if each["dataset"] == name]
        ),
    }


def _declared(data: SiteData | None) -> dict[str, Any]:
    """As the file declares it now; it may have said otherwise then."""
    if data is None:
        return {"records": None, "unit": None, "columns": {}, "contact": ""}
    declared = data.declaration
    columns = [*declared.features.numeric, *declared.features.categorical, declared.target.column]
    sensitivity = {column: data.card.sensitivity.get(column, "undeclared") for column in columns}
    return {"records": data.records, "unit": data.unit, "columns": sensitivity, "contact": data.card.contact}


def _chains(opened: Opened) -> dict[str, dict[str, Any]]:
    folder = opened.folder
    found: dict[str, dict[str, Any]] = {}
    found |= logs_before(folder)
    try:
        key = load_signing_key(folder.signing_key).public
        told = examine(folder.audit, opened.file.site, [key], lambda _: ())
        found["audit.jsonl"] = {"good": told["good"], "why": told["why"], "lines": told.get("lines")}
    except FedkitError as error:
        found["audit.jsonl"] = {"good": False, "why": f"it cannot be verified ({error.code})", "lines": None}
    for path in sorted(folder.ledgers.glob("*.sqlite")):
        found[f"ledgers/{path.name}"] = _ledger(path)
    return found


def _ledger(path: Path) -> dict[str, Any]:
    from fedkit.privacy.ledger.ledger import Ledger

    try:
        with Ledger(path, read_only=True) as ledger:
            return {"good": True, "why": "", "lines": sum(1 for _ in ledger.file.entries())}
    except PrivacyError as error:
        return {"good": False, "why": error.code, "lines": None}


def _stamp(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
