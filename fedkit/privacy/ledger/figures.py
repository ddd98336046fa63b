"""What people are shown of a ledger. Nothing here decides anything."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any

from fedkit.errors import PrivacyError
from fedkit.privacy import accounting, rdp_filter
from fedkit.privacy.accounting import GaussianEvent
from fedkit.privacy.ledger.book import Account, Run, charges
from fedkit.privacy.ledger.facts import Job
from fedkit.privacy.ledger.ledger import Ledger
from fedkit.privacy.rdp_filter import Charge, merged

Computing = Callable[[str], AbstractContextManager[Any]]
"""Shows that a figure is being computed, for as long as it is."""

PLD_NOTE = "tight only if all parameters had been fixed in advance; the ledger enforces its filter's figure"


def summary(
    ledger: Ledger, dataset: str, *, job: Job | None = None, pld: bool = True, computing: Computing = nullcontext
) -> dict[str, Any]:
    """One data set's budget as plain JSON types.

    ``spent``, ``held`` and ``left`` are shares of the budget in Renyi cost, which adds up; ``epsilon_spent`` is what
    the filter vouches for so far, ``epsilon_pld`` the tight figure for display (None while it is not computed).

    Args:
        job: also say how many more of it the budget affords.
        pld: compute the PLD figure if it is not stored yet (seconds for hundreds of distinct events).
        computing: entered with a sentence while that figure is computed.
    """
    account, now = ledger.account(dataset), ledger.now_ms()
    budget, whole = account.budget, account.capacity
    shown: dict[str, Any] = {
        "dataset": dataset,
        "unit": budget.unit,
        "adjacency": budget.adjacency,
        "delta": budget.delta,
        "limit": budget.limit,
        "order": budget.order,
        "spent": account.spent / whole,
        "held": account.held(now) / whole,
        "left": account.left(now) / whole,
        "epsilon_spent": rounded_up(rdp_filter.epsilon_of(account.spent, budget.order, budget.delta)),
        "epsilon_pld": pld_epsilon(ledger, dataset, compute=pld, computing=computing),
        "epsilon_pld_note": PLD_NOTE,
        "studies": {},
        "runs": [_run(account, name, run, now) for name, run in account.runs.items()],
    }
    for run in shown["runs"]:
        study = shown["studies"].setdefault(run["study"], {"spent": 0.0, "held": 0.0})
        study["spent"] += run["spent"]
        study["held"] += run["held"]
    if job is not None:
        shown["jobs_left"] = ledger.jobs_left(dataset, job)
        shown["job"] = account.cost(job.charges) / whole
    return shown


def pld_epsilon(
    ledger: Ledger,
    dataset: str,
    more: Sequence[Charge] = (),
    *,
    compute: bool = True,
    computing: Computing = nullcontext,
) -> float | None:
    """Epsilon of everything that was reserved, by privacy-loss distributions; stored by the events' digest.

    Args:
        more: what is asked about besides.
        computing: entered with a sentence while the figure is computed.

    Returns:
        None where it was not computed before and ``compute`` is False, or where events are beyond what the accountant
        prices: say "not computed".
    """
    account = ledger.account(dataset)
    counted = merged([*charges(account.steps), *more])
    named = f"{accounting.ACCOUNTANT} {rdp_filter.accountant()} {account.budget.delta!r} {counted!r}"
    key = hashlib.sha256(named.encode()).hexdigest()
    stored = ledger.file.figure(key)
    if stored is not None or not compute:
        return stored
    with computing(f"computing the PLD figure of {dataset} ({len(counted)} kinds of events)"):
        try:
            found = rounded_up(accounting.epsilon_of([_priced(charge) for charge in counted], account.budget.delta))
        except PrivacyError:
            # Whatever is wrong with a figure that decides nothing, spent and left are told.
            return None
    # A read-only or full disk costs the reader some seconds the next time, nothing else.
    with suppress(PrivacyError):
        ledger.file.store_figure(key, found)
    return found


def _priced(charge: Charge) -> GaussianEvent:
    """The event, with at least the least rate that the accountant prices: dearer, never cheaper."""
    event = charge.event
    return GaussianEvent(max(event.sample_rate, accounting.MIN_RATE), event.noise_multiplier, event.steps)


def _run(account: Account, name: str, run: Run, now_ms: int) -> dict[str, Any]:
    state = "expired" if run.state == "held" and run.expires_ms <= now_ms else run.state
    held = account.cost(charges(run.left)) if state == "held" else 0
    reservations = run.reserved.values()
    return {
        "run": name,
        "study": run.study,
        "state": state,
        "spent": account.cost(charges(run.spent)) / account.capacity,
        "held": held / account.capacity,
        "replies": sum(reservation.commit is not None for reservation in reservations),
        "unanswered": sum(reservation.commit is None for reservation in reservations),
        "expires_ms": run.expires_ms if state == "held" else None,
    }


def rounded_up(epsilon: float) -> float:
    """Four decimals, rounded up."""
    return math.ceil(epsilon * 1e4 - 1e-9) / 1e4
