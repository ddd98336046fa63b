import dataclasses
import math

import pytest

from fedkit.config.experiment import EvaluationConfig, PrivacyConfig, TrainingConfig
from fedkit.errors import PrivacyError
from fedkit.privacy import accounting, calibration, pld
from fedkit.privacy.accounting import epsilon
from fedkit.privacy.plan import SiteFacts, epsilon_after, epsilon_at, epsilon_by_round, make_plan, make_plans

FACTS = SiteFacts("north", 303, True, "record", 0.25)
PRIVACY = PrivacyConfig("record_dp", noise_multiplier=1.2, delta=1e-5, max_grad_norm=1.0, sample_rate=1 / 19)
TRAINING = TrainingConfig(0.1, local_epochs=1)


def test_epsilon_is_composed_over_all_rounds_never_reset_each_round():
    # A new engine each round reports 1.36, one step a round 2.59; the truth over 100 rounds of 19 steps is 12.17.
    plan = make_plan(FACTS, PRIVACY, TRAINING, 100)
    assert plan.steps == 19
    assert plan.epsilon == pytest.approx(12.1696, abs=0.01)
    assert epsilon_after(plan, 1) < 1.5 < epsilon_after(plan, 50) < plan.epsilon
    assert epsilon_after(plan, 100) == plan.epsilon
    assert epsilon_after(plan, 0) == 0.0


def test_sites_are_not_pooled_in_the_sampling_rate():
    privacy = dataclasses.replace(PRIVACY, sample_rate=None)
    training = dataclasses.replace(TRAINING, batch_size=16)
    sites = [dataclasses.replace(FACTS, site=name, records=n) for name, n in (("a", 303), ("b", 123))]
    plans = make_plans(sites, privacy, training, 10)
    assert plans["a"].sample_rate == 16 / 303
    assert plans["b"].sample_rate == 16 / 123
    assert plans["b"].epsilon > plans["a"].epsilon
    assert plans["a"].steps == math.ceil(303 / 16)


def test_calibration_covers_the_whole_run():
    privacy = dataclasses.replace(PRIVACY, noise_multiplier=None, epsilon=3.0)
    plan = make_plan(FACTS, privacy, TRAINING, 100)
    assert plan.noise_multiplier == pytest.approx(3.301, rel=3e-3)
    assert 2.99 < plan.epsilon <= 3.0


def test_lot_size_is_a_declared_constant_of_training_units_and_at_least_one():
    plan = make_plan(FACTS, PRIVACY, TRAINING, 1)
    assert plan.lot_size == pytest.approx(303 * 0.75 / 19)
    tiny = make_plan(dataclasses.replace(FACTS, records=10), PRIVACY, TRAINING, 1)
    assert tiny.lot_size == 1.0


def test_fractional_epochs_round_steps_up():
    assert make_plan(FACTS, PRIVACY, dataclasses.replace(TRAINING, local_epochs=0.5), 1).steps == 10
    assert make_plan(FACTS, PRIVACY, TrainingConfig(0.1, local_steps=7), 1).steps == 7


def test_epsilon_by_round_ends_on_the_plans_epsilon():
    plan = make_plan(FACTS, PRIVACY, TRAINING, 10)
    curve = epsilon_by_round(plan)
    assert len(curve) == 11 and curve == sorted(curve)
    assert curve[-1] == plan.epsilon == pytest.approx(epsilon(1 / 19, 1.2, 190, 1e-5), rel=1e-9)
    assert plan.epsilon >= epsilon(1 / 19, 1.2, 190, 1e-5)  # the lots beyond max_lot are paid for


@pytest.mark.parametrize("every", [None, 3])
def test_epsilon_of_every_round_is_at_least_what_was_spent_and_ends_on_the_plans(every):
    evaluation = EvaluationConfig(noise_multiplier=8.0, every=every) if every else EvaluationConfig()
    plan = make_plan(FACTS, dataclasses.replace(PRIVACY, evaluation=evaluation), TRAINING, 10)
    told = [epsilon_at(plan, done) for done in range(11)]
    spent = [epsilon_after(plan, done) for done in range(11)]
    assert told[0] == 0 and told[-1] == plan.epsilon and told == sorted(told)
    assert all(a <= b <= a + 0.02 for a, b in zip(spent, told, strict=True))
    assert told == epsilon_by_round(plan)


