"""What a ledger refuses, and in which words."""

from __future__ import annotations

import math
from collections.abc import Sequence

from fedkit.errors import PrivacyError
from fedkit.privacy import rdp_filter
from fedkit.privacy.accounting import ADJACENCY
from fedkit.privacy.events import RESIDUE
from fedkit.privacy.ledger.book import Account, Reservation, Run
from fedkit.privacy.ledger.facts import Created, Job
from fedkit.privacy.rdp_filter import Charge

UNITS = ("record", "patient")
_LONGEST = 200


def names(**given: str) -> None:
    """Names must say something, and fit on a line."""
    for what, name in given.items():
        if not (isinstance(name, str) and name and len(name) <= _LONGEST and name.isprintable()):
            raise PrivacyError(
                f"the {what} {str(name)[:40]!r} is not 1 to {_LONGEST} printable characters",
                code="FK343",
                remedy=f"give the {what} a short name of letters and digits",
            )


def budget(dataset: str, unit: str, adjacency: str) -> None:
    """A budget counts units that exist, under the adjacency that the costs are computed for."""
    names(dataset=dataset)
    if unit not in UNITS:
        raise PrivacyError(
            f"unit {unit!r} is not record or patient",
            code="FK343",
            remedy="give patient, or record where each row is a unit of its own",
        )
    if adjacency != ADJACENCY:
        raise PrivacyError(f"adjacency {adjacency!r} is not {ADJACENCY}", code="FK343", remedy=f"use {ADJACENCY}")


def same_budget(there: Created, wanted: Created, *, given_order: bool) -> Created:
    """A budget is never changed."""
    same = (there.unit, there.adjacency, there.limit, there.delta) == (
        wanted.unit,
        wanted.adjacency,
        wanted.limit,
        wanted.delta,
    )
    if not same or (given_order and there.order != wanted.order):
        raise PrivacyError(
            f"the budget of {there.dataset} is epsilon {there.limit:g} at delta {there.delta:g} for one {there.unit}"
            f" ({there.adjacency}, order {there.order:g}) for good; it cannot become epsilon {wanted.limit:g} at delta"
            f" {wanted.delta:g} for one {wanted.unit} ({wanted.adjacency}, order {wanted.order:g})",
            code="FK340",
            remedy="keep the declared values; only another population has another budget",
        )
    return there


def fits(account: Account, job: Job) -> None:
    """A job protects the same unit under the same adjacency, and has a cost."""
    same_guarantee(account, job.unit, job.adjacency)
    if not job.charges:
        raise PrivacyError("the job releases nothing", code="FK305")


def same_guarantee(account: Account, unit: str, adjacency: str) -> None:
    """Both protect the same unit under the same adjacency."""
    there = account.budget
    if (unit, adjacency) != (there.unit, there.adjacency):
        raise PrivacyError(
            f"the job protects one {unit} ({adjacency}); the budget of {there.dataset} is for one {there.unit}"
            f" ({there.adjacency})",
            code="FK341",
            remedy="a budget for single records cannot vouch for patients: create one with --unit patient"
            if there.unit == "record"
            else "set data.unit_column to the column that names the patient",
        )


def same_delta(account: Account, delta: float) -> None:
    """A plan's delta is the budget's: an epsilon says nothing at another one."""
    there = account.budget
    if delta != there.delta:
        raise PrivacyError(
            f"the plan is made at delta {delta!r}; the budget of {there.dataset} is at delta {there.delta!r} for good",
            code="FK353",
            remedy=f"set privacy.delta={there.delta!r}",
        )


def same_job(there: Run, run: str, study: str, job: Job) -> bool:
    """A run is admitted once, for one job; what a lost copy charged stays with its study. Whether it was admitted."""
    lost = there.state == "lost"
    if not lost:
        open_hold(there, run)
    if there.study != study or (there.asked != job.charges and not lost):
        raise PrivacyError(
            f"run {run} was admitted for another job or study", code="FK346", remedy="give the new job a run of its own"
        )
    return not lost


def future(expires: float, now: float) -> None:
    """A hold lasts."""
    if not now < expires < now + 100 * 366 * 86400:
        raise PrivacyError(
            f"the hold would expire at {expires:.0f}; it is {now:.0f} (seconds since 1970)",
            code="FK345",
            remedy="set a later expiry, or correct the clock",
        )


