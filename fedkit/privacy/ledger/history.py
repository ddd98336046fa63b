"""How a budget was spent over time, as the ledger's own entries say. Decides nothing."""

from __future__ import annotations

from dataclasses import dataclass

from fedkit.privacy import rdp_filter
from fedkit.privacy.ledger.book import Book
from fedkit.privacy.ledger.facts import decode
from fedkit.privacy.ledger.figures import rounded_up
from fedkit.privacy.ledger.ledger import Ledger


@dataclass(frozen=True)
class Moment:
    """A budget right after an entry that spent of it.

    Attributes:
        at_ms: milliseconds since the epoch, by the ledger's clock.
        spent: share of the budget.
        epsilon: what the filter vouches for so far, rounded up.
    """

    at_ms: int
    spent: float
    epsilon: float


def history(ledger: Ledger, dataset: str) -> list[Moment]:
    """Every entry that changed what is spent of a data set's budget, the oldest first.

    Raises:
        PrivacyError: FK340, no such budget; FK330 to FK338, a ledger that cannot be trusted.
    """
    budget, capacity = ledger.account(dataset).budget, ledger.account(dataset).capacity
    found: list[Moment] = []
    book, before = Book(), 0
    for entry in ledger.file.entries():
        book.apply(entry)
        account = book.accounts.get(dataset)
        if account is None or account.spent == before:
            continue
        before = account.spent
        epsilon = rounded_up(rdp_filter.epsilon_of(before, budget.order, budget.delta))
        found.append(Moment(decode(entry.body)[1], before / capacity, epsilon))
    return found
