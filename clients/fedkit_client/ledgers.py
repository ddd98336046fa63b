"""The ledgers of a site's data sets: made at the first start, with the budgets that the site's file fixes for good."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fedkit.errors import PrivacyError, together
from fedkit.governance.terms import SiteData, SiteFile
from fedkit_client.folder import SiteFolder
from fedkit_client.told_charges import Told, require_known, require_never_charged, told_charges


def open_ledgers(file: SiteFile, folder: SiteFolder) -> None:
    """Make or check the ledger of every data set; none stays open.

    Raises:
        PrivacyError: FK340, a budget that differs from the file's; FK330 to FK338, a ledger that cannot be trusted or
            written; FK332, one that is gone or older than the site's audit log; every data set's problem at once.

    Guarantee: no budget begins anew, or goes back, while the folder's log tells of a charge to it.
    """
    problems, told = [], told_charges(folder)
    for name, data in file.data.items():
        try:
            _settle(folder.ledger(name), name, data, told.get(name, {}))
        except PrivacyError as error:
            problems.append(error)
    if problems:
        raise together(problems)


def budgets(file: SiteFile, folder: SiteFolder) -> dict[str, dict[str, Any]]:
    """Each data set's budget as it stands: shares spent, held and left, and epsilon spent; reads only.

    A ledger that cannot be read is told as ``{"problem": ...}``; one still to be made has ``"absent": True`` too.
    """
    from fedkit.privacy.ledger.figures import summary
    from fedkit.privacy.ledger.ledger import Ledger

    found: dict[str, dict[str, Any]] = {}
    for name in file.data:
        try:
            with Ledger(folder.ledger(name), read_only=True) as ledger:
                told = summary(ledger, name, pld=False)
        except PrivacyError as error:
            found[name] = {"problem": str(error)} | _absence(folder, name)
            continue
        keys = ("unit", "delta", "limit", "spent", "held", "left", "epsilon_spent")
        found[name] = {key: told[key] for key in keys} | {
            "runs": [{key: run[key] for key in ("run", "study", "state", "spent", "held")} for run in told["runs"]]
        }
    return found


def _absence(folder: SiteFolder, name: str) -> dict[str, Any]:
    """Whether a ledger that is not there is one that the first start makes, or was lost."""
    if folder.ledger(name).exists():
        return {}
    try:
        require_never_charged(folder, name)
    except PrivacyError as error:
        return {"problem": str(error)}
    return {"absent": True}


def _settle(path: Path, name: str, data: SiteData, told: dict[Told, None]) -> None:
    from fedkit.privacy.ledger.ledger import Ledger

    path.parent.mkdir(mode=0o700, exist_ok=True)
    if not path.exists():
        require_known(path, name, None, told)
    with Ledger(path) if path.exists() else Ledger.create(path) as ledger:
        try:
            ledger.create_budget(name, unit=data.unit, limit=data.max_epsilon, delta=data.delta)
        except PrivacyError as error:
            if error.code != "FK340":
                raise
            raise PrivacyError(
                f"data.{name}: {error.message}",
                code="FK340",
                remedy="write the first values back into the site's file; what was spent under them stays spent",
            ) from None
        require_known(path, name, ledger.account(name), told)
