"""The ledgers of a site's data sets: made at the first start, with the budgets that the site's file fixes for good."""

from __future__ import annotations

from typing import Any

from fedkit.errors import PrivacyError, together
from fedkit.governance.terms import SiteData, SiteFile
from fedkit_client.folder import SiteFolder
from fedkit_client.recalled import require_charged


def open_ledgers(file: SiteFile, folder: SiteFolder) -> None:
    """Make or check the ledger of every data set; none stays open.

    Raises:
        PrivacyError: FK340, a budget that differs from the file's; FK330 to FK338, a ledger that cannot be trusted or
            written, among them FK334, one that lacks what the audit log tells of; every data set's problem at once.
    """
    problems = []
    for name, data in file.data.items():
        try:
            _settle(folder, name, data)
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
        require_charged(folder, name, None)
    except PrivacyError as error:
        return {"problem": str(error)}
    return {"absent": True}


def require_remembered(file: SiteFile, folder: SiteFolder) -> None:
    """Refuse to make a ledger anew for a data set that was charged before; where it is there, nothing is looked at.

    Raises:
        PrivacyError: FK334.
    """
    for name in file.data:
        if not folder.ledger(name).exists():
            require_charged(folder, name, None)


def _settle(folder: SiteFolder, name: str, data: SiteData) -> None:
    from fedkit.privacy.ledger.figures import summary
    from fedkit.privacy.ledger.ledger import Ledger

    path = folder.ledger(name)
    if not path.exists():
        require_charged(folder, name, None)
    path.parent.mkdir(mode=0o700, exist_ok=True)
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
        require_charged(folder, name, float(summary(ledger, name, pld=False)["epsilon_spent"]))
