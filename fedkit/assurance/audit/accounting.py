"""The claimed epsilon beside what the plan, and what was observed, must cost at least."""

from __future__ import annotations

from dataclasses import dataclass

from fedkit.assurance.audit.accountant import MIN_SIGMA, Steps, epsilon_at_least
from fedkit.assurance.audit.finding import Finding, within
from fedkit.types import PrivacyPlan


@dataclass(frozen=True)
class Observed:
    """A site's mechanism as it was measured; each interval as (low, high).

    Attributes:
        sigma: noise of one step, in units of C.
        influence: the largest influence of one record on a sum that was seen, in units of C.
    """

    sigma: tuple[float, float]
    rate: tuple[float, float]
    steps: tuple[float, float]
    influence: float


def accounting_findings(plan: PrivacyPlan, seen: Observed, num_rounds: int) -> list[Finding]:
    """Two lower bounds on what the site's run costs, for an observer of every step, beside the claim.

    Args:
        plan: with the claimed epsilon.
        num_rounds: how often the site will be called.
    """
    others = _evaluations(plan)
    steps = plan.steps * num_rounds
    planned = epsilon_at_least(((plan.sample_rate, plan.noise_multiplier, steps), *others), plan.delta)
    # Every doubt goes to the claim: most noise, least sampling, fewest steps; the influence was really seen.
    sigma = seen.sigma[1] / max(seen.influence, 1e-9)
    fewest = max(1, round(seen.steps[0] + 0.499))
    training = (seen.rate[0], max(sigma, MIN_SIGMA), fewest * num_rounds)
    observed = epsilon_at_least((training, *others), plan.delta)
    return [
        within(
            "accounting.planned", "accounting", plan.site, "epsilon of the plan, at least",
            planned, (None, plan.epsilon), plan.epsilon,
            broken="the claim is below what the plan costs", holds="not above the claim",
        ),
        within(
            "accounting.observed", "accounting", plan.site, "epsilon as observed, at least", observed,
            (None, plan.epsilon), plan.epsilon,
            broken="the claim is below what was released", holds="not above the claim",
        ),
    ]  # fmt: skip


def _evaluations(plan: PrivacyPlan) -> tuple[Steps, ...]:
    """The histograms that the claim covers too: Gaussian mechanisms of sensitivity 1 over all units."""
    if plan.evaluation is None:
        return ()
    evaluation = plan.evaluation
    return ((1.0, evaluation.noise_multiplier, evaluation.histograms * len(evaluation.rounds)),)
