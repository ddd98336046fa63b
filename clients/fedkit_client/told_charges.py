"""What the audit log says that a ledger was charged: one that does not know was lost, or put back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fedkit.errors import PrivacyError
from fedkit_client.folder import SiteFolder
from fedkit_client.recalled import recalled

if TYPE_CHECKING:
    from fedkit.privacy.ledger.book import Account

Told = tuple[str, str, int]
"""The run by the ledger's name, the purpose by the ledger's word, and the round of a charge."""


def told_charges(folder: SiteFolder) -> dict[str, dict[Told, None]]:
    """Data set to the charges that the site's log tells of, in its order; nothing where there is no log.

    The logs of folders that were joined from count too: their ledgers were taken along.

    Lines that cannot be read are passed over: whether the log is whole is its own check.

    Raises:
        PrivacyError: FK332, the log is there and cannot be read.
    """
    from fedkit.assurance.site_budgets import PURPOSE

    found: dict[str, dict[Told, None]] = {}
    accounts: dict[object, str] = {}
    try:
        for line in recalled(folder, ("admitted", "reserved")):
            run, account, number = (line.fields.get(key) for key in ("run", "account", "round"))
            if line.kind == "admitted":
                # A question is charged under a name of the ledger's own, which its admission tells.
                accounts[run] = str(account or run)
                continue
            purpose = str(line.fields.get("purpose"))
            asked = purpose == "statistics"
            name = accounts.get(run, "") if asked else str(run)
            if name and isinstance(number, int):
                charge = (name, PURPOSE if asked else purpose, number)
                found.setdefault(str(line.fields.get("dataset")), {})[charge] = None
    except OSError as error:
        raise PrivacyError(
            f"{folder.audit} cannot be read ({error.strerror}), so nobody knows what was charged before",
            code="FK332",
            remedy="make it readable for the site's own user",
        ) from None
    return found


def require_known(path: Path, dataset: str, account: Account | None, told: dict[Told, None]) -> None:
    """Refuse a ledger that does not know of a charge that the site's own log tells of.

    Args:
        path: where the ledger lies.
        account: the data set's; None where there is no ledger.

    Raises:
        PrivacyError: FK332.
    """
    runs = account.runs if account is not None else {}
    unknown = [(name, purpose, number) for name, purpose, number in told
               if name not in runs or (purpose, number) not in runs[name].reserved]  # fmt: skip
    if not unknown:
        return
    name, purpose, number = unknown[0]
    what = "is gone" if account is None else "is older than the site's audit log, or another one"
    raise PrivacyError(
        f"the ledger {path} {what}: it does not know {len(unknown):,} of {len(told):,} charges to {dataset} that the"
        f" log tells of, the first of them {purpose} of round {number} of {name}",
        code="FK332",
        remedy="put its newest copy back and reconcile it (docs/ledger.md); a new ledger would forget what these"
        " patients have spent",
    )


def require_never_charged(folder: SiteFolder, dataset: str) -> None:
    """Tell a ledger that is still to be made from one that was lost.

    Raises:
        PrivacyError: FK332, the site's log tells of charges.
    """
    require_known(folder.ledger(dataset), dataset, None, told_charges(folder).get(dataset, {}))
