"""What a ledger stores of each run's replies, and since when nobody waits for it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from fedkit.privacy.ledger.facts import Released, decode
from fedkit.privacy.ledger.ledger import Ledger

STATISTICS = "stats"
"""The purpose of a question's reservation."""


@dataclass(frozen=True)
class Stored:
    """A run's stored replies.

    Attributes:
        over: seconds since the epoch at which the run ended, was stopped or let its hold expire; None while it holds.
        newest: seconds since the epoch of its newest reply.
        size: bytes on the disk.
        digest: SHA-256 over the digests of the replies, as the chain has them, in their order.
    """

    dataset: str
    run: str
    study: str
    statistics: bool
    over: float | None
    newest: float
    count: int
    size: int
    digest: str


def stored(ledger: Ledger) -> list[Stored]:
    """Every run of which a reply is stored."""
    ledger.sweep()
    book, sizes = ledger.book(), ledger.file.reply_sizes()
    written: dict[str, float] = {}
    ended: dict[tuple[str, str], float] = {}
    for entry in ledger.file.entries():
        fact, at_ms = decode(entry.body)
        written[entry.digest] = at_ms / 1000
        if isinstance(fact, Released):
            ended[fact.dataset, fact.run] = at_ms / 1000
    found = []
    for dataset, account in sorted(book.accounts.items()):
        for name, run in sorted(account.runs.items()):
            kept = [each for each in run.reserved.values() if each.commit in sizes]
            if not kept:
                continue
            commits = [str(each.commit) for each in kept]
            newest = max(written[commit] for commit in commits)
            # What a reconciliation has charged has no hold, and waits for nobody.
            over = None if run.state == "held" else ended.get((dataset, name), newest)
            digests = "".join(f"{reply}{state}" for reply, state in (each.stored for each in kept))
            found.append(
                Stored(
                    dataset, name, run.study, all(purpose == STATISTICS for purpose, _ in run.reserved), over, newest,
                    len(kept), sum(sizes[commit] for commit in commits), hashlib.sha256(digests.encode()).hexdigest(),
                )
            )  # fmt: skip
    return found
