"""How a site stands to the study of a run: the agreement that it has signed, and what the study has spent here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from fedkit.errors import DeploymentError, FedkitError
from fedkit.governance.agreement import Standing
from fedkit.governance.terms import NO_STUDY
from fedkit.privacy.rdp_filter import Charge
from fedkit_client.folder import SiteFolder
from fedkit_client.studies import Studies
from fedkit_client.taken_back import signed_study

if TYPE_CHECKING:
    from fedkit.privacy.ledger.book import Account

Named: TypeAlias = "str | Callable[[Account], str]"
"""The name under which the ledger knows a run, or how it is found in the account."""


def standing_at(folder: SiteFolder, site: str, study: str) -> Callable[[str, Named, float], Standing]:
    """`standing_of` for a command: data set, run and time are still to be given."""

    def at(dataset: str, run: Named, now: float) -> Standing:
        if study == NO_STUDY:
            return Standing()
        try:
            federation = folder.enrolment().federation
        except DeploymentError as error:
            return Standing(why=f"none; {error.message}")
        return standing_of(folder, federation, site, study, dataset, run, now, read_only=True)

    return at


def standing_of(
    folder: SiteFolder,
    federation: str,
    site: str,
    study: str,
    dataset: str,
    run: Named,
    now: float,
    *,
    read_only: bool = False,
) -> Standing:
    """How a site stands to the study that a run names; whatever cannot be read is no agreement, or no budget.

    Args:
        run: the run itself, which is not counted among the others; empty for one that the ledger does not know yet.
        read_only: leave a ledger alone that a killed process has left half written; it cannot be read then.

    Guarantee: between what is counted here and what the ledger then holds for the run nothing else is charged, for a
    site works on one message at a time.
    """
    if study == NO_STUDY:
        return Standing()
    try:
        found = signed_study(folder, Studies(folder.studies, site, federation), study)
    except DeploymentError as error:
        return Standing(why=f"none; {error.message}")
    spent, runs = _spent(folder.ledger(dataset), dataset, study, run, now, read_only=read_only)
    return Standing(found.agreement, found.digest, "", spent, runs)


def _spent(
    path: Path, dataset: str, study: str, run: Named, now: float, *, read_only: bool
) -> tuple[tuple[Charge, ...] | None, int]:
    """What the ledger charged to the study's other runs, and what they still hold; None where it cannot be read."""
    from fedkit.privacy.ledger.book import charges
    from fedkit.privacy.ledger.ledger import Ledger
    from fedkit.privacy.rdp_filter import merged as together

    if not path.exists():
        # A private run is refused where its ledger is missing, before a record is read.
        return (), 0
    found: list[Charge] = []
    runs = 0
    try:
        with Ledger(path, read_only=read_only) as ledger:
            account = ledger.account(dataset)
            itself = run if isinstance(run, str) else run(account)
            for name, each in account.runs.items():
                if each.study != study:
                    continue
                holds = each.left if each.state == "held" and each.expires_ms > int(now * 1000) else {}
                own = {(one.rate_e9, one.sigma_e6): one.steps for one in each.asked} if name == itself else {}
                runs += name != itself
                # Of the run itself, what a lost copy was charged beyond what the run asks for.
                steps = {key: each.spent.get(key, 0) + holds.get(key, 0) for key in {*each.spent, *holds}}
                beyond = {key: count - own.get(key, 0) for key, count in steps.items()}
                found += charges({key: count for key, count in beyond.items() if count > 0})
    except FedkitError:
        return None, runs
    return together(found), runs
