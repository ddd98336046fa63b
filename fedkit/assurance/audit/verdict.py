"""The audit as a whole: what is released, in which rounds, and which findings are read off."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
from torch import nn

from fedkit.assurance.audit.accounting import Observed, accounting_findings
from fedkit.assurance.audit.canaries import privacy_of
from fedkit.assurance.audit.clipping import influence_findings, own_influence_finding, own_noise
from fedkit.assurance.audit.evaluation import evaluation_findings
from fedkit.assurance.audit.finding import Finding
from fedkit.assurance.audit.measure import (
    Scores,
    fresh_scores,
    lot_findings,
    noise_findings,
    round_findings,
    seeded_findings,
    surface_finding,
)
from fedkit.assurance.audit.noise import own_model_finding, tail_seen
from fedkit.assurance.audit.one_run import CONFIDENCE, OneRun, one_run
from fedkit.errors import PrivacyError
from fedkit.privacy.lattice import slack
from fedkit.training.histograms import HistogramSpec
from fedkit.types import Dataset, LocalPlan, PrivacyPlan

FALSE_ALARM = 1e-4
"""Chance that a correct mechanism is contradicted at all: by any finding, all of them together."""
MAX_SITES = 6
PER_SITE, SHARED = 12, 20
"""Statistical findings of a site and of all sites together, at most: what the error rate is shared among.

Most ranges are exact. Those that are not (spreads, agreement of lots, kurtosis) were computed in their far tails: at a
share of 1e-6 they are left 1.1 times as often in the shipped experiment, at worst 2.7 times. Two findings of all sites
fewer than counted, and the bound's small share, are more than that.
"""
CONFIRMED = 5
"""Times in a row, each with fresh canaries and noise, that the one-run bound must exceed a claim to refute it.

