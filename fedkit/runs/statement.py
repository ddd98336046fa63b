"""What a run says of its privacy in one sentence, and how a cost is rounded: never down."""

from __future__ import annotations

import math
from collections.abc import Mapping
from decimal import ROUND_CEILING, Decimal

from fedkit.config.experiment import ExperimentConfig
from fedkit.types import LocalPlan

STAND_IN = "The true counts stood in for declared ones and are not protected."


def rounded_up(epsilon: float) -> str:
    """Epsilon with 2 decimals, or with 2 digits where it is small; never less than it is.

    >>> rounded_up(2.981), rounded_up(2.98), rounded_up(0.001), rounded_up(0.00123)
    ('2.99', '2.98', '0.0010', '0.0013')
    """
    if not math.isfinite(epsilon):
        return "unbounded"
    if epsilon >= 1e9:
        return f"{math.ceil(epsilon):d}"
    # The shortest decimal that reads back as the same number: 2.98 is not 2.9800000000000000426.
    exact = Decimal(repr(float(epsilon)))
    digits = max(2, 1 - exact.adjusted()) if exact else 2
    return f"{exact.quantize(Decimal(1).scaleb(-digits), ROUND_CEILING):f}"


def statement(config: ExperimentConfig, plans: Mapping[str, LocalPlan]) -> str:
    """One sentence that says what is private and what is not, and one more where counts were not declared."""
    spent = [plan.privacy for plan in plans.values() if plan.privacy]
    if not spent:
        return "No privacy: updates and metrics are exact."
    worst = max(spent, key=lambda plan: plan.epsilon)
    cost = (
        f"epsilon {rounded_up(worst.epsilon)} at delta {worst.delta:g} for one {worst.unit} at each site"
        " (add or remove, largest over the sites, the whole run)"
    )
    counts = "" if all(plan.records_declared for plan in spent) else f" {STAND_IN}"
    if config.privacy.noise == "seeded":
        return f"Not private: the noise is seeded for replay. With real noise the same plan would cost {cost}.{counts}"
    released = (
        "The model, all updates and the charged evaluation"
        if any(plan.evaluation for plan in spent)
        else ("The model and all updates")
    )
    # A deployed run's source is each site's own, and nothing at a site answers a private run with exact metrics.
    deployed = config.data.source.kind == "site"
    exact = "No exact metrics are released." if deployed else "Exact metrics are not protected (simulation only)."
    return f"{released} are private: {cost}. {exact}{counts}"
