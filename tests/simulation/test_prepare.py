"""What a run cannot have is refused before its plans, which take seconds of accounting, are made."""

import pytest
import torch

import fedkit
from fedkit.config.compose import compose
from fedkit.errors import TrainingError
from fedkit.simulation import prepare as preparing
from fedkit.simulation.prepare import engine_for, prepare
from fedkit.training.on_device import device_of

GPU = torch.device("cuda", 0)


@pytest.fixture
def unplanned(monkeypatch, tmp_path):
    def plans(*_):
        raise AssertionError("plans were made")

    monkeypatch.setattr(preparing, "local_plans", plans)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("unplanned")
@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        ("digits training.engine=closed_form", "FK417", "closed_form cannot train this model"),
        ("digits training.engine=taps privacy=none", "FK417", "taps are for private training"),
        ("heart_disease training.engine=vmap", "FK417", "vmap is for plain training"),
        ("digits training.engine=taps training.memory_gb=0.001", "FK418", "one site takes"),
        ("heart_disease training.engine=closed_form training.memory_gb=1e-6", "FK418", "one site takes"),
        ("heart_disease training.memory_gb=1e-8", "FK418", "below one model in training"),
        ("heart_disease training.memory_gb=1e-6 training.workers=9", "FK418", "workers=9, each with a site"),
        ("heart_disease training.device=cuda", "FK423", "torch finds no GPU"),
        ("digits training.engine=closed_form federation=ray", "FK417", "closed_form cannot train this model"),
    ],
)
def test_an_impossible_engine_budget_or_device_is_refused_before_any_plan(tmp_path, monkeypatch, words, code, told):
    monkeypatch.setattr("fedkit.simulation.simulate.check_ray", lambda _: None)
    name, *overrides = words.split()
    with pytest.raises(TrainingError, match=told) as caught:
        fedkit.simulate(name, overrides=overrides)
    assert caught.value.code == code and caught.value.remedy
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").iterdir())


@pytest.mark.usefixtures("unplanned")
def test_what_plans_may_yet_make_possible_is_left_to_them():
    for words in ("digits training.engine=taps", "heart_disease training.engine=closed_form", "digits"):
        name, *overrides = words.split()
        with pytest.raises(AssertionError, match="plans were made"):
            prepare(compose(name, overrides))


@pytest.mark.usefixtures("unplanned")
def test_workers_that_the_reference_has_no_memory_for_are_left_to_the_plans(monkeypatch):
    """A model whose rows' gradients fill the budget where the reference trains it, and which auto gives to another."""
    monkeypatch.setattr("fedkit.training.choice.bytes_of_reference", lambda *_, **__: 2**30)
    with pytest.raises(AssertionError, match="plans were made"):
        prepare(compose("heart_disease", ["training.workers=9"]))
    with pytest.raises(TrainingError, match="workers=9, each with a site in memory") as caught:
        prepare(compose("heart_disease", ["training.workers=9", "training.engine=reference"]))
    assert caught.value.code == "FK418"


@pytest.mark.usefixtures("unplanned")
def test_workers_are_refused_for_a_gpu_that_was_asked_for_and_not_for_one_that_auto_may_leave_alone(monkeypatch):
    monkeypatch.setattr(
        "fedkit.training.choice.device_of", lambda asked, _: device_of(asked, "") if asked == "cpu" else GPU
    )
    with pytest.raises(TrainingError, match="one process trains on a GPU") as caught:
        prepare(compose("heart_disease", ["training.device=cuda", "training.workers=2"]))
    assert caught.value.code == "FK418"
    with pytest.raises(AssertionError, match="plans were made"):
        prepare(compose("heart_disease", ["training.workers=2"]))


def test_the_lots_of_the_plans_are_held_against_the_engine_too():
    prepared = prepare(compose("heart_disease", ["training.engine=closed_form", "training.memory_gb=1e-5"]))
    with pytest.raises(TrainingError, match="one site takes") as caught:
        engine_for(prepared)
    assert caught.value.code == "FK418"
