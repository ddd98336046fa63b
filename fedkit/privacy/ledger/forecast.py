"""What a run would take from a budget, and what could be asked of it instead. Decides nothing; writes nothing."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from fedkit.errors import PrivacyError
from fedkit.privacy import accounting, rdp_filter
from fedkit.privacy.accounting import MAX_SIGMA, MIN_SIGMA, GaussianEvent
from fedkit.privacy.calibration import MAX_EPSILON, MIN_EPSILON, noise_multiplier_for
from fedkit.privacy.events import evaluation_events, events_of, gaussian_delta, round_events
from fedkit.privacy.ledger import checks
from fedkit.privacy.ledger.book import Account
from fedkit.privacy.ledger.facts import job_of
from fedkit.privacy.ledger.figures import Computing, pld_epsilon
from fedkit.privacy.ledger.ledger import Ledger
from fedkit.privacy.rdp_filter import rounded
from fedkit.types import PrivacyPlan

_ROUND = 1e4
_TRIES = 6


def forecast(
    ledger: Ledger, dataset: str, plan: PrivacyPlan, *, pld: bool = True, computing: Computing = nullcontext
) -> dict[str, Any]:
    """What the whole run of a plan would take, as plain JSON types.

    ``spent``, ``held``, ``left``, ``takes`` and ``left_after`` are shares of the budget in Renyi cost, which adds up.
    ``epsilon_filter`` is what the ledger's filter charges for this run alone, at the budget's fixed order;
    ``epsilon_filter_after`` and ``epsilon_pld_after`` are of everything spent and this run together, and ``binds`` is
    the larger of the two, which meets the limit first. ``rounds_affordable`` has the plan's noise and its evaluations.

    Args:
        pld: compute the PLD figure if it is not stored (seconds for a long ledger); else it may be None.
        computing: entered with a sentence while that figure is computed.

    Raises:
        PrivacyError: FK340, no such budget; FK341, FK353, another unit, adjacency or delta; FK342, seeded noise.
    """
    account, now = ledger.account(dataset), ledger.now_ms()
    budget, whole = account.budget, account.capacity
    job = job_of(plan)
    checks.fits(account, job)
    checks.same_delta(account, plan.delta)
    asked, left = account.cost(job.charges), account.left(now)
    filter_after = rdp_filter.epsilon_of(account.spent + asked, budget.order, budget.delta)
    pld_after = pld_epsilon(ledger, dataset, job.charges, compute=pld, computing=computing)
    return {
        "dataset": dataset,
        "limit": budget.limit,
        "delta": budget.delta,
        "order": budget.order,
        "spent": account.spent / whole,
        "held": account.held(now) / whole,
        "left": left / whole,
        "takes": asked / whole,
        "left_after": max(0, left - asked) / whole,
        "affordable": asked <= left,
        "rounds_affordable": rounds_affordable(account, plan, now),
        "epsilon_filter": _up(rdp_filter.epsilon_of(asked, budget.order, budget.delta)),
        "epsilon_filter_after": _up(filter_after),
        "epsilon_pld_after": pld_after,
        "binds": "pld" if pld_after is not None and pld_after > _up(filter_after) else "filter",
    }


def rounds_affordable(account: Account, plan: PrivacyPlan, now_ms: int) -> int:
    """How many rounds of a plan the budget affords, with its noise and all of its evaluations."""
    others = account.cost(rounded(event) for event in evaluation_events(plan.evaluation))
    one = account.cost(rounded(event) for event in round_events(plan, "train"))
    return max(0, (account.left(now_ms) - others) // one)


def affordable_epsilon(account: Account, plan: PrivacyPlan, now_ms: int, share: float | None = None) -> float:
    """A ``privacy.epsilon``, in steps of .01 and about the largest, whose calibrated noise the budget affords; 0: none.

    As many rounds, steps and histograms as the plan has.

    Args:
        share: ``privacy.evaluation.share``; None keeps the noise of the evaluation as it is.
    """
    left, delta = account.left(now_ms), gaussian_delta(plan.delta)
    steps, count = plan.steps * plan.rounds, sum(event.steps for event in evaluation_events(plan.evaluation))
    fixed = plan.evaluation.noise_multiplier if plan.evaluation else 1.0

    def events(sigma: float, evaluation: float) -> tuple[GaussianEvent, ...]:
        others = (GaussianEvent(1.0, min(evaluation, MAX_SIGMA), count),) if count else ()
        return (*others, GaussianEvent(plan.sample_rate, sigma, steps))

    def scaled(sigma: float) -> tuple[GaussianEvent, ...]:
        ratio = 1.0 if share is None else max(1.0, sigma / plan.noise_multiplier)
        return events(sigma, ratio * fixed)

    def fits(asked: tuple[GaussianEvent, ...]) -> bool:
        return account.cost(rounded(event) for event in asked) <= left

    def calibrated(epsilon: float) -> tuple[GaussianEvent, ...]:
        evaluation = fixed
        if count and share is not None:
            evaluation = noise_multiplier_for(max(MIN_EPSILON, epsilon * share), delta, 1.0, count)
        others = events(1.0, evaluation)[:-1]
        return events(noise_multiplier_for(epsilon, delta, plan.sample_rate, steps, others), evaluation)

    sigma = _least(lambda sigma: fits(scaled(sigma)))
    if sigma is None:
        return 0.0
    hundredths = math.floor(100 * min(accounting.epsilon_of(scaled(sigma), delta), MAX_EPSILON))
    # Where the evaluation shrinks with the training, the guess is proved, and lowered until it holds.
    for _ in range(_TRIES):
        try:
            if hundredths < 1 or fits(calibrated(hundredths / 100)):
                break
        except PrivacyError:
            return 0.0
        hundredths -= max(1, hundredths // 50)
    else:
        return 0.0
    return max(0, hundredths) / 100


def least_limit(plan: PrivacyPlan) -> float | None:
    """The least budget, rounded up to .1, that affords the plan's whole run at the order that it gets by default.

    None where no budget up to 100 does.
    """
    asked = tuple(rounded(event) for event in events_of(plan))
    for tenths in range(1, 1001):
        limit = tenths / 10
        try:
            order = rdp_filter.best_order(limit, plan.delta)
        except PrivacyError:
            continue
        if rdp_filter.cost(asked, order) <= rdp_filter.capacity(limit, plan.delta, order):
            return limit
    return None


def _least(fits: Callable[[float], bool]) -> float | None:
    """The least sigma that fits, from above, within .01 %."""
    low, high = math.log(MIN_SIGMA), math.log(MAX_SIGMA)
    if not fits(MAX_SIGMA):
        return None
    while high - low > 1e-4:
        middle = (low + high) / 2
        low, high = (low, middle) if fits(math.exp(middle)) else (middle, high)
    return min(math.exp(high), MAX_SIGMA)


def _up(epsilon: float) -> float:
    return math.ceil(epsilon * _ROUND - 1e-9) / _ROUND
