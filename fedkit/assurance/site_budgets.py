"""One question to several sites, each of which pays from its own ledger: none pays unless all can.

Hold at every site, reserve at every site, only then read records; commit each reply before it is used. The same
question under the same run name is answered from the ledger, at no charge.
"""

from __future__ import annotations

import math
import shlex
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from fedkit.data.names import require_site_names
from fedkit.errors import DataError, PrivacyError
from fedkit.privacy import accounting
from fedkit.privacy.accounting import GaussianEvent
from fedkit.privacy.events import gaussian_delta
from fedkit.privacy.ledger import checks
from fedkit.privacy.ledger.book import Account
from fedkit.privacy.ledger.export import read_export
from fedkit.privacy.ledger.facts import Job
from fedkit.privacy.ledger.ledger import Ledger
from fedkit.privacy.ledger.messages import Message
from fedkit.privacy.ledger.place import is_there
from fedkit.privacy.rdp_filter import UNIT

PURPOSE = "stats"
HEAD = ".head.json"
"""SITE.head.json beside a ledger is an export that was kept elsewhere: an older ledger is refused."""
_HOLD_SECONDS = 3600.0
T = TypeVar("T")


@dataclass(frozen=True)
class Question:
    """One request as every site's ledger sees it.

    Attributes:
        run: the run's name; a site where that run is over without an answer takes the next free ``run-2``, ``run-3``.
        delta: at which the question's epsilon is told; that of every budget.
        digests: site to the digest of the question at that site.
    """

    dataset: str
    study: str
    run: str
    job: Job
    events: tuple[GaussianEvent, ...]
    delta: float
    digests: Mapping[str, str]


@dataclass(frozen=True)
class SiteCharge:
    """What a question takes from one site's budget.

    Attributes:
        state: ``new``, charged now; ``paid``, reserved before and never answered; ``answered``, the stored reply is
            used again. The last two are charged nothing.
        share, left: of the whole budget, in Renyi cost: what the question takes, and what is left before it.
        limit: the budget's epsilon, at ``delta``.
    """

    run: str
    state: str
    share: float
    left: float
    limit: float
    delta: float


@contextmanager
def opened(folder: Path, question: Question) -> Iterator[dict[str, Ledger]]:
    """Open the ledger of each site that is asked, ``folder/SITE.sqlite``.

    A ledger that is older than the export beside it, ``SITE.head.json``, is refused.

    Raises:
        PrivacyError: FK373, a name that is no plain file name; FK355, two sites with one ledger; FK330 to FK338, every
            ledger that cannot be opened.
    """
    sites = list(question.digests)
    paths = ledger_paths(folder, sites)
    there = [path.stat() for path in paths.values() if is_there(path)]
    if len({(status.st_dev, status.st_ino) for status in there}) < len(there):
        raise PrivacyError(
            f"{folder} holds one ledger for two sites",
            code="FK355",
            remedy="give each site a file of its own, without links",
        )
    with ExitStack() as stack:
        yield _each(sites, lambda site: stack.enter_context(_open(paths[site], question)))


def ledger_paths(folder: Path, sites: Sequence[str]) -> dict[str, Path]:
    """Where each site's ledger lies.

    Raises:
        PrivacyError: FK373, a site's name that is no plain file name, or two that some disks take for one.

    >>> ledger_paths(Path("budgets"), ["va"])["va"].as_posix()
    'budgets/va.sqlite'
    """
    try:
        require_site_names(sites)
    except DataError as error:
        raise PrivacyError(error.message, code="FK373", remedy=error.remedy) from None
    same = {unicodedata.normalize("NFKC", site).casefold() for site in sites}
    if len(same) < len(sites):
        raise PrivacyError(
            "two sites' names differ in upper and lower case only, and would be one ledger on some disks",
            code="FK373",
            remedy="rename one of them",
        )
    return {site: folder / f"{site}.sqlite" for site in sites}


def charges(ledgers: Mapping[str, Ledger], question: Question) -> dict[str, SiteCharge]:
    """What the question takes from each budget; nothing is written.

    Raises:
        PrivacyError: FK372, budgets that do not afford it; FK340, FK341, FK347 and others, a site whose ledger would
            refuse it. All sites' problems at once.
    """
    found = _each(list(ledgers), lambda site: _charge(ledgers[site], site, question))
    poor = [site for site, charge in found.items() if charge.state == "new" and charge.share > charge.left]
    if poor:
        raise _unaffordable(ledgers, question, {site: found[site] for site in poor})
    return found


def run_at(account: Account, question: Question, site: str) -> tuple[str, str]:
    """The name under which a site's ledger knows a question, or would charge it, and the state (see ``SiteCharge``).

    Raises:
        PrivacyError: FK345, FK346, FK347, the name is another job's or question's.
    """
    number, name = 1, question.run
    while True:
        there = account.runs.get(name)
        if there is None:
            return name, "new"
        reservation = there.reserved.get((PURPOSE, 0))
        if reservation is not None and not there.pruned and not reservation.lost:
            checks.same_message(reservation, question.digests[site], question.job.charges, 0, name)
            if reservation.commit is not None:
                return name, "answered"
            if there.state not in ("ended", "stopped"):
                return name, "paid"
        elif reservation is None and there.state == "held":
            checks.same_job(there, name, question.study, question.job)
            return name, "new"
        number += 1
        name = f"{question.run}-{number}"