def affordable(account: Account, dataset: str, job: Job, now_ms: int | None = None) -> None:
    """Spent, held by others and asked for together stay within the capacity; see ``Account.held`` for ``now_ms``."""
    asked, left, there = account.cost(job.charges), account.left(now_ms), account.budget
    most = math.floor(there.delta * rdp_filter.RESIDUE_SHARE / RESIDUE)
    if len(account.runs) >= most:
        raise PrivacyError(
            f"{len(account.runs):,} runs were admitted on {dataset}; its delta {there.delta:g} pays for the residues of"
            f" {most:,}",
            code="FK339",
            remedy="nothing can be run on this budget any more",
        )
    if asked > left:
        share = 100 * asked / account.capacity
        raise PrivacyError(
            f"the run would take {share:.3g} % of the budget of {dataset} (epsilon {there.limit:g} at delta"
            f" {there.delta:g}); {100 * left / account.capacity:.3g} % is left",
            code="FK339",
            remedy="lower federation.num_rounds or raise the noise; what was spent never comes back",
        )


def charged(asked: Sequence[Charge]) -> None:
    """Whatever leaves is charged."""
    if not asked:
        raise PrivacyError("a message that releases nothing needs no reservation, and gets none", code="FK305")


def message(dataset: str, run: str, round_: int, purpose: str, digest: str) -> None:
    """A message is named in full."""
    names(dataset=dataset, run=run, purpose=purpose, digest=digest)
    if isinstance(round_, bool) or not isinstance(round_, int) or round_ < 0:
        raise PrivacyError(
            f"round {round_!r} is not a whole number of at least 0", code="FK343", remedy="count rounds from 1"
        )


def known_run(account: Account, run: str) -> Run:
    """The run, if it was ever admitted."""
    if run not in account.runs:
        raise PrivacyError(
            f"run {run} was never admitted to {account.budget.dataset}", code="FK345", remedy="admit it first"
        )
    return account.runs[run]


def open_hold(there: Run, run: str) -> None:
    """The run still holds its budget."""
    if there.state != "held":
        raise PrivacyError(
            f"run {run} holds no budget: its hold is {there.state}", code="FK345", remedy="submit a new run"
        )


def unexpired(there: Run, run: str, now_ms: int) -> None:
    """A hold whose time has passed is gone, whether or not an entry says so yet."""
    open_hold(there, run)
    if there.expires_ms <= now_ms:
        raise PrivacyError(f"run {run} holds no budget: its hold has expired", code="FK345", remedy="submit a new run")


def not_over(there: Run, run: str) -> None:
    """What a run paid for stays usable after its hold expired, not after it was ended."""
    if there.state in ("ended", "stopped"):
        open_hold(there, run)


def over(there: Run, run: str) -> None:
    """Nobody waits for the run's replies any more."""
    if there.state == "held":
        raise PrivacyError(f"run {run} still holds budget", code="FK345", remedy="end it first")


def within_hold(account: Account, there: Run, run: str, asked: Sequence[Charge]) -> None:
    """A round takes no more than what the run still holds, and never what the budget lacks."""
    for charge in asked:
        left = there.left.get((charge.rate_e9, charge.sigma_e6), 0)
        if charge.steps > left:
            raise PrivacyError(
                f"run {run} asks for {charge.steps} steps at q {charge.rate_e9 / 1e9:g} and sigma"
                f" {charge.sigma_e6 / 1e6:g}; its hold has {left} left",
                code="FK346",
                remedy="submit a new run for more rounds",
            )
    if account.spent + account.cost(asked) > account.capacity:
        raise PrivacyError(
            f"the budget of {account.budget.dataset} has been spent: epsilon {account.budget.limit:g} would be"
            " exceeded",
            code="FK339",
            remedy="stop the run; what was spent never comes back",
        )


def same_message(there: Reservation, digest: str, asked: Sequence[Charge], round_: int, run: str) -> None:
    """A reservation serves the message that it was made for, and no other."""
    if there.digest != digest or tuple(there.charges) != tuple(asked):
        raise PrivacyError(
            f"round {round_} of run {run} was reserved for another message",
            code="FK347",
            remedy="send the original message again, or go on with the next round",
        )
    if there.lost:
        raise gone(f"round {round_} of run {run}")


def reserved(there: Run, purpose: str, round_: int, run: str) -> Reservation:
    """A reply is committed against its reservation."""
    if (purpose, round_) not in there.reserved:
        raise PrivacyError(
            f"round {round_} of run {run} has no reservation for {purpose}", code="FK348", remedy="reserve it first"
        )
    return there.reserved[purpose, round_]


def gone(what: str) -> PrivacyError:
    """The reply was deleted, or lost with a disk: computing it anew would release it a second time."""
    return PrivacyError(
        f"the reply to {what} is no longer here and may have been sent before",
        code="FK349",
        remedy="go on with the next round",
    )


def reason(given: str) -> None:
    """Why a hold is freed."""
    if given not in ("ended", "stopped"):
        raise PrivacyError(f"reason {given!r} is not ended or stopped", code="FK343", remedy="give ended or stopped")
