"""Privacy plans: made from public facts before anything runs, never from the data at run time."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from fedkit.config.experiment import PrivacyConfig, TrainingConfig
from fedkit.errors import PrivacyError, together
from fedkit.privacy import accounting, calibration
from fedkit.privacy.events import evaluation_events, events_after, gaussian_delta, max_lot
from fedkit.types import EvaluationPlan, PrivacyPlan

MIN_TEST_UNITS = 5
"""A site with fewer declared test units releases no histogram: it would say nothing."""


@dataclass(frozen=True)
class SiteFacts:
    """What is publicly declared about a site.

    Attributes:
        records: declared number of privacy units, train and test together.
        records_declared: False where the simulation's true count stands in for a declaration.
        test_fraction: the declared share of units held out.
    """

    site: str
    records: int
    records_declared: bool
    unit: Literal["record", "patient"]
    test_fraction: float


def make_plans(
    sites: Sequence[SiteFacts], privacy: PrivacyConfig, training: TrainingConfig, num_rounds: int, histograms: int = 1
) -> dict[str, PrivacyPlan]:
    """One plan a site, calibrated so that epsilon holds for all rounds, steps and histograms together.

    Participation is never credited: a site's cost is that of being called in every round. The evaluation comes first,
    and the noise of the training is calibrated to what it leaves.

    Args:
        histograms: how many an evaluation releases (one a subgroup column, at least one).

    Returns:
        Site to plan, in the order given.

    Raises:
        PrivacyError: every problem of the config and of all sites at once.

    Guarantee: sample rate, lot size and steps depend on declared constants only, never on the data.
    """
    problems = _config_problems(privacy, training, num_rounds)
    if not problems:
        for facts in sites:
            problems += _site_problems(facts, privacy, training)
    if not problems:
        plans: dict[str, PrivacyPlan] = {}
        for facts in sites:
            try:
                plans[facts.site] = _plan(facts, privacy, training, num_rounds, histograms)
            except PrivacyError as error:
                problems.append(error)
        if not problems:
            return plans
    raise together(problems)


def make_plan(
    facts: SiteFacts, privacy: PrivacyConfig, training: TrainingConfig, num_rounds: int, histograms: int = 1
) -> PrivacyPlan:
    """The plan of one site; see :func:`make_plans`.

    Raises:
        PrivacyError: every problem at once.

    >>> facts = SiteFacts("north", 303, True, "record", 0.25)
    >>> privacy = PrivacyConfig("record_dp", noise_multiplier=1.2, delta=1e-5, max_grad_norm=1.0, sample_rate=1 / 19)
    >>> plan = make_plan(facts, privacy, TrainingConfig(0.1, local_epochs=1), 100)
    >>> plan.steps, round(plan.epsilon, 2)
    (19, 12.17)
    """
    return make_plans([facts], privacy, training, num_rounds, histograms)[facts.site]


def epsilon_after(plan: PrivacyPlan, rounds: int) -> float:
    """What a site has spent after some rounds of its plan; equals ``plan.epsilon`` after the last.

    Raises:
        PrivacyError: a negative number of rounds.
    """
    if rounds < 0:
        raise PrivacyError(f"{rounds} rounds are fewer than none", code="FK307")
    return accounting.epsilon_of(events_after(plan, rounds), gaussian_delta(plan.delta))


def epsilon_by_round(plan: PrivacyPlan) -> list[float]:
    """Epsilon after rounds 0, 1, ..., ``plan.rounds``; where training alone is released cheaply, up to .02 too high."""
    curve = _before_evaluations(plan)
    return [*curve, *(epsilon_after(plan, done) for done in range(len(curve), plan.rounds + 1))]


def epsilon_at(plan: PrivacyPlan, rounds: int) -> float:
    """As :func:`epsilon_after`, but of training alone all rounds together cost little more than one.

    Never below what was spent, and ``plan.epsilon`` after the last round; before it up to .02 above.
    """
    curve = _before_evaluations(plan)
    return curve[rounds] if 0 <= rounds < len(curve) else epsilon_after(plan, rounds)


@lru_cache(maxsize=256)
def _before_evaluations(plan: PrivacyPlan) -> tuple[float, ...]:
    evaluated = plan.evaluation.rounds if plan.evaluation else ()
    alone = min(evaluated, default=plan.rounds + 1)
    steps = [plan.steps * done for done in range(min(alone, plan.rounds + 1))]
    rate, sigma, delta = plan.sample_rate, plan.noise_multiplier, gaussian_delta(plan.delta)
    curve = accounting.epsilon_curve(rate, sigma, steps, delta, coarse=alone <= plan.rounds)
    # A part never costs more than the whole, which is known more finely.
    return tuple(min(spent, plan.epsilon) for spent in curve)


def declared_train_units(facts: SiteFacts) -> float:
    """The declared number of training units: a public constant, whatever the split gave."""
    return facts.records * (1.0 - facts.test_fraction)


def whole_steps(steps: float) -> int:
    """Steps rounded up, at least 1; 1 / (1 / 19) is 19 whatever the last bit of the quotient."""
    return max(1, math.ceil(steps - 1e-9 * max(1.0, steps)))


def _plan(
    facts: SiteFacts, privacy: PrivacyConfig, training: TrainingConfig, num_rounds: int, histograms: int
) -> PrivacyPlan:
    rate, delta = _sample_rate(facts, privacy, training), privacy.delta
    if delta is None or privacy.max_grad_norm is None:  # _config_problems has refused both
        raise PrivacyError("privacy.delta or privacy.max_grad_norm is missing", code="FK308")
    epochs = training.local_epochs
    steps = whole_steps(epochs / rate) if epochs is not None else int(training.local_steps or 0)
    total = steps * num_rounds
    sigma, target = privacy.noise_multiplier, privacy.epsilon
    if target is None and sigma is not None:
        target = accounting.epsilon(rate, sigma, total, gaussian_delta(delta))
    target = float(target or 0.0)
    evaluation = _evaluation(facts, privacy, num_rounds, histograms, target)
    others = evaluation_events(evaluation)
    if sigma is None:
        sigma = calibration.noise_multiplier_for(target, gaussian_delta(delta), rate, total, others)
    events = (accounting.GaussianEvent(rate, sigma, total), *others)
    return PrivacyPlan(
        site=facts.site,
        unit=facts.unit,
        adjacency="add_remove",
        sample_rate=rate,
        max_grad_norm=float(privacy.max_grad_norm),
        noise_multiplier=float(sigma),
        lot_size=max(1.0, rate * declared_train_units(facts)),
        steps=steps,
        rounds=num_rounds,
        epsilon=accounting.epsilon_of(events, gaussian_delta(delta)),
        delta=delta,
        accountant=accounting.ACCOUNTANT,
        records=facts.records,
        records_declared=facts.records_declared,
        noise="secure" if privacy.noise == "secure" else "seeded",
        max_lot=max_lot(facts.records, rate, total),
        evaluation=evaluation,
    )


def _evaluation(
    facts: SiteFacts, privacy: PrivacyConfig, num_rounds: int, histograms: int, target: float
) -> EvaluationPlan | None:
    asked = privacy.evaluation
    sigma, share = asked.noise_multiplier, asked.share
    if (sigma is None and share is None) or facts.records * facts.test_fraction < MIN_TEST_UNITS:
        return None
    rounds = [number for number in range(1, num_rounds) if asked.every and number % asked.every == 0]
    count = max(1, histograms)
    if sigma is None:
        least = max(calibration.MIN_EPSILON, target * float(share or 0.0))
        delta = gaussian_delta(float(privacy.delta or 0.0))
        try:
            sigma = calibration.noise_multiplier_for(least, delta, 1.0, count * (len(rounds) + 1))
        except PrivacyError as error:
            if error.code != "FK309":
                raise
            raise PrivacyError(
                f"privacy.evaluation.share={share:g} of epsilon {target:.3g} is too little for the evaluation: no noise"
                f" multiplier up to {accounting.MAX_SIGMA:g} reaches it",
                code="FK309",
                remedy="raise privacy.evaluation.share (null releases no evaluation) or privacy.epsilon, or lower"
                " privacy.noise_multiplier",
            ) from error
    return EvaluationPlan(float(sigma), (*rounds, num_rounds), count, asked.bins)


def _sample_rate(facts: SiteFacts, privacy: PrivacyConfig, training: TrainingConfig) -> float:
    if privacy.sample_rate is not None:
        return float(privacy.sample_rate)
    return float(training.batch_size or 0) / facts.records


def _config_problems(privacy: PrivacyConfig, training: TrainingConfig, num_rounds: int) -> list[PrivacyError]:
    found: list[PrivacyError] = []

    def problem(message: str, code: str, remedy: str) -> None:
        found.append(PrivacyError(message, code=code, remedy=remedy))

    if privacy.mode != "record_dp":
        problem(f"privacy.mode {privacy.mode} makes no plan", "FK311", "set privacy=record_dp")
    if privacy.noise not in ("secure", "seeded"):
        problem(f"privacy.noise {privacy.noise} is neither secure nor seeded", "FK311", "set privacy.noise=secure")
    for (first, a), (second, b) in (
        (("privacy.epsilon", privacy.epsilon), ("privacy.noise_multiplier", privacy.noise_multiplier)),
        (("privacy.sample_rate", privacy.sample_rate), ("training.batch_size", training.batch_size)),
        (("training.local_steps", training.local_steps), ("training.local_epochs", training.local_epochs)),
    ):
        if a is None and b is None:
            problem(f"neither {first} nor {second} is set", "FK308", "set one of them")
        elif a is not None and b is not None:
            problem(f"both {first}={a:g} and {second}={b:g} are set", "FK308", f"drop one of them: {second}=null")
    for name, value, code, example in (
        ("privacy.epsilon", privacy.epsilon, "FK301", 3),
        ("privacy.noise_multiplier", privacy.noise_multiplier, "FK303", 1.2),
        ("privacy.sample_rate", privacy.sample_rate, "FK304", 0.05),
        ("training.batch_size", training.batch_size, "FK304", 16),
        ("training.local_steps", training.local_steps, "FK305", 20),
        ("training.local_epochs", training.local_epochs, "FK305", 1),
    ):
        if value is not None and not (math.isfinite(value) and value > 0):
            problem(f"{name} {value:g} is not above 0", code, f"set {name}={example}")
    if privacy.sample_rate is not None and privacy.sample_rate > 1:
        problem(f"privacy.sample_rate {privacy.sample_rate:g} is above 1", "FK304", "set privacy.sample_rate=0.05")
    if privacy.delta is None or not 0 < privacy.delta < 1:
        shown = "missing" if privacy.delta is None else f"{privacy.delta:g}, not between 0 and 1"
        problem(f"privacy.delta is {shown}", "FK302", "set privacy.delta=1e-5")
    clip = privacy.max_grad_norm
    if clip is None or not 1e-9 <= clip <= 1e9:
        shown = "missing" if clip is None else f"{clip:g}, not between 1e-9 and 1e9"
        problem(f"privacy.max_grad_norm is {shown}", "FK306", "set privacy.max_grad_norm=1")
    if num_rounds < 1:
        problem(f"federation.num_rounds {num_rounds} is below 1", "FK307", "set federation.num_rounds=15")
    return found


def _site_problems(facts: SiteFacts, privacy: PrivacyConfig, training: TrainingConfig) -> list[PrivacyError]:
    if facts.records < 1:
        message = f"site {facts.site} declares {facts.records} records, at least 1 is needed"
        return [PrivacyError(message, code="FK310", remedy="correct data.records, or leave the site out")]
    found = []
    delta, bound = privacy.delta or 0.0, 1.0 / facts.records
    if delta >= bound:
        message = f"delta {delta:g} is not below 1/{facts.records} = {bound:.3g}, one over the records of {facts.site}"
        remedy = "set privacy.delta=1e-5: a larger one allows a record to be published outright"
        found.append(PrivacyError(message, code="FK302", remedy=remedy))
    if privacy.sample_rate is None and (training.batch_size or 0) > facts.records:
        message = f"training.batch_size {training.batch_size} is above the {facts.records} records of {facts.site}"
        remedy = "lower training.batch_size, or set privacy.sample_rate in its place"
        found.append(PrivacyError(message, code="FK304", remedy=remedy))
    return found
