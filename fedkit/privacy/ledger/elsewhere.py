"""What another copy's entries tell that a ledger may have forgotten. Decides nothing; believes what it is given."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from fedkit.privacy.ledger.book import Book
from fedkit.privacy.ledger.facts import Committed, Created, Held, Lost, Reconciled, Reserved, decode, forgotten
from fedkit.privacy.rdp_filter import Charge
from fedkit.storage.chain import Entry


@dataclass(frozen=True)
class Told:
    """What entries say.

    Attributes:
        created: budgets, in order.
        spent: reservations, their own and those that a reconciliation among them charged; each once.
        answered: replies and failures that were committed.
    """

    created: tuple[Created, ...]
    spent: tuple[Lost, ...]
    answered: tuple[Committed, ...]


def told(entries: Iterable[Entry], before: Iterable[Entry] = ()) -> Told:
    """What entries say of budgets, spending and replies.

    Args:
        before: entries that they follow, for the names of the studies.

    Raises:
        PrivacyError: FK330, an entry that this version does not know.
    """
    created: list[Created] = []
    spent: dict[tuple[str, str, tuple[Charge, ...]], Lost] = {}
    answered: list[Committed] = []
    studies = {(fact.dataset, fact.run): fact.study for fact in _facts(before) if isinstance(fact, Held)}
    for entry in entries:
        fact, _ = decode(entry.body)
        match fact:
            case Held():
                studies[fact.dataset, fact.run] = fact.study
            case Created():
                created.append(fact)
            case Reserved():
                lost = forgotten(fact, studies.get((fact.dataset, fact.run), ""), entry.digest)
                spent.setdefault(_key(lost), lost)
            case Reconciled():
                created += fact.created
                for each in fact.charged:
                    spent.setdefault(_key(each), each)
            case Committed():
                answered.append(fact)
            case _:
                pass
    return Told(tuple(created), tuple(spent.values()), tuple(answered))


def uncharged(spent: Iterable[Lost], digests: set[str], book: Book) -> list[Lost]:
    """Of reservations told elsewhere those that a ledger neither made nor charged as they are told.

    Args:
        digests: of the ledger's own entries.
        book: what follows from them.

    Guarantee: what a reconciliation merely names does not count, only what it charged, with the same events.
    """
    return [lost for lost in spent if lost.entry not in digests and _key(lost) not in book.charged]


def open_rounds(book: Book) -> list[str]:
    """Digests of the reservations that the ledger would still answer."""
    return [
        reservation.entry
        for account in book.accounts.values()
        for run in account.runs.values()
        for reservation in run.reserved.values()
        if reservation.commit is None and not reservation.lost
    ]


def reopened(answered: Iterable[Committed], book: Book) -> list[Committed]:
    """Of replies told elsewhere those whose round the ledger would answer a second time, uncharged."""
    found = []
    for each in answered:
        account = book.accounts.get(each.dataset)
        run = None if account is None else account.runs.get(each.run)
        reservation = None if run is None else run.reserved.get((each.purpose, each.round))
        if reservation is not None and reservation.commit is None and not reservation.lost:
            found.append(each)
    return found


def _key(lost: Lost) -> tuple[str, str, tuple[Charge, ...]]:
    return lost.entry, lost.dataset, lost.charges


def _facts(entries: Iterable[Entry]) -> Iterable[object]:
    return (decode(entry.body)[0] for entry in entries)
