"""Reopen a restored backup: charge whatever is known to have been spent since, never less."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fedkit.errors import PrivacyError
from fedkit.privacy import rdp_filter
from fedkit.privacy.ledger.elsewhere import open_rounds, told, uncharged
from fedkit.privacy.ledger.export import Export
from fedkit.privacy.ledger.facts import Created, Lost, Reconciled
from fedkit.privacy.ledger.ledger import Ledger
from fedkit.storage.chain import Entry, common_length


@dataclass(frozen=True)
class Reconciliation:
    """What a reconciliation did.

    Attributes:
        created: data sets whose budgets the backup had forgotten.
        charged: reservations that it had forgotten.
        closed: reservations without a reply, which nobody may answer any more.
    """

    created: tuple[str, ...]
    charged: tuple[Lost, ...]
    closed: int


def reconcile(ledger: Ledger, export: Export | None, receipts: Sequence[Entry] = ()) -> Reconciliation:
    """Charge every event that the export or the receipts show and the ledger does not; once, however often called.

    Reservations of the ledger that have no reply are closed, whatever else is known, because they may have been
    answered after the backup was made: do not reconcile a ledger that was not restored while a run is under way.
    Holds that the backup does not know are not made again: such runs are admitted anew.

    Args:
        receipts: from :func:`fedkit.privacy.ledger.export.read_receipts`.

    Raises:
        PrivacyError: FK350, neither is given, an export of another ledger, or events of a data set that nothing
            known here has a budget for.
    """
    if export is None and not receipts:
        raise PrivacyError("there is nothing to reconcile with", code="FK350", remedy="give --export or --receipts")
    with ledger.file.writing() as book:
        if export is not None and export.ledger != book.ledger:
            raise PrivacyError(
                f"the export is of the ledger {export.ledger}, this one is {book.ledger}",
                code="FK350",
                remedy="use this ledger's export",
            )
        ours = ledger.file.entries()
        beyond = list(export.entries[common_length(ours, export.entries) :]) if export is not None else []
        shown = told([*beyond, *receipts], before=ours)
        # A budget that was made anew after the backup stands; the other copy's charges go against it.
        created: dict[str, Created] = {}
        for each in shown.created:
            if each.dataset not in book.accounts:
                created.setdefault(each.dataset, each)
        charged = uncharged(shown.spent, {entry.digest for entry in ours}, book)
        unanswered = open_rounds(book)
        for lost in charged:
            if lost.dataset not in book.accounts and lost.dataset not in created:
                raise PrivacyError(
                    f"a receipt charges the data set {lost.dataset}, which this ledger has no budget for",
                    code="FK350",
                    remedy="reconcile with the newest export as well",
                )
        if created or charged or unanswered:
            entries = tuple(lost.entry for lost in charged)
            fact = Reconciled(tuple(created.values()), tuple(charged), entries, rdp_filter.accountant())
            ledger.file.append(fact, ledger.now_ms() / 1000)
    return Reconciliation(tuple(created), tuple(charged), len(unanswered))
