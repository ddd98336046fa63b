"""How often a unit joins a lot, and whether units join independently: read off rounds without noise."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import combinations

import numpy as np
from scipy import stats

from fedkit.assurance.audit.canaries import Readings
from fedkit.assurance.audit.finding import Finding, compared, not_measured, within
from fedkit.assurance.audit.intervals import dispersion_range, rate_interval
from fedkit.types import PrivacyPlan

_FEW_JOINS = 5.0
_FEW_OVERLAPS = 400.0


def rate_findings(
    plan: PrivacyPlan, readings: Readings, one_join: float, alpha: float
) -> tuple[list[Finding], tuple[float, float]]:
    """The sampling rate of a site, and whether its lots are Poisson lots.

    Args:
        readings: of whole rounds without noise in which every unit is a canary, [rounds, units].
        one_join: what one canary in one lot contributes.

    Returns:
        Findings, and the interval of q.
    """
    what = "q, chance to join a lot"
    joins = np.rint(readings / one_join) if one_join > 0 else np.zeros_like(readings)
    if one_join <= 0 or float(np.abs(readings / one_join - joins).max()) > 0.05 * max(1.0, float(joins.max()) ** 0.5):
        why = "joins cannot be counted: what a record contributes depends on the others in its lot"
        measured = Finding("sampling.rate", "sampling", plan.site, what, None, None, None, plan.sample_rate,
                           "contradiction", why)  # fmt: skip
        # Nothing is known of q then: the plan's is taken.
        return [measured], (plan.sample_rate, plan.sample_rate)
    trials = joins.size * plan.steps
    total = min(max(int(joins.sum()), 0), trials)
    interval = rate_interval(total, trials, alpha)
    found = [
        compared("sampling.rate", "sampling", plan.site, what, total / trials, interval, plan.sample_rate,
                 below="records join less often than planned", above="records join more often than planned")
    ]  # fmt: skip
    q = plan.sample_rate
    if q < 1:
        rounds, units = joins.shape
        found += [
            _dispersion("sampling.lots", plan, "spread of lot sizes", joins.sum(axis=1), units * plan.steps, alpha,
                        "lots vary less than Poisson lots: they are not drawn independently",
                        "lots vary more than Poisson lots: records join together"),
            _dispersion("sampling.records", plan, "spread of a record's joins",
                        joins.sum(axis=0), rounds * plan.steps, alpha,
                        "records take turns: no amplification by sampling",
                        "the same records join again and again"),
        ]  # fmt: skip
    return found, interval


def _dispersion(
    check: str, plan: PrivacyPlan, what: str, counts: Readings, trials: int, alpha: float, below: str, above: str
) -> Finding:
    q, cells = plan.sample_rate, len(counts)
    if trials * q < _FEW_JOINS or trials * (1 - q) < _FEW_JOINS:
        return not_measured(check, "sampling", plan.site, what, f"only {trials * q:.2g} joins expected")
    index = float(np.square(counts - trials * q).sum()) / (cells * trials * q * (1 - q))
    low, high = dispersion_range(cells, trials, q, alpha)
    return within(check, "sampling", plan.site, what, index, (low, high), 1.0, broken=below if index < low else above)


def masks_findings(plans: Mapping[str, PrivacyPlan], joins: Mapping[str, Readings], alpha: float) -> list[Finding]:
    """Whether the same records join in successive rounds, or at two sites in the same round.

    Args:
        joins: site to the number of joins, [rounds, units]; the same number of units everywhere.
    """
    moments = {site: (plan.steps * plan.sample_rate, plan.sample_rate) for site, plan in plans.items()}
    pairs = {(site, site): (rows[:-1], rows[1:]) for site, rows in joins.items() if len(rows) > 1}
    cross = {(a, b): (joins[a][: len(joins[b])], joins[b][: len(joins[a])]) for a, b in combinations(joins, 2)}
    return [
        _agreement("sampling.rounds", "lots of successive rounds", pairs, moments, alpha,
                   "the same records join in successive rounds"),
        _agreement("sampling.sites", "lots of two sites", cross, moments, alpha, "sites share their lots"),
    ]  # fmt: skip


def _agreement(
    check: str,
    what: str,
    pairs: Mapping[tuple[str, str], tuple[Readings, Readings]],
    moments: Mapping[str, tuple[float, float]],
    alpha: float,
    broken: str,
) -> Finding:
    found = []
    for (a, b), (first, second) in pairs.items():
        (mean, q), (other_mean, other_q) = moments[a], moments[b]
        if q >= 1 or other_q >= 1 or first.size * mean * other_mean < _FEW_OVERLAPS:
            continue
        variance = math.sqrt(mean * (1 - q) * other_mean * (1 - other_q))
        value = float(((first - mean) * (second - other_mean)).mean()) / variance
        found.append((value * math.sqrt(first.size), value, first.size, a, b))
    if not found:
        return not_measured(check, "sampling", "all", what, "every record joins, or too few joins")
    _, value, size, a, b = max(found, key=lambda each: abs(each[0]))
    bound = float(stats.norm.isf(alpha / 2 / len(found))) / math.sqrt(size)
    where = a if a == b else f"{a} and {b}"
    return within(check, "sampling", "all", what, value, (-bound, bound), 0.0,
                  broken=f"{broken}: {where}", holds="independent")  # fmt: skip
