"""What follows from a ledger's facts: balances, and whether a job fits. Knows no file and no clock of its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from fedkit.errors import PrivacyError
from fedkit.privacy import rdp_filter
from fedkit.privacy.ledger.facts import (
    Committed,
    Created,
    Fact,
    Held,
    Lost,
    Opened,
    Pruned,
    Reconciled,
    Released,
    Renewed,
    Reserved,
    decode,
)
from fedkit.privacy.ledger.messages import FAILED_DIGEST
from fedkit.privacy.rdp_filter import Charge, merged
from fedkit.storage.chain import Entry

_Steps = dict[tuple[int, int], int]


@dataclass
class Reservation:
    """One message's share.

    Attributes:
        entry: digest of the entry that made it.
        commit: digest of the entry that committed it; None while nothing was released.
        stored: SHA-256 of the committed reply and of the state after it.
        lost: known only from elsewhere: its reply is not here, so the message is answered by nobody.
    """

    digest: str
    charges: tuple[Charge, ...]
    entry: str
    commit: str | None = None
    stored: tuple[str, str] = ("", "")
    lost: bool = False

    @property
    def failed(self) -> bool:
        """Whether the round was closed because its reply could not be computed."""
        return self.stored[0] == FAILED_DIGEST


@dataclass
class Run:
    """One run on one data set.

    Attributes:
        state: ``held``, or why the hold is gone; ``lost`` if only a reconciliation knows the run.
        left: (q, sigma) to steps that the hold still covers.
        reserved: (purpose, round) to its reservation.
        newest: purpose to the reservation that was committed last; one that failed left no state.
    """

    study: str
    state: Literal["held", "ended", "stopped", "expired", "lost"] | str
    asked: tuple[Charge, ...] = ()
    left: _Steps = field(default_factory=dict)
    expires_ms: int = 0
    reserved: dict[tuple[str, int], Reservation] = field(default_factory=dict)
    spent: _Steps = field(default_factory=dict)
    newest: dict[str, Reservation] = field(default_factory=dict)
    pruned: bool = False


@dataclass
class Account:
    """The budget of one data-set identity.

    Attributes:
        capacity: units at ``budget.order`` that may be spent in all.
        spent: units reserved so far, whether or not they were committed.
    """

    budget: Created
    capacity: int
    spent: int = 0
    steps: _Steps = field(default_factory=dict)
    runs: dict[str, Run] = field(default_factory=dict)

    def cost(self, charges: Iterable[Charge]) -> int:
        """Units that charges cost at this account's order."""
        return rdp_filter.cost(charges, self.budget.order)

    def held(self, now_ms: int | None = None) -> int:
        """Units that open holds still cover; with ``now_ms``, without those that have expired."""
        open_ = (run for run in self.runs.values() if run.state == "held")
        return sum(self.cost(charges(run.left)) for run in open_ if now_ms is None or run.expires_ms > now_ms)

    def left(self, now_ms: int | None = None) -> int:
        """Units that a new run can get."""
        return max(0, self.capacity - self.spent - self.held(now_ms))


def charges(steps: Mapping[tuple[int, int], int]) -> tuple[Charge, ...]:
    """(q, sigma) to steps, as charges."""
    return merged(Charge(rate, sigma, count) for (rate, sigma), count in steps.items())


