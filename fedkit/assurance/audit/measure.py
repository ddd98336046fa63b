"""Rounds on canary sites through the real training path, and the findings that are read off each kind of round."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedkit.assurance.audit.canaries import (
    ENORMOUS,
    QUIET,
    Canaries,
    Readings,
    altered,
    canaries_for,
    privacy_of,
    release,
    updates,
)
from fedkit.assurance.audit.clipping import clip_findings
from fedkit.assurance.audit.finding import Finding, compared
from fedkit.assurance.audit.independence import correlation_findings
from fedkit.assurance.audit.intervals import sigma_interval
from fedkit.assurance.audit.noise import (
    deviation,
    resolution_finding,
    shape_findings,
    size_findings,
    steps_finding,
)
from fedkit.assurance.audit.one_run import log_likelihood_ratio
from fedkit.assurance.audit.sampling import masks_findings, rate_findings
from fedkit.privacy.lattice import slack
from fedkit.types import Examples, LocalPlan, Task

WIDE = 2**15
"""Coordinates of a release that is noise alone."""
RELEASES = 256
CANARIES = 4000
"""Of the lower bound, at all sites together."""
LOT = 1024
"""Canaries whose joining is counted, at each site."""
STEPS = 8000
"""Steps that one kind of round may take at all sites together, where a plan's rounds are many or long."""
_SEEDED_ROUNDS, _NOISY_LOTS = 32, 4
QUIET_ROUNDS = 30
_JOINS = 10.0

Plans = Mapping[str, LocalPlan]
Tick = Callable[[float], None]


@dataclass(frozen=True)
class Sigma:
    """The measured noise of one step of a site, in units of C: estimate, interval, number of draws."""

    estimate: float
    interval: tuple[float, float]
    draws: int


@dataclass(frozen=True)
class Scores:
    """What guessing at one site goes by: a score a canary, and the coin that put it in."""

    scores: Readings
    included: NDArray[np.bool_]


def surface_finding(task: Task, plans: Plans) -> Finding:
    """Whether anything but the delta and declared constants leaves, at sites with and without records."""
    canaries = canaries_for(task, "record", 32)
    wrong = []
    for units in ((), (0, 1, 2)):
        parts = {site: (_units(canaries, units, plan), altered(plan, steps=1)) for site, plan in plans.items()}
        for update in updates(canaries.model(), task, parts):
            if update.metrics:
                wrong.append(f"{update.site} releases {', '.join(update.metrics)}")
            if update.weight != plans[update.site].weight:
                wrong.append(f"{update.site} releases the weight {update.weight:g}, not its declared constant")
    verdict = "; ".join(dict.fromkeys(wrong)) or "the noisy update and declared constants, nothing else"
    return Finding("release.surface", "release", "all", "what leaves a site", None, None, None, None,
                   "contradiction" if wrong else "holds", verdict)  # fmt: skip