def test_delta_at_or_above_one_over_records_is_refused_with_value_and_bound():
    with pytest.raises(PrivacyError, match=r"0\.005.*1/303 = 0\.0033.*north") as caught:
        make_plan(FACTS, dataclasses.replace(PRIVACY, delta=0.005), TRAINING, 1)
    assert caught.value.code == "FK302"


def test_all_problems_of_all_sites_come_at_once():
    sites = [dataclasses.replace(FACTS, site="a", records=0), dataclasses.replace(FACTS, site="b", records=10**6)]
    with pytest.raises(PrivacyError) as caught:
        make_plans(sites, PRIVACY, TRAINING, 1)
    assert "a declares 0 records" in str(caught.value)
    assert "1/1000000" in str(caught.value)


@pytest.mark.parametrize(
    ("privacy", "training", "rounds", "words"),
    [
        ({"epsilon": 3.0}, {}, 1, ["privacy.epsilon=3", "privacy.noise_multiplier=1.2"]),
        ({"noise_multiplier": None}, {}, 1, ["neither privacy.epsilon nor privacy.noise_multiplier"]),
        ({}, {"batch_size": 16}, 1, ["privacy.sample_rate", "training.batch_size=16"]),
        ({"sample_rate": None}, {}, 1, ["neither privacy.sample_rate nor training.batch_size"]),
        ({}, {"local_steps": 3}, 1, ["training.local_steps=3", "training.local_epochs=1"]),
        ({"noise_multiplier": None, "epsilon": -1.0}, {}, 1, ["privacy.epsilon -1 is not above 0"]),
        ({"noise_multiplier": None, "epsilon": math.nan}, {}, 1, ["privacy.epsilon nan"]),
        ({"noise_multiplier": 0.0}, {}, 1, ["privacy.noise_multiplier 0 is not above 0"]),
        ({"sample_rate": 1.5}, {}, 1, ["privacy.sample_rate 1.5 is above 1"]),
        ({"delta": None}, {}, 1, ["privacy.delta is missing"]),
        ({"delta": 1.0, "max_grad_norm": 0.0}, {}, 0, ["privacy.delta", "max_grad_norm", "num_rounds 0"]),
        ({"sample_rate": None}, {"batch_size": 400}, 1, ["batch_size 400 is above the 303 records of north"]),
        ({"noise": "none"}, {}, 1, ["privacy.noise none"]),
        ({"mode": "none"}, {}, 1, ["privacy.mode none"]),
    ],
)
def test_bad_settings_are_refused_by_name(privacy, training, rounds, words):
    with pytest.raises(PrivacyError) as caught:
        make_plan(FACTS, dataclasses.replace(PRIVACY, **privacy), dataclasses.replace(TRAINING, **training), rounds)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("asked", "least_noise", "composed"),
    [
        ({"noise_multiplier": 1.2}, 1, 2),  # training alone, which the evaluation's share is of, and both together
        ({"epsilon": 3.0}, 2, 12),  # the evaluation, which composes nothing, then training beside it
    ],
)
def test_a_hundred_alike_sites_are_accounted_for_once(asked, least_noise, composed, monkeypatch):
    accounting._epsilon.cache_clear()
    calibration.noise_multiplier_for.cache_clear()
    calls = []
    monkeypatch.setattr(accounting, "composed", lambda *given: calls.append(given) or pld.composed(*given))
    privacy = PrivacyConfig(
        "record_dp", delta=1e-5, max_grad_norm=1.0, sample_rate=0.1, evaluation=EvaluationConfig(share=0.1), **asked
    )
    facts = [dataclasses.replace(FACTS, site=f"site{k}") for k in range(100)]
    plans = make_plans(facts, privacy, TRAINING, 20)
    assert len(plans) == 100 and all(plan.evaluation for plan in plans.values())
    assert calibration.noise_multiplier_for.cache_info().misses == least_noise
    assert 0 < len(calls) <= composed


def test_epsilon_of_every_round_before_an_evaluation_needs_no_fine_figure():
    privacy = dataclasses.replace(PRIVACY, evaluation=EvaluationConfig(noise_multiplier=8.0))
    plan = make_plan(FACTS, privacy, TRAINING, 11)
    before = accounting._epsilon.cache_info().misses
    told = [epsilon_at(plan, done) for done in range(12)]
    assert accounting._epsilon.cache_info().misses == before
    assert told == sorted(told) and max(told) == told[-1] == plan.epsilon
    assert all(epsilon_after(plan, done) <= told[done] for done in range(12))
