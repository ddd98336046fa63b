"""Taps on a device against the reference on the CPU: same lots, same noise, same weights."""

import copy
import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedkit.config.experiment import ModelConfig
from fedkit.errors import TrainingError
from fedkit.models import MODELS, build
from fedkit.models.flat import pack
from fedkit.training import device_copy
from fedkit.training.local import train
from fedkit.training.on_device import device_of
from fedkit.training.tapped import tapped
from fedkit.training.taps_on_device import TapsOnDevice
from tests.training.builders import BINARY, Mixing, local_plan, round_plan
from tests.training.test_taps import (
    CNN,
    IMAGE,
    SHAPES,
    TASKS,
    THREE,
    LowRank,
    Words,
    image_models,
    private,
    site,
)  # fmt: skip

TWIN = torch.device("cpu", 0)
"""The CPU by another name: training on it takes the way of a GPU."""
GPU = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU here"))
everywhere = pytest.mark.parametrize("where", ["twin", GPU])


def engine(model, shape, where):
    found = tapped(model, shape)
    assert not isinstance(found, str), found
    return TapsOnDevice(found, TWIN if where == "twin" else device_of("cuda", "device"))


def assert_same(model, shape, task, sites, plan, where):
    theirs, _ = train(model, task, sites, plan, {})
    ours, _ = engine(model, shape, where).train(model, task, sites, plan, {})
    received = pack(model)
    for mine, other in zip(ours, theirs, strict=True):
        weights, expected = received + mine.delta, received + other.delta
        assert (mine.site, mine.weight, mine.metrics) == (other.site, other.weight, other.metrics)
        assert np.linalg.norm(weights - expected) <= 1e-5 * np.linalg.norm(expected)


@pytest.mark.slow
@everywhere
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    ("kind", "optimizer", "mu"), [("binary", "sgd", 0.0), ("multiclass", "sgd", 0.3), ("regression", "adam", 0.1)]
)
def test_every_model_on_offer_has_the_references_weights_after_50_steps(name, kind, optimizer, mu, where):
    task, outputs = TASKS[kind]
    model = build(ModelConfig(name), SHAPES[name], outputs, seed=3)
    sites = [site(f"s{k}", n, SHAPES[name], k, kind) for k, n in enumerate((40, 3, 0))]
    rate = 0.1 if optimizer == "sgd" else 0.001
    plans = {s.name: private(s.name, optimizer=optimizer, rate=rate, sample_rate=0.2, max_lot=34) for s in sites}
    assert_same(model, SHAPES[name], task, sites, round_plan(model, plans, mu=mu), where)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Using padding='same'")
@everywhere
@settings(max_examples=20, deadline=None)
@given(image_models(), st.lists(st.integers(0, 20), min_size=1, max_size=3), st.integers(0, 10**6))
def test_any_architecture_trains_as_the_reference_does(where, drawn, counts, seed):
    model, shape = drawn
    sites = [site(f"s{k}", n, shape, seed + k) for k, n in enumerate(counts)]
    plans = {s.name: private(s.name, 5, rate=0.05, sample_rate=0.4, max_lot=30) for s in sites}
    assert_same(model, shape, THREE, sites, round_plan(model, plans, seed=seed), where)


@pytest.mark.slow
@everywhere
@pytest.mark.parametrize(("make", "shape", "words"), [(Words, (4,), 9), (LowRank, (5,), 0)])
@pytest.mark.parametrize("unit", ["record", "patient"])
def test_attention_embeddings_and_frozen_layers_train_as_in_the_reference(make, shape, words, unit, where):
    torch.manual_seed(0)
    model = make()
    sites = [
        site("north", 40, shape, 1, words=words, rows_a_unit=1 if unit == "record" else 3),
        site("south", 0, shape),
    ]
    plans = {s.name: private(s.name, 50, rate=0.1, unit=unit) for s in sites}
    assert_same(model, shape, THREE, sites, round_plan(model, plans, mu=0.1), where)


@everywhere
@pytest.mark.parametrize(("max_lot", "most"), [(30, 256), (30, 7), (5, 256), (5, 2), (30, 1)])
def test_lots_in_blocks_of_any_size_and_beyond_their_places_are_whole(max_lot, most, where, monkeypatch):
    monkeypatch.setattr(device_copy, "MOST_PLACES", most)
    monkeypatch.setattr("fedkit.privacy.tap_block.MOST_BLOCKS", 3)
    plans = {"north": private("north", 10, sample_rate=0.4, max_lot=max_lot)}
    assert_same(CNN, IMAGE, THREE, [site("north", 40, IMAGE, 1)], round_plan(CNN, plans), where)


