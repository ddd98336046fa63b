"""What a plan's run does at its site, as events that an accountant prices: the one list of them."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Literal

from fedkit.privacy.accounting import GaussianEvent
from fedkit.types import EvaluationPlan, PrivacyPlan

Purpose = Literal["train", "evaluate"]

LOT_RESIDUE = 1e-15
"""The chance, over a whole run, that a lot exceeds the plan's ``max_lot``; part of delta."""
RESIDUE = 2 * LOT_RESIDUE
"""What a run's delta pays beside the Gaussian mechanisms: lots beyond the bound, and the noise sampler's distance from
rounded ideal Gaussians, which is below 1e-15 in all (see ``fedkit.privacy.rounded_gaussian``)."""


LEAST_DELTA = 1.1e-12
"""The least delta of a run: what is left of it for the Gaussian mechanisms is at least the accountant's least."""


def round_events(plan: PrivacyPlan, purpose: Purpose) -> tuple[GaussianEvent, ...]:
    """What one answer of this kind releases."""
    if purpose == "train":
        return (GaussianEvent(plan.sample_rate, plan.noise_multiplier, plan.steps),)
    return () if plan.evaluation is None else (_evaluation(plan.evaluation, 1),)


def events_after(plan: PrivacyPlan, rounds: int) -> tuple[GaussianEvent, ...]:
    """What has been released once a number of rounds are done, all of them called."""
    events: list[GaussianEvent] = []
    if rounds:
        events.append(GaussianEvent(plan.sample_rate, plan.noise_multiplier, plan.steps * rounds))
    if plan.evaluation is not None and (done := sum(number <= rounds for number in plan.evaluation.rounds)):
        events.append(_evaluation(plan.evaluation, done))
    return tuple(events)


def events_of(plan: PrivacyPlan) -> tuple[GaussianEvent, ...]:
    """What the whole run releases."""
    return events_after(plan, plan.rounds)


def evaluation_events(evaluation: EvaluationPlan | None) -> tuple[GaussianEvent, ...]:
    """What the evaluations of a whole run release."""
    return () if evaluation is None else (_evaluation(evaluation, len(evaluation.rounds)),)


def gaussian_delta(delta: float) -> float:
    """What of a run's delta is left for its Gaussian mechanisms."""
    return delta - RESIDUE


@lru_cache(maxsize=4096)
def max_lot(records: int, sample_rate: float, steps: int) -> int:
    """A number of units that no lot of a run exceeds, but for a chance of ``LOT_RESIDUE``; cached.

    Args:
        records: declared units, which a site may not exceed.
        steps: of the whole run.

    >>> max_lot(300, 0.1, 150), max_lot(300, 1.0, 150)
    (83, 300)
    """
    if sample_rate >= 1:
        return records
    # Half the chance forgives the rounding of the binomial terms.
    chance = LOT_RESIDUE / steps / 2
    odds, least = math.log(sample_rate) - math.log1p(-sample_rate), math.log(chance) - 50
    size = min(records, math.floor((records + 1) * sample_rate))
    term = math.lgamma(records + 1) - math.lgamma(size + 1) - math.lgamma(records - size + 1)
    term += size * math.log(sample_rate) + (records - size) * math.log1p(-sample_rate)
    # From the likeliest size on, the terms fall; they are summed from the smallest that counts.
    terms = []
    while term > least and size < records:
        term += math.log((records - size) / (size + 1)) + odds
        size += 1
        terms.append(term)
    above = 0.0
    while terms and (above := above + math.exp(terms.pop())) <= chance:
        size -= 1
    return size


def _evaluation(evaluation: EvaluationPlan, times: int) -> GaussianEvent:
    return GaussianEvent(1.0, evaluation.noise_multiplier, evaluation.histograms * times)
