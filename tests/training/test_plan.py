import dataclasses

import numpy as np
import pytest

from fedkit.config.experiment import (
    DataConfig,
    EvaluationConfig,
    ExperimentConfig,
    FeaturesConfig,
    FederationConfig,
    ModelConfig,
    PrivacyConfig,
    SourceConfig,
    StrategyConfig,
    TargetConfig,
    TrainingConfig,
)
from fedkit.errors import PrivacyError, TrainingError
from fedkit.training.plan import local_plans
from fedkit.types import Dataset, Site, Task
from tests.training.builders import examples

# Noise that is given: how it is found for an epsilon is tested in privacy/test_plan.py.
PRIVATE = PrivacyConfig("record_dp", noise_multiplier=1.5, delta=1e-5, max_grad_norm=1.0, sample_rate=0.05)
PLAIN = PrivacyConfig("none", sample_rate=0.05)


def config(privacy=PLAIN, training=None, rounds=3):
    return ExperimentConfig(
        name="test",
        seed=1,
        data=DataConfig("d", "", SourceConfig("arrays"), TargetConfig("y", "binary"), FeaturesConfig()),
        model=ModelConfig("logistic"),
        strategy=StrategyConfig("fedavg"),
        privacy=privacy,
        training=training or TrainingConfig(0.1, local_epochs=1),
        federation=FederationConfig("local", rounds),
    )


def dataset(*sizes):
    """Sites of (train rows, test rows, declared records)."""
    sites = tuple(
        Site(f"s{k}", examples(train, k), examples(test, k + 50), records, True)
        for k, (train, test, records) in enumerate(sizes)
    )
    task = Task("binary", ("no", "yes"))
    names = tuple("abcde")
    return Dataset("d", task, "record", (5,), names, sites, 0.25, "keyed_hash", "declared", {s.name: "" for s in sites})


def test_plain_batches_and_steps_follow_the_rows():
    plans = local_plans(config(), dataset((199, 104, 300), (30, 16, 46))).sites
    assert (plans["s0"].batch_size, plans["s0"].steps) == (10, 20)
    assert (plans["s1"].batch_size, plans["s1"].steps) == (2, 15)
    assert plans["s0"].privacy is None and plans["s0"].weight is None


def test_an_epoch_is_a_pass_with_its_smaller_last_batch():
    training = TrainingConfig(0.1, local_epochs=2, batch_size=4)
    assert local_plans(config(training=training), dataset((10, 9, 20))).sites["s0"].steps == 6
    training = TrainingConfig(0.1, local_steps=100, batch_size=4)
    assert local_plans(config(training=training), dataset((10, 9, 20))).sites["s0"].steps == 100


def test_a_private_plan_is_the_same_whatever_the_data():
    a = local_plans(config(PRIVATE), dataset((199, 104, 300), (90, 30, 120)))
    b = local_plans(config(PRIVATE), dataset((200, 103, 300), (0, 30, 120)))
    assert a.sites == b.sites
    plan = a.sites["s0"]
    assert plan.weight == 225.0
    assert plan.privacy.lot_size == pytest.approx(0.05 * 225)
    assert plan.steps == plan.privacy.steps == 20
    assert 0 < plan.privacy.epsilon <= 3.0


def test_small_sites_are_left_out_and_named():
    plans = local_plans(config(), dataset((4, 30, 34), (30, 4, 34)))
    assert list(plans.sites) == ["s1"]
    assert plans.tested == ("s0",)
    assert plans.notes == (
        "s0 left out of training: 4 training units, at least 5 needed",
        "s1 left out of testing: 4 test rows, at least 5 needed",
    )


def test_a_private_run_leaves_sites_out_by_their_declaration_only():
    plans = local_plans(config(PRIVATE), dataset((40, 30, 6), (1, 30, 100)))
    assert list(plans.sites) == ["s1"]
    assert "s0 left out of training: 4.5 declared training units" in plans.notes[0]


def test_a_site_with_too_few_declared_test_units_is_remarked_upon_and_trains():
    evaluated = dataclasses.replace(PRIVATE, evaluation=EvaluationConfig(share=0.4))
    plans = local_plans(config(evaluated), dataset((90, 30, 120), (12, 30, 16)))
    assert list(plans.sites) == ["s0", "s1"] and plans.notes == ()
    assert plans.remarks == ("s1 releases no histogram: at least 5 declared test units are needed",)
    assert plans.sites["s0"].privacy.evaluation and plans.sites["s1"].privacy.evaluation is None
    # By the declaration alone, whatever the rows; and silent where nothing is released anywhere.
    assert local_plans(config(evaluated), dataset((90, 30, 120), (90, 2, 120))).remarks == ()
    assert local_plans(config(PRIVATE), dataset((90, 30, 120), (12, 30, 16))).remarks == ()
    assert local_plans(config(), dataset((90, 30, 120), (12, 30, 16))).remarks == ()


def test_no_site_at_all_is_an_error():
    with pytest.raises(TrainingError, match="no site"):
        local_plans(config(), dataset((4, 30, 34), (3, 30, 34)))


def test_a_units_rows_count_once():
    data = dataset((12, 30, 42))
    few = dataclasses.replace(data.sites[0].train, unit=np.arange(12) // 3)
    site = dataclasses.replace(data.sites[0], train=few)
    with pytest.raises(TrainingError):
        local_plans(config(), dataclasses.replace(data, sites=(site,)))


def test_all_privacy_problems_come_at_once():
    privacy = dataclasses.replace(PRIVATE, delta=0.05)
    with pytest.raises(PrivacyError) as caught:
        local_plans(config(privacy), dataset((30, 30, 40), (30, 30, 50)))
    assert "s0" in str(caught.value) and "s1" in str(caught.value)


@pytest.mark.parametrize(
    ("training", "word"),
    [
        (TrainingConfig(0.0, local_epochs=1), "learning_rate 0"),
        (TrainingConfig(float("nan"), local_epochs=1), "learning_rate nan"),
        (TrainingConfig(0.1), "exactly one"),
        (TrainingConfig(0.1, local_epochs=1, local_steps=1), "exactly one"),
        (TrainingConfig(0.1, local_epochs=1, optimizer="lamb"), "lamb"),
        (TrainingConfig(0.1, local_epochs=1, batch_size=0), "batch_size 0"),
    ],
)
def test_impossible_training_settings_are_refused(training, word):
    with pytest.raises(TrainingError, match=word):
        local_plans(config(training=training), dataset((30, 30, 60)))