@everywhere
def test_the_same_inputs_give_the_same_bits_whichever_sites_share_the_call_and_in_any_round(where):
    sites = [site(f"s{k}", 20 + k, IMAGE, k) for k in range(4)]
    plans = {s.name: private(s.name, 6, max_lot=40 + 9 * k) for k, s in enumerate(sites)}
    shared = engine(CNN, IMAGE, where)
    for number in (1, 2):
        plan = round_plan(CNN, plans, number=number)
        whole, _ = shared.train(CNN, THREE, sites, plan, {})
        for mine, here in zip(whole, sites, strict=True):
            ((alone,), _) = engine(CNN, IMAGE, where).train(CNN, THREE, [here], plan, {})
            assert np.array_equal(mine.delta, alone.delta)


@everywhere
def test_a_site_without_privacy_is_trained_as_by_the_reference_there(where):
    there = TWIN if where == "twin" else device_of("cuda", "device")
    plan = round_plan(CNN, {"north": local_plan(6, 8, 0.1), "south": private("south", 6)})
    sites = [site("north", 30, IMAGE), site("south", 30, IMAGE, 1)]
    ours, _ = engine(CNN, IMAGE, where).train(CNN, THREE, sites, plan, {})
    (theirs,), _ = train(CNN, THREE, sites[:1], plan, {}, device=there)
    assert [each.site for each in ours] == ["north", "south"]
    assert np.array_equal(ours[0].delta, theirs.delta) and ours[0].metrics == theirs.metrics


@everywhere
def test_secure_noise_is_fresh_and_of_the_plans_size(where):
    from scipy.stats import kstest

    model = nn.Sequential(nn.Conv2d(1, 8, 3, bias=False), nn.Flatten(), nn.Linear(128, 3))
    names = [f"s{k}" for k in range(20)]
    sites = [site(name, 0, IMAGE, k) for k, name in enumerate(names)]
    plans = {name: private(name, 1, rate=1.0, noise="secure", noise_multiplier=2.0, lot_size=4.0) for name in names}
    taps, plan = engine(model, IMAGE, where), round_plan(model, plans)
    values = np.stack([u.delta for _ in range(2) for u in taps.train(model, THREE, sites, plan, {})[0]])
    assert len({row.tobytes() for row in values}) == 40
    assert kstest(values.ravel() / (2.0 / 4.0), "norm").pvalue > 1e-4


@everywhere
def test_the_callers_model_is_left_as_it_was_and_another_takes_its_place(where):
    before, mode, taps = pack(CNN), CNN.training, engine(CNN, IMAGE, where)
    other, sites = copy.deepcopy(CNN), [site("north", 30, IMAGE)]
    plan = round_plan(CNN, {"north": private("north", 3)})
    first, second = (taps.train(model, THREE, sites, plan, {})[0][0] for model in (CNN, other))
    assert np.array_equal(first.delta, second.delta)
    assert np.array_equal(pack(CNN), before) and CNN.training == mode
    assert all(p.requires_grad and p.grad is None for p in CNN.parameters())


def test_what_fails_on_a_private_sites_records_has_the_one_code():
    taps, where = engine(CNN, IMAGE, "twin"), site("north", 30, IMAGE)
    wrong = dataclasses.replace(private("north", 3), steps=2)
    with pytest.raises(TrainingError, match="private training at north failed") as caught:
        taps.train(CNN, THREE, [where], round_plan(CNN, {"north": wrong}), {})
    assert caught.value.code == "FK419"


def test_what_the_reference_refuses_is_refused_before_any_record():
    class Remembering(nn.Module):
        """Keeps the first row that it sees for all that come after."""

        def __init__(self):
            super().__init__()
            self.layer, self.first = nn.Linear(5, 1), None

        def forward(self, x):
            if self.first is None:
                self.first = x[0].detach()
            return self.layer(x + self.first)

    for model in (Mixing(), Remembering()):
        taps = TapsOnDevice(tapped(model, (5,)), TWIN)
        with pytest.raises(TrainingError, match="mixes or remembers") as caught:
            taps.check(model, BINARY, [site("north", 30, (5,))], round_plan(model, {"north": private("north", 3)}))
        assert caught.value.code == "FK404"
    with pytest.raises(TrainingError, match="no local plan for north"):
        engine(CNN, IMAGE, "twin").check(CNN, THREE, [site("north", 30, IMAGE)], round_plan(CNN, {}))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU here")
def test_an_operation_without_a_deterministic_form_is_refused_before_any_record():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(64, 3))
    with pytest.raises(TrainingError, match="cannot be trained on cuda") as caught:
        engine(model, IMAGE, "cuda").check(
            model, THREE, [site("north", 30, IMAGE)], round_plan(model, {"north": private("north", 3)})
        )
    assert caught.value.code == "FK423"
