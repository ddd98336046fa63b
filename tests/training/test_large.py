"""Models of millions of parameters: the same mathematics in all engines, and what falls back, in bounded memory."""

import os
import resource
from functools import partial

import numpy as np
import pytest
from torch import nn

from fedkit.config.compose import compose
from fedkit.errors import TrainingError
from fedkit.privacy.lattice import LARGE
from fedkit.simulation.local import run_local
from fedkit.simulation.prepare import engine_for, prepare
from fedkit.types import Task
from tests.training.builders import BINARY, examples

PRIVATE = ["privacy=record_dp", "privacy.noise=seeded", "privacy.noise_multiplier=1", "privacy.epsilon=null"]
SHORT = ["training.local_epochs=null", "training.learning_rate=0.01", "federation.num_rounds=1"]


def stack(width):
    return nn.Sequential(nn.Linear(5, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1))


class Own(nn.Module):
    """A forward of its own, which nothing is known of but what a probe shows."""

    def __init__(self, width):
        super().__init__()
        self.layers, self.drop = stack(width), nn.Dropout(0.1)

    def forward(self, x):
        return self.layers(self.drop(x))


def prepared(model, words, rows=12):
    parts = [examples(rows, seed) for seed in (1, 2)]
    data = {
        name: {"x": part.x, "y": part.y, "x_test": part.x, "y_test": part.y}
        for name, part in zip(("north", "south"), parts, strict=True)
    }
    return prepare(compose(None, [*SHORT, *words]), model=model, data=data, task=Task(BINARY.kind, BINARY.classes))


def trained(model, *words):
    ready = prepared(model, [*PRIVATE, *words])
    engine = engine_for(ready)
    return engine, run_local(ready, lambda *_: None, evaluate=False, engine=engine)


def test_processes_that_only_the_reference_has_no_memory_for_are_not_refused_before_the_plans_say_who_trains():
    words = *PRIVATE, "privacy.sample_rate=0.25", "training.local_steps=1", "training.memory_gb=2"
    engine = engine_for(prepared(partial(stack, 1730), [*words, "training.workers=10"]))
    assert engine.name == "closed_form" and engine.most_workers == 11
    with pytest.raises(TrainingError, match=r"training.workers=10.* holds 7") as caught:
        prepared(partial(stack, 1730), [*words, "training.workers=10", "training.engine=reference"])
    assert caught.value.code == "FK418"


@pytest.mark.slow
def test_all_engines_give_the_reference_s_weights_for_a_model_beyond_the_bound_of_small_ones():
    model = partial(stack, 1500)
    assert sum(p.numel() for p in model().parameters()) > LARGE
    words = "training.local_steps=2", "privacy.sample_rate=0.5"
    engine, expected = trained(model, *words, "training.engine=reference")
    assert engine.name == "reference" and expected.outcome == "complete"
    for name in ("closed_form", "taps"):
        found = trained(model, *words, f"training.engine={name}")[1].parameters
        assert np.linalg.norm(found - expected.parameters) <= 1e-5 * np.linalg.norm(expected.parameters)


@pytest.mark.deploy
@pytest.mark.skipif(
    os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") < 10 * 2**30, reason="needs 10 GB of free memory"
)
@pytest.mark.parametrize(
    ("model", "words", "engine"),
    [
        (stack, ("privacy=none", "training.memory_gb=2"), "reference"),
        (stack, (*PRIVATE, "privacy.sample_rate=0.25", "training.memory_gb=8"), "closed_form"),
        (Own, (*PRIVATE, "privacy.sample_rate=0.25", "training.memory_gb=8"), "reference"),
    ],
)
def test_a_hundred_million_parameters_train_within_the_budget(model, words, engine):
    ready = prepared(partial(model, 9990), ["training.local_steps=1", *words])
    chosen = engine_for(ready)
    assert chosen.name == engine and chosen.most_workers == 1
    found = run_local(ready, lambda *_: None, evaluate=False, engine=chosen)
    assert found.outcome == "complete" and not found.notes and len(found.parameters) > 99_000_000
    # What the run's own model, its copies and the rest of this process take is beside the budget.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 10 * 2**20
