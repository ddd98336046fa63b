"""What a site calls: admit a run, reserve before training, commit before sending."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from fedkit.privacy import rdp_filter
from fedkit.privacy.accounting import ADJACENCY, GaussianEvent
from fedkit.privacy.ledger import checks, replies
from fedkit.privacy.ledger.book import Account, Book, charges
from fedkit.privacy.ledger.export import Export, check_against, exported
from fedkit.privacy.ledger.facts import Committed, Created, Job, Pruned, Released, Renewed, Reserved, held
from fedkit.privacy.ledger.file import LedgerFile, create
from fedkit.privacy.ledger.messages import Answer, Message, Ticket
from fedkit.privacy.rdp_filter import merged, rounded
from fedkit.storage.chain import Head
from fedkit.storage.sealing import Vault


class Ledger:
    """One site's ledger file, opened.

    Opening verifies the chain and recomputes every cost from the raw events. One object a thread.

    Args:
        clock: seconds since the epoch; decides only when a hold expires.
        head: the newest export that is known elsewhere; an older ledger, or another history, is refused.
        vault: seals what is stored of replies; budgets and charges need none.

    Guarantee: for each data set, everything that was released after ``reserve`` and ``commit`` is (limit, delta)-DP
    for one unit under the budget's adjacency, with jobs chosen adaptively, if every release was as noisy as its
    events say (Feldman and Zrnic 2021).

    Raises:
        PrivacyError: FK330 to FK338, see the package.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        clock: Callable[[], float] = time.time,
        head: Export | Head | None = None,
        read_only: bool = False,
        busy_seconds: float = 30.0,
        vault: Vault | None = None,
    ) -> None:
        self.file = LedgerFile(Path(path), read_only=read_only, busy_seconds=busy_seconds, vault=vault)
        self._clock = clock
        if head is not None:
            try:
                check_against(self.file.entries(), self.file.book, head)
            except BaseException:
                self.file.close()
                raise

    @classmethod
    def create(cls, path: Path | str, *, clock: Callable[[], float] = time.time) -> Ledger:
        """Make a new, empty ledger and open it.

        Raises:
            PrivacyError: FK330, a file is there already; FK336, FK337, it cannot be written.
        """
        create(Path(path), clock())
        return cls(path, clock=clock)

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        self.file.close()

    def create_budget(
        self,
        dataset: str,
        *,
        unit: str,
        limit: float,
        delta: float,
        adjacency: str = ADJACENCY,
        order: float | None = None,
    ) -> Created:
        """Fix the budget of a data-set identity, once and for all; asking for the same again changes nothing.

        Args:
            dataset: the declared population; a new file of the same patients is the same data set.
            limit: epsilon in all.
            order: where the filter works; by default the order that admits most.

        Raises:
            PrivacyError: FK301, FK302, FK343, impossible values; FK340, a budget with other constants is there.
        """
        checks.budget(dataset, unit, adjacency)
        chosen = rdp_filter.best_order(limit, delta) if order is None else float(order)
        rdp_filter.capacity(limit, delta, chosen)
        wanted = Created(dataset, unit, adjacency, float(limit), float(delta), chosen)
        with self.file.writing() as book:
            if dataset in book.accounts:
                return checks.same_budget(book.accounts[dataset].budget, wanted, given_order=order is not None)
            self.file.append(wanted, self._clock())
        return wanted

    def admit(self, dataset: str, run: str, study: str, job: Job, expires: float) -> None:
        """Hold a run's whole cost, so that it can be sure to finish; asking for the same again changes nothing.

        Args:
            expires: seconds since the epoch at which whatever is not reserved by then is free for others.

        Raises:
            PrivacyError: FK339, not enough is left; FK340, no such budget; FK341, another unit or adjacency; FK345,
                the run is over or ``expires`` has passed; FK346, the run was admitted for another job.
        """
        checks.names(dataset=dataset, run=run, study=study)
        self.sweep()
        with self.file.writing() as book:
            account, now = book.account(dataset), self._clock()
            checks.fits(account, job)
            known = account.runs.get(run)
            if known is not None and checks.same_job(known, run, study, job):
                return
            checks.future(expires, now)
            checks.affordable(account, dataset, job)
            self.file.append(held(dataset, run, study, job, expires), now)

    def renew(self, dataset: str, run: str, expires: float) -> None:
        """Let an open hold last longer; it covers what it still covers, and no more.

        A hold that lasts as long already, or that covers nothing any more, stays as it is.

        Raises:
            PrivacyError: FK340, no such budget; FK345, no open hold (one that has expired cannot be revived), or
                ``expires`` has passed.
        """
        self.sweep()
        with self.file.writing() as book:
            found, now = checks.known_run(book.account(dataset), run), self._clock()
            checks.unexpired(found, run, int(now * 1000))
            checks.future(expires, now)
            if int(expires * 1000) > found.expires_ms and charges(found.left):
                self.file.append(Renewed(dataset, run, int(expires * 1000)), now)

    def reserve(self, message: Message, events: Sequence[GaussianEvent]) -> Ticket:
        """Spend a part of a run's hold for one message, on disk, before any record is read.

        The same message may come again: its reservation is used again as long as nothing was committed, and its
        reply is sent again once it was. Neither is charged.

        Args:
            events: what the reply will release.

        Raises:
            PrivacyError: FK345, no open hold; FK346, more than the hold has left; FK347, another message has this
                round; FK349, the reply was pruned or lost with a disk; FK354, it failed; FK339, the budget is spent.
        """
        checks.message(message.dataset, message.run, message.round, message.purpose, message.digest)
        asked = merged(rounded(event) for event in events)
        checks.charged(asked)
        self.sweep()
        with self.file.writing() as book:
            account = book.account(message.dataset)
            run = checks.known_run(account, message.run)
            found = run.reserved.get((message.purpose, message.round))
            what = f"round {message.round} of run {message.run}"
            if found is not None:
                checks.same_message(found, message.digest, asked, message.round, message.run)
                if found.commit is not None:
                    return Ticket(message, replies.answer(self.file, found, what), fresh=False)
                checks.not_over(run, message.run)
                return Ticket(message, None, fresh=False)
            checks.open_hold(run, message.run)
            checks.within_hold(account, run, message.run, asked)
            fact = Reserved(**asdict(message), charges=asked, accountant=rdp_filter.accountant())
            self.file.append(fact, self._clock())
        return Ticket(message, None, fresh=True)

    def commit(self, message: Message, reply: bytes, state: bytes = b"") -> Answer:
        """Store a reply and the state after it, on disk, before anything is sent; only these bytes are ever sent.

        Returns:
            What to send: the bytes that were committed first, whatever ``reply`` is now. ``FAILED`` closes the round.

        Raises:
            PrivacyError: FK348, the message has no reservation; FK347, another message has this round; FK349, the
                reservation was lost and reconciled.
        """
        with self.file.writing() as book:
            account = book.account(message.dataset)
            run = checks.known_run(account, message.run)
            found = checks.reserved(run, message.purpose, message.round, message.run)
            checks.same_message(found, message.digest, found.charges, message.round, message.run)
            if found.commit is None:
                digests = hashlib.sha256(reply).hexdigest(), hashlib.sha256(state).hexdigest()
                fact = Committed(**asdict(message), reply=digests[0], state=digests[1])
                entry = self.file.append(fact, self._clock())
                self.file.store_reply(entry.digest, reply, state)
            else:
                reply = replies.stored(self.file, found, f"round {message.round} of run {message.run}")[0]
        return Answer(reply, self.receipt(message))

    def receipt(self, message: Message) -> dict[str, Any]:
        """The receipt of a reserved message again, as :meth:`commit` gives it.

        Raises:
            PrivacyError: FK345, FK348, no such reservation; FK347, another message has this round.
        """
        book = self.file.refresh()
        run = checks.known_run(book.account(message.dataset), message.run)
        found = checks.reserved(run, message.purpose, message.round, message.run)
        checks.same_message(found, message.digest, found.charges, message.round, message.run)
        return {"ledger": book.ledger, "entry": asdict(self.file.entry(found.entry))}

    def state(self, dataset: str, run: str, purpose: str = "train") -> bytes | None:
        """The state that the run's newest commit for a purpose left, failures left out; None before the first."""
        found = checks.known_run(self.file.refresh().account(dataset), run).newest.get(purpose)
        return None if found is None else replies.stored(self.file, found, f"the newest round of run {run}")[1]

    def end(self, dataset: str, run: str, reason: str = "ended") -> None:
        """Free what remains of a run's hold; what it reserved stays spent. Ending twice changes nothing.

        Args:
            reason: ``ended`` or ``stopped``.
        """
        checks.reason(reason)
        with self.file.writing() as book:
            if checks.known_run(book.account(dataset), run).state == "held":
                self.file.append(Released(dataset, run, reason), self._clock())

    def prune(self, dataset: str, run: str) -> None:
        """Delete the replies and states of a run that is over; its charges and its history stay.

        Raises:
            PrivacyError: FK345, the run still holds budget.
        """
        with self.file.writing() as book:
            found = checks.known_run(book.account(dataset), run)
            checks.over(found, run)
            if not found.pruned:
                self.file.append(Pruned(dataset, run), self._clock())
                for reservation in found.reserved.values():
                    if reservation.commit is not None:
                        self.file.drop_reply(reservation.commit)

    def account(self, dataset: str) -> Account:
        """The data set's account as it stands; not to be changed.

        Raises:
            PrivacyError: FK340, no such budget.
        """
        return self.file.refresh().account(dataset)

    def book(self) -> Book:
        """Everything that follows from the entries so far; not to be changed."""
        return self.file.refresh()

    def jobs_left(self, dataset: str, job: Job) -> int:
        """How many more jobs like this one the budget affords, one after the other.

        Raises:
            PrivacyError: FK340, FK341.
        """
        account = self.account(dataset)
        checks.fits(account, job)
        return account.left(int(self._clock() * 1000)) // account.cost(job.charges)

    def now_ms(self) -> int:
        """The clock, in milliseconds since the epoch."""
        return int(self._clock() * 1000)

    def export(self) -> Export:
        """All entries and the head, to be kept elsewhere: what a restored backup is held against."""
        self.file.refresh()
        return exported(self.file.entries(), self.file.book.ledger)

    def verify(self) -> int:
        """Check every stored reply against its entry, as `replies.replies`; returns how many could be."""
        return replies.replies(self.file)[0]

    def sweep(self) -> None:
        """Turn holds whose time has passed into releases, so that a clock set back cannot revive them."""
        now = self.now_ms()
        if not self.file.refresh().expired(now):
            return
        with self.file.writing() as book:
            for dataset, run in book.expired(now):
                self.file.append(Released(dataset, run, "expired"), self._clock())
