"""Taps against the reference: same lots, same noise, same weights."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedkit.config.compose import compose
from fedkit.config.experiment import ModelConfig
from fedkit.errors import TrainingError
from fedkit.models import MODELS, build
from fedkit.models.flat import pack
from fedkit.native.library import library
from fedkit.training import engine_taps, stack_compiled, tap_gradients, trunk_gradients
from fedkit.training.choice import choose
from fedkit.training.cohort import COMPILED
from fedkit.training.kinds import Kinds
from fedkit.training.local import train
from fedkit.training.stack import POINTWISE
from fedkit.training.tap_layers import unfolded
from fedkit.training.tapped import tapped
from fedkit.training.taps import Taps, probe
from fedkit.training.trunk import trunk_of
from fedkit.types import Examples, Site, Task
from tests.training.builders import BINARY, local_plan, privacy_plan, round_plan

THREE = Task("multiclass", ("a", "b", "c"))
TASKS = {"binary": (BINARY, 1), "multiclass": (THREE, 3), "regression": (Task("regression", (), (0.0, 60.0)), 1)}


def site(name, n, shape, seed=0, kind="multiclass", rows_a_unit=1, words=0):
    draw = np.random.default_rng(seed)

    def examples(n):
        x = draw.integers(0, words, (n, *shape)) if words else draw.standard_normal((n, *shape))
        y = {"binary": draw.integers(0, 2, n), "multiclass": draw.integers(0, 3, n), "regression": draw.random(n)}[kind]
        return Examples(x.astype(np.float32), y, np.arange(n) // rows_a_unit)

    return Site(name, examples(n), examples(5), n, True)


def private(name, steps=50, optimizer="sgd", rate=0.1, **changes):
    plan = privacy_plan(name, **{"steps": steps, "noise_multiplier": 0.5, **changes})
    return local_plan(steps, 8, rate, optimizer, plan)


def engine(model, shape, task, *, cut=True, compiled=False):
    found = tapped(model, shape)
    assert not isinstance(found, str), found
    if not found.proven:
        probe(model, found, task, shape)
    return Taps(found, trunk_of(model, found, shape, compiled=compiled) if cut else None, compiled)


def assert_same(model, shape, task, sites, plan):
    """In blocks, and where the model can be cut in a trunk and a head, whichever would be chosen; compiled and not."""
    theirs, _ = train(model, task, sites, plan, {})
    received = pack(model)
    forms = [False, True] if library() is not None else [False]
    made = [engine(model, shape, task, cut=cut, compiled=form) for form in forms for cut in (False, True)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trunk_gradients, "cheaper", lambda *_: True)
        for taps in [taps for k, taps in enumerate(made) if taps.trunk or k % 2 == 0]:
            ours, _ = taps.train(model, task, sites, plan, {})
            for mine, other in zip(ours, theirs, strict=True):
                weights, expected = received + mine.delta, received + other.delta
                assert (mine.site, mine.weight, mine.metrics) == (other.site, other.weight, other.metrics)
                assert np.linalg.norm(weights - expected) <= 1e-5 * np.linalg.norm(expected)


SHAPES = {"logistic": (5,), "mlp": (5,), "cnn": (1, 8, 8)}


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    ("kind", "optimizer", "mu"), [("binary", "sgd", 0.0), ("multiclass", "sgd", 0.3), ("regression", "adam", 0.1)]
)
def test_every_model_on_offer_has_the_references_weights_after_50_steps(name, kind, optimizer, mu):
    task, outputs = TASKS[kind]
    shape = SHAPES[name]
    model = build(ModelConfig(name), shape, outputs, seed=3)
    sites = [site(f"s{k}", n, shape, k, kind) for k, n in enumerate((40, 3, 0))]
    rate = 0.1 if optimizer == "sgd" else 0.001
    plans = {s.name: private(s.name, optimizer=optimizer, rate=rate, sample_rate=0.2, max_lot=34) for s in sites}
    assert_same(model, shape, task, sites, round_plan(model, plans, mu=mu))


@st.composite
def image_models(draw):
    """A chain of convolutions with what may stand between them, and then Linear layers."""
    torch.manual_seed(draw(st.integers(0, 10**6)))
    sizes = draw(st.integers(1, 2))
    conv, pool, adaptive = (
        (nn.Conv1d, nn.AvgPool1d, nn.AdaptiveAvgPool1d)
        if sizes == 1
        else (nn.Conv2d, nn.MaxPool2d, nn.AdaptiveAvgPool2d)
    )
    shape = (draw(st.sampled_from([1, 2, 4])), *(draw(st.integers(5, 9)) for _ in range(sizes)))
    activation = draw(st.sampled_from(sorted(POINTWISE, key=lambda kind: kind.__name__)))
    layers, x = [], torch.zeros(1, *shape)

    def append(layer):
        nonlocal x
        x = layer(x)
        layers.append(layer)

    for _ in range(draw(st.integers(1, 3))):
        planes = x.shape[1]
        groups = draw(st.sampled_from([g for g in (1, 2, 4) if planes % g == 0]))
        stride, dilation = draw(st.sampled_from([(1, 1), (2, 1), (1, 2)]))
        padding = draw(st.sampled_from([0, 1, 2, "same"] if stride == 1 else [0, 1, 2]))
        kernel = draw(st.integers(1, 3))
        if isinstance(padding, int) and min(x.shape[2:]) + 2 * padding < dilation * (kernel - 1) + 1:
            padding = "same" if stride == 1 else 2
        out = groups * draw(st.sampled_from([1, 2, 4]))
        options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
        append(conv(planes, out, kernel, bias=draw(st.booleans()), **options))
        norm = draw(st.sampled_from(["none", "group", "layer", "plain"]))
        if norm == "group" and x[0].numel() > out:
            append(nn.GroupNorm(draw(st.sampled_from([g for g in (1, 2, 4) if out % g == 0])), out))
        if norm == "layer":
            append(nn.LayerNorm(list(x.shape[2:])))
        if norm == "plain":
            append(nn.LayerNorm(list(x.shape[1:]), elementwise_affine=False))
        append(activation())
        if min(x.shape[2:]) > 3 and draw(st.booleans()):
            append(pool(2))
    if draw(st.booleans()):
        append(adaptive(1))
    append(nn.Flatten())
    if draw(st.booleans()):
        append(nn.Linear(x.shape[1], 6, bias=draw(st.booleans())))
        append(nn.LayerNorm(6))
        append(activation())
    append(nn.Linear(x.shape[1], 3, bias=draw(st.booleans())))
    return nn.Sequential(*layers), shape


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Using padding='same'")
@settings(max_examples=20, deadline=None)
@given(image_models(), st.lists(st.integers(0, 20), min_size=1, max_size=3), st.integers(0, 10**6))
def test_any_architecture_trains_as_the_reference_does(drawn, counts, seed):
    model, shape = drawn
    assert engine(model, shape, THREE).tapped.proven
    sites = [site(f"s{k}", n, shape, seed + k) for k, n in enumerate(counts)]
    plans = {s.name: private(s.name, 5, rate=0.05, sample_rate=0.4, max_lot=30) for s in sites}
    assert_same(model, shape, THREE, sites, round_plan(model, plans, seed=seed))


class Words(nn.Module):
    """An embedding, attention by hand over its words, norms, and a mean."""

    def __init__(self, words=9, size=6):
        super().__init__()
        self.embed, self.place = nn.Embedding(words, size), nn.Embedding(4, size)
        self.norm, self.query, self.keyvalue = nn.LayerNorm(size), nn.Linear(size, size), nn.Linear(size, 2 * size)
        self.last, self.out = nn.LayerNorm(size), nn.Linear(size, 3)

    def forward(self, x):
        x = self.embed(x.abs().long() % 9) + self.place(torch.arange(4, device=x.device).expand(len(x), 4))
        h = self.norm(x)
        key, value = self.keyvalue(h).chunk(2, -1)
        weights = torch.softmax(self.query(h) @ key.transpose(1, 2) / math.sqrt(h.shape[-1]), -1)
        return self.out(self.last(x + weights @ value).mean(1))


class LowRank(nn.Module):
    """LoRA: a frozen layer and two thin ones beside it."""

    def __init__(self):
        super().__init__()
        self.frozen, self.down, self.up = nn.Linear(5, 8), nn.Linear(5, 2, bias=False), nn.Linear(2, 8, bias=False)
        self.out = nn.Linear(8, 3)
        for p in self.frozen.parameters():
            p.requires_grad_(False)

    def forward(self, x):
        return self.out(torch.tanh(self.frozen(x) + self.up(self.down(x))))


@pytest.mark.slow
@pytest.mark.parametrize(("make", "shape", "words"), [(Words, (4,), 9), (LowRank, (5,), 0)])
@pytest.mark.parametrize("unit", ["record", "patient"])
def test_attention_embeddings_and_frozen_layers_train_as_in_the_reference(make, shape, words, unit):
    torch.manual_seed(0)
    model = make()
    assert not engine(model, shape, THREE).tapped.proven
    sites = [
        site("north", 40, shape, 1, words=words, rows_a_unit=1 if unit == "record" else 3),
        site("south", 0, shape),
    ]
    plans = {s.name: private(s.name, 50, rate=0.1, unit=unit) for s in sites}
    assert_same(model, shape, THREE, sites, round_plan(model, plans, mu=0.1))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_windows_in_one_copy_are_those_of_unfold(data):
    drawn = {name: data.draw(st.tuples(*[st.integers(*bounds)] * 2)) for name, bounds in (
        ("kernel", (1, 3)), ("dilation", (1, 2)), ("padding", (0, 2)), ("stride", (1, 3)))}  # fmt: skip
    a = torch.randn(3, 2, *(data.draw(st.integers(5, 9)) for _ in range(2)))
    windows = unfolded(a, **drawn)
    assert torch.equal(windows, torch.nn.functional.unfold(a, *drawn.values()))


CNN = nn.Sequential(
    nn.Conv2d(1, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 3)
)
IMAGE = (1, 6, 6)


@pytest.mark.parametrize("rows_a_unit", [1, 3])
def test_a_patients_rows_are_clipped_as_one(rows_a_unit):
    sites = [site("north", 40, IMAGE, 1, rows_a_unit=rows_a_unit)]
    plans = {"north": private("north", 20, unit="patient")}
    assert_same(CNN, IMAGE, THREE, sites, round_plan(CNN, plans))


def test_rows_of_a_patient_need_not_be_neighbours_and_may_be_more_than_are_held(monkeypatch):
    monkeypatch.setattr("fedkit.training.tap_gradients.most_rows", lambda d: 2)
    here = site("north", 24, IMAGE, 3)
    mixed = dataclasses.replace(here.train, unit=np.random.default_rng(0).permutation(np.arange(24) // 5))
    plans = {"north": private("north", 20, unit="patient")}
    assert_same(CNN, IMAGE, THREE, [dataclasses.replace(here, train=mixed)], round_plan(CNN, plans))


@pytest.mark.slow
@pytest.mark.parametrize("width", [1, 2, 8, 30])
@pytest.mark.parametrize(("max_lot", "most"), [(30, 256), (30, 7), (5, 256), (5, 2)])
def test_lots_in_blocks_of_any_width_and_beyond_their_places_are_whole(width, max_lot, most, monkeypatch):
    monkeypatch.setattr("fedkit.training.tap_gradients.block_width", lambda tapped, rows, places: min(width, places))
    for module in (tap_gradients, trunk_gradients):
        monkeypatch.setattr(module, "most_places", lambda tapped: most)
    plans = {"north": private("north", 10, sample_rate=0.4, max_lot=max_lot)}
    assert_same(CNN, IMAGE, THREE, [site("north", 40, IMAGE, 1)], round_plan(CNN, plans))


def test_rows_that_the_reference_has_in_columns_leave_the_noise_as_it_is(monkeypatch):
    monkeypatch.setattr("fedkit.privacy.placement.CHEAP", 10)
    plans = {"north": private("north", 10, max_lot=50, lot_size=3.0)}
    assert_same(CNN, IMAGE, THREE, [site("north", 40, IMAGE, 1)], round_plan(CNN, plans))


@pytest.mark.parametrize("width", [1, 4, 16])
def test_a_row_that_joins_changes_no_other_rows_term_by_a_bit(width, monkeypatch):
    """Parameters for which rounding is not small: 1e9 where some rows have nothing."""
    from fedkit.privacy.lattice import G, slack
    from fedkit.privacy.randomness import Draws, Seeded
    from fedkit.training.local import summed

    monkeypatch.setattr(tap_gradients, "block_width", lambda tapped, rows, places: min(width, places))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(144, 8), nn.Linear(8, 3))
    with torch.no_grad():
        model[0].weight.mul_(1e4)
        model[3].weight.mul_(1e4)
    x = torch.randn(16, *IMAGE)
    y = torch.arange(16) % 3

    class Fixed(Draws):
        """One draw of places for all sixteen rows, of which those from ``first`` on are there."""

        first = 0

        def permutation(self, n):
            return np.random.default_rng(5).permutation(n)[self.first :]

        def columns(self, n, width):
            return np.random.default_rng(6).integers(0, width, 16)[self.first :][:n]

    found = tapped(model, IMAGE)

    def summed_rows(first, last):
        places = Fixed(bytes(32))
        places.first = first
        with tap_gradients.tap_gradients(model, found, summed(THREE), places) as gradients:
            lot = x[first:last], y[first:last]
            return gradients.of_records(*lot, 1.0, Seeded("lots"), max_lot=16, lot_size=8.0)

    own = summed_rows(15, 16)
    moved = summed_rows(0, 16) - summed_rows(0, 15)
    assert 0.5 * G < moved.double().norm() <= slack(len(moved)) * G
    # Its own term, but that every sum is rounded to the lattice.
    assert (moved - own).abs().max() <= 1


def test_secure_noise_is_fresh_and_of_the_plans_size():
    model = nn.Sequential(nn.Conv2d(1, 8, 3, bias=False), nn.Flatten(), nn.Linear(128, 3))
    names = [f"s{k}" for k in range(20)]
    sites = [site(name, 0, IMAGE, k) for k, name in enumerate(names)]
    plans = {name: private(name, 1, rate=1.0, noise="secure", noise_multiplier=2.0, lot_size=4.0) for name in names}
    taps = engine(model, IMAGE, THREE)
    runs = [taps.train(model, THREE, sites, round_plan(model, plans), {})[0] for _ in range(2)]
    values = np.stack([u.delta for updates in runs for u in updates])
    assert len({row.tobytes() for row in values}) == 40
    # Empty sites' updates are noise alone: sigma * C / lot.
    from scipy.stats import kstest

    assert kstest(values.ravel() / (2.0 / 4.0), "norm").pvalue > 1e-4


def test_a_secure_lot_has_the_law_of_the_references():
    """One row, q = 1/2: joined or not shows in the update, at both engines equally often."""
    names = [f"s{k}" for k in range(200)]
    sites = [site(name, 1, IMAGE, 1) for name in names]
    changes = {"noise": "secure", "noise_multiplier": 0.01, "lot_size": 1.0, "sample_rate": 0.5, "max_lot": 1}
    plans = {name: private(name, 1, rate=1.0, **changes) for name in names}
    from scipy.stats import ks_2samp

    taps, plan = engine(CNN, IMAGE, THREE), round_plan(CNN, plans)
    runs = [taps.train(CNN, THREE, sites, plan, {})[0], train(CNN, THREE, sites, plan, {})[0]]
    sizes = [np.array([np.linalg.norm(u.delta) for u in updates]) for updates in runs]
    assert 60 < (sizes[0] > 0.5).sum() < 140
    assert ks_2samp(*sizes).pvalue > 1e-4


def test_the_same_inputs_give_the_same_bits_whichever_sites_share_the_call():
    sites = [site(f"s{k}", 20 + k, IMAGE, k) for k in range(4)]
    plan = round_plan(CNN, {s.name: private(s.name, 6) for s in sites})
    taps = engine(CNN, IMAGE, THREE)
    whole, _ = taps.train(CNN, THREE, sites, plan, {})
    for mine, here in zip(whole, sites, strict=True):
        ((alone,), _) = taps.train(CNN, THREE, [here], plan, {})
        assert np.array_equal(mine.delta, alone.delta)


def test_a_site_without_privacy_is_the_references_to_the_bit():
    plan = round_plan(CNN, {"north": local_plan(6, 8, 0.1)})
    here = [site("north", 30, IMAGE)]
    (ours,), _ = engine(CNN, IMAGE, THREE).train(CNN, THREE, here, plan, {})
    (theirs,), _ = train(CNN, THREE, here, plan, {})
    assert np.array_equal(ours.delta, theirs.delta)


def test_the_callers_model_is_left_as_it_was():
    before, mode = pack(CNN), CNN.training
    engine(CNN, IMAGE, THREE).train(
        CNN, THREE, [site("north", 30, IMAGE)], round_plan(CNN, {"north": private("north", 3)}), {}
    )
    assert np.array_equal(pack(CNN), before) and CNN.training == mode
    assert all(p.requires_grad and p.grad is None for p in CNN.parameters())


def test_what_fails_on_a_private_sites_records_has_the_one_code():
    plan = round_plan(CNN, {"north": dataclasses.replace(private("north"), steps=3)})
    with pytest.raises(TrainingError) as caught:
        engine(CNN, IMAGE, THREE).train(CNN, THREE, [site("north", 9, IMAGE)], plan, {})
    assert caught.value.code == "FK419"


def test_a_site_without_a_plan_and_parameters_of_another_size_are_refused():
    here = [site("north", 9, IMAGE)]
    with pytest.raises(TrainingError, match="no local plan for north"):
        engine(CNN, IMAGE, THREE).train(CNN, THREE, here, round_plan(CNN, {}), {})
    plan = round_plan(CNN, {"north": private("north")}, parameters=np.zeros(5, np.float32))
    with pytest.raises(TrainingError) as caught:
        engine(CNN, IMAGE, THREE).train(CNN, THREE, here, plan, {})
    assert caught.value.code == "FK401"


def test_a_run_is_trained_again_in_the_form_that_it_was_recorded_in(monkeypatch):
    if library() is None:
        pytest.skip("no compiled library here")
    model = build(ModelConfig("cnn"), (1, 8, 8), 3, seed=4)
    plans = {"north": private("north")}
    asked = compose(None, ["training.engine=taps"]).training, model, THREE, (1, 8, 8), Kinds.of(plans)
    chosen = choose(*asked)
    assert chosen.record()["form"] == COMPILED and chosen.in_form(COMPILED) is chosen
    before = chosen.in_form(1)
    assert "form" not in before.record()
    sites, plan = [site("north", 30, (1, 8, 8), 0)], round_plan(model, plans)
    (again,), _ = before.train(model, THREE, sites, plan, {})
    for module in (engine_taps, stack_compiled):
        monkeypatch.setattr(module, "library", lambda: None)
    without = choose(*asked)
    (ours,), _ = without.train(model, THREE, sites, plan, {})
    assert np.array_equal(ours.delta, again.delta)
    assert "form" not in without.record() and without.in_form(1) is without
    with pytest.raises(TrainingError, match="FK425"):
        without.in_form(COMPILED)
