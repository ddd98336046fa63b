"""Rounds that a ledger was charged for after a restore and the folder's log does not know: they presumably left."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fedkit_client.folder import SiteFolder
from fedkit_client.left import lines_of

if TYPE_CHECKING:
    from fedkit.privacy.ledger.ledger import Ledger

Round = tuple[str, str, int]
"""The run by the ledger's name, the purpose by the ledger's word, and the round."""


@dataclass(frozen=True)
class Presumed:
    """What presumably left of one run.

    Attributes:
        rounds: purpose to numbers; one that left a second time counts again.
        after, before: seconds since the epoch between which it left, by the clocks of those who wrote the ledger.
    """

    rounds: dict[str, list[int]]
    after: float
    before: float

    def plain(self) -> dict[str, Any]:
        """In JSON types."""
        return {"rounds": self.rounds, "count": sum(map(len, self.rounds.values())),
                "after": self.after, "before": self.before}  # fmt: skip


def presumed(folder: SiteFolder, ledger: Ledger, dataset: str) -> dict[str, Presumed]:
    """The runs of a data set of which rounds presumably left, by the ledger's name of them.

    Guarantee: a round that a reconciliation charged or closed is told here, or the folder's log tells that it left.
    """
    from fedkit.privacy.ledger.facts import Reconciled, Reserved, decode

    account = ledger.account(dataset)
    found: dict[str, list[tuple[Round, float, float]]] = {}
    # Without a reply, by its run: the next reconciliation closes it, and so no later one does.
    open_: dict[tuple[Round, str], float] = {}
    known: set[Round] | None = None
    last = 0.0
    for entry in ledger.file.entries():
        fact, at_ms = decode(entry.body)
        at = at_ms / 1000
        if isinstance(fact, Reserved) and fact.dataset == dataset:
            open_[(fact.run, fact.purpose, fact.round), entry.digest] = at
        elif isinstance(fact, Reconciled):
            known = _known(folder, dataset) if known is None else known
            charged = [((each.run, each.purpose, each.round), each.entry, last) for each in fact.charged
                       if each.dataset == dataset]  # fmt: skip
            closed = [(place, digest, begin) for (place, digest), begin in open_.items()
                      if _is_lost(account, place, digest)]  # fmt: skip
            open_.clear()
            for place, digest, begin in [*charged, *closed]:
                run, purpose, number = place
                own = account.runs[run].reserved[purpose, number]
                # Where this copy answered the same round anew, the log's line is of that answer, and both left.
                anew = own.commit is not None and own.entry != digest
                if anew or place not in known:
                    found.setdefault(run, []).append((place, begin, at))
        last = at
    return {run: _together(rounds) for run, rounds in found.items()}


def _is_lost(account: Any, place: Round, digest: str) -> bool:
    run, purpose, number = place
    own = account.runs[run].reserved[purpose, number]
    return bool(own.entry == digest and own.lost)


def _known(folder: SiteFolder, dataset: str) -> set[Round]:
    """What the folder's logs tell that it left; nothing where they cannot be read."""
    from fedkit.assurance.site_budgets import PURPOSE

    accounts: dict[object, str] = {}
    found: set[Round] = set()
    with suppress(OSError):
        for line in lines_of(folder.path):
            run, purpose, number = (line.fields.get(key) for key in ("run", "purpose", "round"))
            if line.kind == "admitted" and line.fields.get("dataset") == dataset:
                accounts[run] = str(line.fields.get("account") or run)
            elif line.kind == "released" and run in accounts and type(number) is int:
                asked = purpose == "statistics"
                found.add((accounts[run] if asked else str(run), PURPOSE if asked else str(purpose), number))
    return found


def _together(rounds: list[tuple[Round, float, float]]) -> Presumed:
    by_purpose: dict[str, list[int]] = {}
    for (_, purpose, number), _, _ in rounds:
        by_purpose.setdefault(purpose, []).append(number)
    return Presumed(
        {purpose: sorted(numbers) for purpose, numbers in sorted(by_purpose.items())},
        min(begin for _, begin, _ in rounds),
        max(end for _, _, end in rounds),
    )
