"""Reopen a restored backup: charge whatever is known to have been spent since, never less."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fedkit.errors import PrivacyError
from fedkit.privacy import rdp_filter
from fedkit.privacy.ledger.book import Book
from fedkit.privacy.ledger.export import Export
from fedkit.privacy.ledger.facts import Created, Held, Lost, Reconciled, Reserved, decode, forgotten
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

    Reservations of the backup that have no reply are closed, because they may have been answered after it was made.
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
        known = {entry.digest for entry in ours} | book.accounted
        created, charged, seen = _missing(book, [*beyond, *receipts], known, _studies([*ours, *beyond]))
        unanswered = [
            reservation.entry
            for account in book.accounts.values()
            for run in account.runs.values()
            for reservation in run.reserved.values()
            if reservation.commit is None and not reservation.lost
        ]
        # A receipt is given with a reply: it shows that a reservation which the backup knows was answered.
        answered = {entry.digest for entry in receipts}.intersection(unanswered)
        for lost in charged:
            if lost.dataset not in book.accounts and all(each.dataset != lost.dataset for each in created):
                raise PrivacyError(
                    f"a receipt charges the data set {lost.dataset}, which this ledger has no budget for",
                    code="FK350",
                    remedy="reconcile with the newest export as well",
                )
        if seen or answered:
            fact = Reconciled(tuple(created), tuple(charged), tuple(seen), rdp_filter.accountant())
            ledger.file.append(fact, ledger.now_ms() / 1000)
    return Reconciliation(
        tuple(each.dataset for each in created), tuple(charged), len(unanswered) if seen or answered else 0
    )


def _missing(
    book: Book, entries: Iterable[Entry], known: set[str], studies: dict[tuple[str, str], str]
) -> tuple[list[Created], list[Lost], list[str]]:
    created: dict[str, Created] = {}
    charged: list[Lost] = []
    seen: list[str] = []

    def new(digest: str) -> bool:
        if digest in known:
            return False
        known.add(digest)
        seen.append(digest)
        return True

    for entry in entries:
        if not new(entry.digest):
            continue
        fact, _ = decode(entry.body)
        match fact:
            case Created():
                _create(created, fact, book)
            case Reserved():
                charged.append(forgotten(fact, studies.get((fact.dataset, fact.run), ""), entry.digest))
            case Reconciled():
                # The other copy had been reconciled itself; what it had charged counts here too.
                for each in fact.created:
                    _create(created, each, book)
                charged += [lost for lost in fact.charged if new(lost.entry)]
                for digest in fact.entries:
                    new(digest)
            case _:
                pass
    return list(created.values()), charged, seen


def _create(created: dict[str, Created], fact: Created, book: Book) -> None:
    # A budget that was made anew after the backup stands; the other copy's charges go against it.
    if fact.dataset not in book.accounts:
        created.setdefault(fact.dataset, fact)


def _studies(entries: Iterable[Entry]) -> dict[tuple[str, str], str]:
    facts = (decode(entry.body)[0] for entry in entries)
    return {(fact.dataset, fact.run): fact.study for fact in facts if isinstance(fact, Held)}