def noise_findings(
    task: Task, unit: str, plans: Plans, alpha: float, tick: Tick
) -> tuple[list[Finding], dict[str, Sigma], int]:
    """Rounds of one step where nothing but noise is released: half without records, half with a single one."""
    canaries = canaries_for(task, unit, WIDE)
    rounds = min(64, max(8, RELEASES // len(plans) // 2))
    drawn: dict[str, dict[str, list[Readings]]] = {site: {"without": [], "one": []} for site in plans}
    for number in range(rounds):
        for kind, units in (("without", ()), ("one", (0,))):
            parts = {site: (_units(canaries, units, plan), altered(plan, steps=1)) for site, plan in plans.items()}
            released = release(canaries.model(), task, parts, number=2 * number + len(units) + 1)
            for site, readings in released.items():
                drawn[site][kind].append(readings)
        tick((number + 1) / rounds)
    others = np.arange(canaries.d) % canaries.features > 0
    without = {site: np.stack(kinds["without"]) for site, kinds in drawn.items()}
    one = {site: np.stack(kinds["one"])[:, others] for site, kinds in drawn.items()}
    found: list[Finding] = []
    sigmas = {}
    most = slack(canaries.d)
    for site, plan in plans.items():
        sigma = privacy_of(plan).noise_multiplier
        findings = size_findings(site, sigma, most, without[site], one[site], alpha)
        size = findings[0]
        sigmas[site] = Sigma(size.estimate or 0.0, (size.low or 0.0, size.high or 0.0), without[site].size)
        found += findings
    stacked = {site: np.concatenate([without[site][:, others], one[site]]) for site in plans}
    scales = {site: privacy_of(plan).noise_multiplier * most for site, plan in plans.items()}
    found += shape_findings(stacked, alpha)
    found.append(resolution_finding({site: (without[site], scales[site]) for site in plans}, alpha))
    found += correlation_findings(stacked, alpha)
    return found, sigmas, sum(readings.size for readings in stacked.values())


def seeded_findings(task: Task, unit: str, plans: Plans, seed: int, alpha: float) -> list[Finding]:
    """The seeded path of a simulation: not private, but its noise must be as large, and new in every round."""
    canaries = canaries_for(task, unit, WIDE // 8)
    parts = {site: (_units(canaries, (), plan), altered(plan, steps=1, noise="seeded")) for site, plan in plans.items()}
    rounds = [release(canaries.model(), task, parts, seed=seed, number=number + 1) for number in range(_SEEDED_ROUNDS)]
    noise = {site: np.stack([found[site] for found in rounds]) for site in plans}
    found = []
    for site, readings in noise.items():
        sigma, estimate = privacy_of(plans[site]).noise_multiplier, deviation(readings)
        found.append(
            compared("noise.seeded", "noise", site, "sigma of a step, seeded", estimate,
                     sigma_interval(estimate, readings.size, alpha), sigma,
                     margin=slack(canaries.d) - 1,
                     below="less noise than planned", above="more noise than planned")
        )  # fmt: skip
    return [*found, *correlation_findings(noise, alpha, kind="seeded")]


def round_findings(
    task: Task, unit: str, plans: Plans, sigmas: Mapping[str, Sigma], num_rounds: int, alpha: float, tick: Tick
) -> tuple[list[Finding], dict[str, Scores], dict[str, tuple[float, float]], int]:
    """The run as planned, whole rounds under the plan's noise; a coin puts each canary in or leaves it out.

    Returns:
        Findings, the canaries' scores, the interval of noisy steps a round, and how many rounds were played.
    """
    game = _play(task, unit, plans, num_rounds, tick)
    canaries, m = game.canaries, game.guessed
    found, steps, spare = [], {}, {}
    for site, plan in plans.items():
        readings = game.readings[site]
        unused = np.tile(np.r_[~game.included[site], np.ones(canaries.features - m, dtype=bool)], task.num_outputs)
        finding, steps[site] = steps_finding(
            site,
            privacy_of(plan).steps,
            readings[:, unused],
            sigmas[site].estimate,
            sigmas[site].draws,
            slack(max(canaries.d, WIDE)),
            alpha,
        )
        found.append(finding)
        spare[site] = readings[:, np.tile(np.arange(canaries.features) >= m, task.num_outputs)]
    found += correlation_findings(spare, alpha, kind="rounds")
    return found, _scores(game, plans), steps, len(next(iter(game.readings.values())))


def fresh_scores(task: Task, unit: str, plans: Plans, num_rounds: int) -> dict[str, Scores]:
    """The rounds of :func:`round_findings` once more, with other canaries in and other noise: scores by site."""
    return _scores(_play(task, unit, plans, num_rounds, lambda share: None), plans)


@dataclass(frozen=True)
class _Game:
    """Whole rounds with canaries that a coin put in.

    Attributes:
        guessed: how many canaries, from the first, have a coin; the features of the others carry noise alone.
        included: site to the coins. readings: site to what was released, [rounds, d].
    """

    canaries: Canaries
    guessed: int
    included: Mapping[str, NDArray[np.bool_]]
    readings: Mapping[str, Readings]


def _play(task: Task, unit: str, plans: Plans, num_rounds: int, tick: Tick) -> _Game:
    canaries = canaries_for(task, unit, min(WIDE, 3 * CANARIES // 2 // len(plans) * task.num_outputs))
    m = canaries.features * 2 // 3
    coins = np.random.default_rng()
    included = {site: coins.random(m) < 0.5 for site in plans}
    parts = {
        site: (_units(canaries, np.flatnonzero(included[site]), plan), altered(plan)) for site, plan in plans.items()
    }
    played = min(num_rounds, max(3, STEPS // sum(plan.steps for plan in plans.values())))
    rounds = []
    for number in range(played):
        rounds.append(release(canaries.model(), task, parts, number=number + 1))
        tick((number + 1) / played)
    return _Game(canaries, m, included, {site: np.stack([each[site] for each in rounds]) for site in plans})


def _scores(game: _Game, plans: Plans) -> dict[str, Scores]:
    scores = {}
    for site, plan in plans.items():
        privacy = privacy_of(plan)
        along = game.canaries.contribution(game.readings[site])[:, : game.guessed]
        ratio = log_likelihood_ratio(along, privacy.sample_rate, privacy.noise_multiplier, privacy.steps)
        scores[site] = Scores(ratio, game.included[site])
    return scores


def lot_findings(
    task: Task, unit: str, plans: Plans, alpha: float, tick: Tick
) -> tuple[list[Finding], dict[str, tuple[float, float]], dict[str, float]]:
    """Rounds without noise, in which who joined a lot, and with how much, is seen exactly.

    Returns:
        Findings, the interval of q of each site, and the largest contribution of one canary.
    """
    canaries = canaries_for(task, unit, min(WIDE, LOT * task.num_outputs))
    model, every = canaries.model(), np.arange(canaries.features)
    units = {site: _units(canaries, every, plan) for site, plan in plans.items()}

    def released(number: int, **changes: float) -> dict[str, Readings]:
        parts = {site: (units[site], _changed(plan, changes)) for site, plan in plans.items()}
        readings = release(model, task, parts, number=number)
        return {site: canaries.contribution(found) for site, found in readings.items()}

    bare = released(1, steps=1, sample_rate=1.0, noise_multiplier=QUIET)
    noisy = [released(2 + lot, steps=1, sample_rate=1.0) for lot in range(_NOISY_LOTS)]
    private = {site: privacy_of(plan) for site, plan in plans.items()}
    rarest = min(plan.steps * plan.sample_rate for plan in private.values())
    most = max(8, STEPS // sum(plan.steps for plan in private.values()))
    count = min(max(QUIET_ROUNDS, math.ceil(_JOINS / rarest)), most)
    rounds = []
    for number in range(count):
        rounds.append(released(2 + _NOISY_LOTS + number, noise_multiplier=QUIET))
        tick((number + 1) / count)
    found, rates, largest, joins = [], {}, {}, {}
    for site, plan in private.items():
        under_noise = np.stack([lot[site] for lot in noisy])
        found += clip_findings(site, bare[site], under_noise, plan.noise_multiplier * slack(canaries.d), alpha)
        largest[site] = float(np.abs(bare[site]).max())
        one_join = float(bare[site].flat[int(np.abs(bare[site]).argmax())])
        readings = np.stack([each[site] for each in rounds])
        findings, rates[site] = rate_findings(plan, readings, one_join, alpha)
        found += findings
        joins[site] = readings / one_join if one_join > 0 else readings
    return [*found, *masks_findings(private, joins, alpha)], rates, largest


def _changed(plan: LocalPlan, changes: Mapping[str, float]) -> LocalPlan:
    steps = changes.get("steps")
    return altered(
        plan,
        steps=None if steps is None else int(steps),
        sample_rate=changes.get("sample_rate"),
        noise_multiplier=changes.get("noise_multiplier"),
    )


def _units(canaries: Canaries, features: Sequence[int] | NDArray[np.int64], plan: LocalPlan) -> Examples:
    return canaries.units(features, ENORMOUS * privacy_of(plan).max_grad_norm)