A single bound exceeds the truth once in 20 audits, and its theorem allows no much smaller chance at the delta of a
claim; all of as many do once in 3 million, which is less than any other finding's share.
"""
_OWN_VALUES = 400_000

Progress = Callable[[str, float], None]
"""(what is being done, share that is done)."""


@dataclass(frozen=True)
class Audit:
    """What an audit found.

    Attributes:
        claims: audited site to its plan, as claimed.
        findings: in the order in which they are shown.
        unaudited: sites that were left out.
    """

    claims: Mapping[str, PrivacyPlan]
    findings: tuple[Finding, ...]
    unaudited: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def contradictions(self) -> tuple[Finding, ...]:
        """What the plan says and the measurement denies."""
        return tuple(found for found in self.findings if found.status == "contradiction")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        claims = {site: asdict(plan) for site, plan in self.claims.items()}
        return {
            "verdict": "contradiction" if self.contradictions else "no contradiction",
            "contradictions": [f"{found.check} at {found.site}: {found.verdict}" for found in self.contradictions],
            "false_alarm": FALSE_ALARM,
            "claims": claims,
            "findings": [asdict(found) for found in self.findings],
            "unaudited": list(self.unaudited),
            "notes": list(self.notes),
        }


def audit(
    model: nn.Module,
    dataset: Dataset,
    plans: Mapping[str, LocalPlan],
    *,
    num_rounds: int,
    seed: int,
    specs: Sequence[HistogramSpec] = (),
    progress: Progress | None = None,
) -> Audit:
    """Run the real training path on canary sites under every site's plan, and compare what leaves with the claim.

    Args:
        model: the experiment's own. plans: site to plan, of the sites that train.
        num_rounds: rounds of the run that the claim is about.
        specs: the histograms that the run's evaluation releases.
        seed: of the run; used for its seeded noise alone. Canaries and coins come from the operating system.

    Raises:
        PrivacyError: privacy=none; a loss for which no canary can be made.

    Guarantee: a mechanism that does what its plan says is contradicted with chance at most ``FALSE_ALARM``, by all
    findings together. No audit proves a mechanism private: it refutes, or it fails to.
    """
    chosen = _chosen({site: plan for site, plan in plans.items() if plan.privacy is not None})
    if not chosen:
        raise PrivacyError(
            "privacy=none promises nothing: there is nothing to audit", code="FK360", remedy="set privacy=record_dp"
        )
    say = progress or (lambda what, share: None)
    task, unit = dataset.task, dataset.unit
    alpha = FALSE_ALARM / (PER_SITE * len(chosen) + SHARED)
    say("what leaves", 0.0)
    findings = [surface_finding(task, chosen)]
    say("noise", 0.02)
    noise, sigmas, draws = noise_findings(task, unit, chosen, alpha, lambda share: say("noise", 0.02 + 0.38 * share))
    findings += noise
    d = sum(p.numel() for p in model.parameters())
    own = own_noise(model, task, chosen, dataset.input_shape, max(2, min(64, _OWN_VALUES // (len(chosen) * d))))
    findings.append(own_model_finding(own, slack(d), alpha))
    say("evaluation", 0.42)
    findings += evaluation_findings(model, dataset, chosen, specs, alpha)
    say("whole rounds", 0.45)
    whole, scores, steps, played = round_findings(
        task, unit, chosen, sigmas, num_rounds, alpha, lambda share: say("whole rounds", 0.45 + 0.2 * share)
    )
    findings += whole
    if any(privacy_of(plan).noise == "seeded" for plan in chosen.values()):
        say("seeded noise", 0.65)
        findings += seeded_findings(task, unit, chosen, seed, alpha)
    say("lots", 0.7)
    lots, rates, influence = lot_findings(task, unit, chosen, alpha, lambda share: say("lots", 0.7 + 0.15 * share))
    findings += lots
    say("influence of one record", 0.85)
    moved = influence_findings(task, unit, chosen)
    findings += [*moved.values(), own_influence_finding(model, dataset, chosen)]
    say("accounting", 0.9)
    seen = {
        site: Observed(sigmas[site].interval, rates[site], steps[site], max(influence[site], moved[site].estimate or 0))
        for site in chosen
    }
    for group in _same_claim(chosen):
        # The site that shows most against the claim that they share.
        worst = min(group, key=lambda site: seen[site].sigma[1] / max(seen[site].influence, 1e-9))
        findings += accounting_findings(privacy_of(chosen[worst]), seen[worst], num_rounds)
        again = partial(fresh_scores, task, unit, {site: chosen[site] for site in group}, num_rounds)
        findings.append(_bound(privacy_of(chosen[group[0]]), group, scores, again, played))
    say("done", 1.0)
    return Audit(
        claims={site: privacy_of(plan) for site, plan in chosen.items()},
        findings=tuple(sorted(findings, key=lambda found: _GROUPS.index(found.group))),
        unaudited=tuple(site for site in plans if site not in chosen),
        notes=tuple(_notes(plans, chosen, draws, alpha, played, num_rounds)),
    )


_GROUPS = ("release", "noise", "independence", "sampling", "clipping", "accounting", "lower bound")


def _bound(
    plan: PrivacyPlan,
    group: list[str],
    scores: Mapping[str, Scores],
    again: Callable[[], Mapping[str, Scores]],
    played: int,
) -> Finding:
    """The one-run bound over the canaries of all sites that make the same claim; repeated where it exceeds that."""
    found, times = _one_run(group, scores, plan.delta), 1
    while found.epsilon > plan.epsilon and times < CONFIRMED:
        # The least of them all is told: a bound at CONFIDENCE as each of them is.
        found, times = min(found, _one_run(group, again(), plan.delta), key=lambda each: each.epsilon), times + 1
    holds = found.epsilon <= plan.epsilon
    told = "not above the claim" if holds else "the claim is refuted"
    told += f", least of {times} repetitions" if times > 1 else ""
    return Finding(
        "bound.one_run",
        "lower bound",
        group[0] if len(group) == 1 else "all" if len(group) == len(scores) else ", ".join(group),
        f"one-run lower bound, {CONFIDENCE:.0%}",
        found.epsilon,
        None,
        plan.epsilon,
        plan.epsilon,
        "holds" if holds else "contradiction",
        f"{told}: {found.correct:,} of {found.guesses:,} guesses"
        f" right, {found.canaries:,} canaries, {played} rounds, best of {found.rules} rules",
    )


def _one_run(group: list[str], scores: Mapping[str, Scores], delta: float) -> OneRun:
    return one_run(
        np.concatenate([scores[site].scores for site in group]),
        np.concatenate([scores[site].included for site in group]),
        delta,
    )


def _same_claim(plans: Mapping[str, LocalPlan]) -> list[list[str]]:
    """Sites whose plans promise the same by the same mechanism; lot sizes and names apart."""
    groups: dict[tuple[float, ...], list[str]] = {}
    for site, plan in plans.items():
        p = privacy_of(plan)
        groups.setdefault((p.sample_rate, p.noise_multiplier, p.steps, p.epsilon, p.delta), []).append(site)
    return list(groups.values())


def _chosen(plans: Mapping[str, LocalPlan]) -> dict[str, LocalPlan]:
    """At most ``MAX_SITES`` of them: one of each claim first, the dearest claims before others."""
    dearest = sorted(_same_claim(plans), key=lambda group: -privacy_of(plans[group[0]]).epsilon)
    order = [group[0] for group in dearest] + [site for group in dearest for site in group[1:]]
    kept = set(order[:MAX_SITES])
    return {site: plan for site, plan in plans.items() if site in kept}


def _notes(
    plans: Mapping[str, LocalPlan], chosen: Mapping[str, LocalPlan], draws: int, alpha: float, played: int, rounds: int
) -> list[str]:
    """What a reader must know of the figures."""
    notes = [
        "canaries are trained by the real path with secure noise, the plan's sampling, clip, noise and steps; the"
        " optimizer is SGD, since what it makes of noisy gradients is post-processing",
        f"a tail that is cut beyond {tail_seen(draws, alpha):.2f} sigma does not show in {draws:,} draws",
        "lots, clip and influence are read in rounds without noise, which only an audit can ask for; what records do"
        " to the own model is exact, and not for release",
    ]
    if any(privacy_of(plan).noise == "seeded" for plan in chosen.values()):
        notes.append(
            "the run's own noise is seeded, which is not private; the audit is of the same plan with real noise"
        )
    if played < rounds:
        notes.append(f"{played} of the run's {rounds} rounds were played; the lower bound is of those alone")
    left = [site for site in plans if site not in chosen]
    if left:
        notes.append(f"not audited, {MAX_SITES} sites at most: {', '.join(left)}")
    return notes