class Book:
    """The state after some entries; costs are recomputed from the raw events, never read from the file.

    Attributes:
        charged: (entry, data set, charges) of the reservations of other copies that reconciliations charged here.
    """

    def __init__(self) -> None:
        self.last: Entry | None = None
        self.ledger = ""
        self.accounts: dict[str, Account] = {}
        self.charged: set[tuple[str, str, tuple[Charge, ...]]] = set()

    def apply(self, entry: Entry) -> None:
        """Fold in the next entry of a verified chain.

        Raises:
            PrivacyError: FK330, an entry that is unknown or makes no sense where it stands.
        """
        fact, _ = decode(entry.body)
        try:
            self._apply(fact, entry.digest)
        except (KeyError, ValueError) as error:
            raise PrivacyError(
                f"entry {entry.seq} of the ledger contradicts those before it ({error})", code="FK330"
            ) from error
        self.last = entry

    def account(self, dataset: str) -> Account:
        """The account of a data set.

        Raises:
            PrivacyError: FK340, none by that name.
        """
        if dataset not in self.accounts:
            known = ", ".join(sorted(self.accounts)) or "none yet"
            raise PrivacyError(
                f"the ledger has no budget for the data set {dataset} (it knows: {known})",
                code="FK340",
                remedy="create the budget first",
            )
        return self.accounts[dataset]

    def expired(self, now_ms: int) -> list[tuple[str, str]]:
        """(data set, run) of the holds whose time has passed and which no entry has released yet."""
        return [
            (dataset, name)
            for dataset, account in self.accounts.items()
            for name, run in account.runs.items()
            if run.state == "held" and run.expires_ms <= now_ms
        ]

    def _apply(self, fact: Fact, digest: str) -> None:
        if (self.last is None) != isinstance(fact, Opened):
            raise ValueError("a ledger is opened once, at its start")
        match fact:
            case Opened():
                self.ledger = fact.ledger
            case Created():
                self._create(fact)
            case Held():
                run = self.accounts[fact.dataset].runs.setdefault(fact.run, Run(fact.study, "lost"))
                if run.state != "lost":
                    raise ValueError(f"run {fact.run} was admitted before")
                run.study, run.state, run.expires_ms = fact.study, "held", fact.expires_ms
                run.asked, run.left = fact.charges, _tally(fact.charges)
            case Reserved():
                self._reserve(fact, digest)
            case Committed():
                run = self.accounts[fact.dataset].runs[fact.run]
                reservation = run.reserved[fact.purpose, fact.round]
                if reservation.commit is not None or reservation.digest != fact.digest:
                    raise ValueError("a second reply")
                reservation.commit, reservation.stored = digest, (fact.reply, fact.state)
                if not reservation.failed:
                    run.newest[fact.purpose] = reservation
            case Renewed():
                run = self.accounts[fact.dataset].runs[fact.run]
                if run.state != "held" or fact.expires_ms <= run.expires_ms:
                    raise ValueError(f"run {fact.run} has no hold that this renews")
                run.expires_ms = fact.expires_ms
            case Released():
                run = self.accounts[fact.dataset].runs[fact.run]
                run.state, run.left = fact.reason, {}
            case Pruned():
                self.accounts[fact.dataset].runs[fact.run].pruned = True
            case Reconciled():
                self._reconcile(fact)

    def _create(self, fact: Created) -> None:
        if fact.dataset in self.accounts:
            raise ValueError(f"a second budget for {fact.dataset}")
        capacity = rdp_filter.capacity(fact.limit, fact.delta, fact.order)
        self.accounts[fact.dataset] = Account(fact, capacity)

    def _reserve(self, fact: Reserved, digest: str) -> None:
        account = self.accounts[fact.dataset]
        run = account.runs[fact.run]
        if (fact.purpose, fact.round) in run.reserved:
            raise ValueError("a round reserved twice")
        run.reserved[fact.purpose, fact.round] = Reservation(fact.digest, fact.charges, digest)
        self._spend(account, run, fact.charges)

    def _reconcile(self, fact: Reconciled) -> None:
        for created in fact.created:
            self._create(created)
        for lost in fact.charged:
            self._charge(lost)
        for account in self.accounts.values():
            for reservation in (each for run in account.runs.values() for each in run.reserved.values()):
                # Another copy may have answered it after the backup was made: nobody answers it a second time.
                reservation.lost = reservation.lost or reservation.commit is None

    def _charge(self, lost: Lost) -> None:
        self.charged.add((lost.entry, lost.dataset, lost.charges))
        account = self.accounts[lost.dataset]
        run = account.runs.setdefault(lost.run, Run(lost.study, "lost"))
        # Where this copy answered the same round anew, both were released and both are charged.
        run.reserved.setdefault((lost.purpose, lost.round), Reservation(lost.digest, lost.charges, lost.entry))
        self._spend(account, run, lost.charges)

    @staticmethod
    def _spend(account: Account, run: Run, spent: tuple[Charge, ...]) -> None:
        account.spent += account.cost(spent)
        for key, count in _tally(spent).items():
            account.steps[key] = account.steps.get(key, 0) + count
            run.spent[key] = run.spent.get(key, 0) + count
            if key in run.left:
                run.left[key] = max(0, run.left[key] - count)


def _tally(spent: tuple[Charge, ...]) -> _Steps:
    return {(charge.rate_e9, charge.sigma_e6): charge.steps for charge in merged(spent)}