def ask(
    ledgers: Mapping[str, Ledger],
    question: Question,
    found: Mapping[str, SiteCharge],
    answer: Callable[[str], bytes],
) -> dict[str, bytes]:
    """Charge every site, then compute, commit and return every site's reply.

    Args:
        found: from ``charges``.
        answer: computes one site's reply with real noise; called only once all sites have reserved, and only for those
            without a stored reply.

    Raises:
        PrivacyError: whatever a ledger refuses. Before the first reservation what was held is freed; after it, the same
            question under the same run name goes on where this one stopped, and is charged nothing twice.
    """
    _hold(ledgers, question, found)
    tickets = {}
    for site, ledger in ledgers.items():
        message = Message(question.dataset, found[site].run, 0, question.digests[site], PURPOSE)
        tickets[site] = ledger.reserve(message, question.events)
    replies = {}
    for site, ticket in tickets.items():
        reply = ticket.reply
        if reply is None:
            reply = ledgers[site].commit(ticket.message, answer(site)).reply
        ledgers[site].end(question.dataset, ticket.message.run)
        replies[site] = reply
    return replies


def _open(path: Path, question: Question) -> Ledger:
    if not is_there(path):
        raise PrivacyError(f"there is no ledger at {path}", code="FK330", remedy=_create(path, question))
    head = path.with_name(path.stem + HEAD)
    ledger = Ledger(path, head=read_export(head) if is_there(head) else None)
    try:
        ledger.account(question.dataset)
    except PrivacyError as error:
        ledger.close()
        raise PrivacyError(error.message, code=error.code, remedy=_create(path, question)) from None
    return ledger


def _create(path: Path, question: Question) -> str:
    words = ["fedkit", "ledger", "create", str(path), "--dataset", question.dataset, "--unit", question.job.unit]
    return f"`{shlex.join([*words, '--epsilon', '3', '--delta', repr(question.delta)])}`, with the site's own epsilon"


def _hold(ledgers: Mapping[str, Ledger], question: Question, found: Mapping[str, SiteCharge]) -> None:
    held: list[str] = []
    try:
        for site, charge in found.items():
            if charge.state == "new":
                expires = ledgers[site].now_ms() / 1000 + _HOLD_SECONDS
                ledgers[site].admit(question.dataset, charge.run, question.study, question.job, expires)
                held.append(site)
    except BaseException:
        for site in held:
            ledgers[site].end(question.dataset, found[site].run, "stopped")
        raise


def _charge(ledger: Ledger, site: str, question: Question) -> SiteCharge:
    account = ledger.account(question.dataset)
    checks.fits(account, question.job)
    if question.delta != account.budget.delta:
        raise PrivacyError(
            f"the question is priced at delta {question.delta!r}; the budget is at delta {account.budget.delta!r}"
            " for good",
            code="FK353",
            remedy=f"give --delta {account.budget.delta!r}",
        )
    run, state = run_at(account, question, site)
    limit, delta, whole = account.budget.limit, account.budget.delta, account.capacity
    left = account.left(ledger.now_ms())
    if run in account.runs and state == "new":
        # Its own hold, from an attempt that was interrupted, is there for it.
        left += account.cost(question.job.charges)
    asked = account.cost(question.job.charges) if state == "new" else 0
    return SiteCharge(run, state, asked / whole, left / whole, limit, delta)


def _unaffordable(ledgers: Mapping[str, Ledger], question: Question, poor: Mapping[str, SiteCharge]) -> PrivacyError:
    told = [
        f"{site} would pay {100 * charge.share:.3g} % of its budget (epsilon {charge.limit:g} at delta"
        f" {charge.delta:g}) and has {100 * max(0.0, charge.left):.3g} % left"
        for site, charge in poor.items()
    ]
    affordable = min(_affordable(ledgers[site].account(question.dataset), question, poor[site]) for site in poor)
    remedy = f"give --epsilon {affordable:g} or less, or ask" if affordable > 0 else "ask"
    return PrivacyError(
        f"{'; '.join(told)}; nothing was spent at any site",
        code="FK372",
        remedy=f"{remedy} a question that was answered before again, which is free; what was spent never comes back",
    )


def _affordable(account: Account, question: Question, charge: SiteCharge) -> float:
    """An epsilon of such a request that the site can still pay, rounded down; 0 if none is."""
    (asked,) = question.events
    left = max(0.0, charge.left) * account.capacity / UNIT
    # A Gaussian costs order / (2 sigma^2); a percent more noise than that covers all rounding.
    sigma = 1.01 * math.sqrt(account.budget.order * asked.steps / (2 * left)) if left > 0 else math.inf
    if sigma > 1e4:
        return 0.0
    noise = max(sigma, asked.noise_multiplier)
    epsilon = accounting.epsilon(1.0, noise, asked.steps, gaussian_delta(question.delta))
    return math.floor(epsilon * 100) / 100


def _each(sites: Sequence[str], do: Callable[[str], T]) -> dict[str, T]:
    """Do it for every site; what failed at any is told of all of them together."""
    done: dict[str, T] = {}
    failed: list[PrivacyError] = []
    for site in sites:
        try:
            done[site] = do(site)
        except PrivacyError as error:
            failed.append(PrivacyError(f"site {site}: {error.message}", code=error.code, remedy=error.remedy))
    if len(failed) == 1:
        raise failed[0]
    if failed:
        lines = "\n".join(f"  - {error}" for error in failed)
        raise PrivacyError(f"{len(failed)} problems\n{lines}", code="FK300")
    return done
