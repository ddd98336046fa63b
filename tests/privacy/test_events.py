import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from fedkit.config.experiment import EvaluationConfig, PrivacyConfig, TrainingConfig
from fedkit.errors import PrivacyError
from fedkit.privacy.accounting import GaussianEvent, epsilon_of
from fedkit.privacy.events import LOT_RESIDUE, events_after, events_of, gaussian_delta, max_lot, round_events
from fedkit.privacy.plan import SiteFacts, epsilon_after, epsilon_by_round, make_plan

FACTS = SiteFacts("north", 303, True, "record", 0.25)
PRIVACY = PrivacyConfig(
    "record_dp", epsilon=3.0, delta=1e-5, max_grad_norm=1.0, sample_rate=0.1, evaluation=EvaluationConfig(5.0, every=4)
)
TRAINING = TrainingConfig(0.1, local_steps=10)


@given(records=st.integers(1, 5000), q=st.floats(1e-6, 1.0), steps=st.integers(1, 10**8))
def test_no_lot_of_a_run_exceeds_the_bound_but_for_the_stated_chance(records, q, steps):
    bound = max_lot(records, q, steps)
    assert 0 <= bound <= records
    assert steps * binom.sf(bound, records, q) <= LOT_RESIDUE


def test_the_bound_is_not_far_above_what_is_needed():
    bound = max_lot(303, 0.1, 150)
    assert 150 * binom.sf(bound - 2, 303, 0.1) > LOT_RESIDUE / 4


def test_a_runs_events_are_those_of_its_rounds():
    plan = make_plan(FACTS, PRIVACY, TRAINING, 10, histograms=2)
    assert plan.evaluation is not None and plan.evaluation.rounds == (4, 8, 10)
    assert events_of(plan) == (
        GaussianEvent(0.1, plan.noise_multiplier, 100),
        GaussianEvent(1.0, 5.0, 6),
    )
    each = [*round_events(plan, "train") * 10, *round_events(plan, "evaluate") * 3]
    assert epsilon_of(each, 1e-5) == pytest.approx(epsilon_of(events_of(plan), 1e-5))
    assert events_after(plan, 3) == (GaussianEvent(0.1, plan.noise_multiplier, 30),)
    assert events_after(plan, 0) == ()


def test_the_evaluation_comes_first_and_the_noise_of_training_takes_what_is_left():
    plan = make_plan(FACTS, PRIVACY, TRAINING, 10, histograms=2)
    assert 2.97 <= plan.epsilon == epsilon_of(events_of(plan), gaussian_delta(1e-5)) <= 3.0
    without = make_plan(FACTS, dataclasses.replace(PRIVACY, evaluation=EvaluationConfig()), TRAINING, 10)
    assert without.evaluation is None and without.noise_multiplier < plan.noise_multiplier


def test_an_evaluation_that_leaves_nothing_is_refused_with_the_remedy():
    dear = dataclasses.replace(PRIVACY, epsilon=0.5, evaluation=EvaluationConfig(1.0, every=1))
    with pytest.raises(PrivacyError, match="nothing is left") as caught:
        make_plan(FACTS, dear, TRAINING, 10)
    assert caught.value.code == "FK321"
    assert "privacy.evaluation.noise_multiplier" in str(caught.value)


def test_a_site_with_hardly_any_declared_test_units_releases_no_histogram():
    plan = make_plan(SiteFacts("tiny", 16, True, "record", 0.25), PRIVACY, TRAINING, 10)
    assert plan.evaluation is None
    assert make_plan(SiteFacts("small", 20, True, "record", 0.25), PRIVACY, TRAINING, 10).evaluation is not None


def test_epsilon_by_round_jumps_where_histograms_are_released_and_ends_on_the_plan():
    plan = make_plan(FACTS, PRIVACY, TRAINING, 10, histograms=2)
    curve = epsilon_by_round(plan)
    assert len(curve) == 11 and curve == sorted(curve) and curve[-1] == plan.epsilon
    assert curve[4] == epsilon_after(plan, 4)
    assert curve[4] - curve[3] > 2 * (curve[3] - curve[2])


def test_delta_pays_for_the_lots_beyond_the_bound_and_for_the_sampler():
    assert gaussian_delta(1e-5) == 1e-5 - 2e-15


@pytest.mark.slow
@pytest.mark.parametrize("epsilon", [0.01, 1.0, 30.0])
def test_a_share_of_epsilon_leaves_the_training_nearly_all_of_it_whatever_epsilon_is(epsilon):
    shared = dataclasses.replace(PRIVACY, epsilon=epsilon, evaluation=EvaluationConfig(share=0.3))
    plan = make_plan(FACTS, shared, TRAINING, 10, histograms=3)
    alone = make_plan(FACTS, dataclasses.replace(shared, evaluation=EvaluationConfig()), TRAINING, 10)
    assert plan.evaluation is not None
    assert epsilon_of((GaussianEvent(1.0, plan.evaluation.noise_multiplier, 3),), 1e-5) == pytest.approx(
        0.3 * epsilon, rel=0.02
    )
    assert 0.97 * epsilon <= plan.epsilon <= epsilon
    assert 1.0 < plan.noise_multiplier / alone.noise_multiplier < 1.1


def test_a_share_of_what_a_given_noise_costs_is_charged_beside_it():
    given = dataclasses.replace(PRIVACY, epsilon=None, noise_multiplier=1.2, evaluation=EvaluationConfig(share=0.3))
    plan = make_plan(FACTS, given, TRAINING, 10)
    training = epsilon_of((GaussianEvent(0.1, 1.2, 100),), 1e-5)
    assert plan.noise_multiplier == 1.2
    assert training < plan.epsilon < 1.1 * training
