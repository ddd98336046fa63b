"""The closed form against the reference, site after site: same lots, same noise, same weights."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedkit.errors import TrainingError
from fedkit.models.flat import pack
from fedkit.native.library import library
from fedkit.training import cohort as cohort_module
from fedkit.training import cohort_compiled, cohort_drawn, cohort_private
from fedkit.training.cohort import COMPILED, FORM, Cohort, form_of
from fedkit.training.local import train
from fedkit.training.stack import POINTWISE, linear_stack
from fedkit.types import Site, Task
from tests.training.builders import BINARY, examples, local_plan, privacy_plan, round_plan

TASKS = {
    "binary": BINARY,
    "multiclass": Task("multiclass", ("a", "b", "c")),
    "regression": Task("regression", (), (0.0, 60.0)),
}
OUTPUTS = {"binary": 1, "multiclass": 3, "regression": 1}


def network(widths, activation=nn.ReLU, bias=True, seed=0):
    torch.manual_seed(seed)
    layers = [nn.Flatten()]
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after, bias=bias), activation()]
    return nn.Sequential(*layers[:-1])


def site(name, n, seed, kind, rows_a_unit=1):
    return Site(name, examples(n, seed, kind, rows_a_unit), examples(5, seed, kind), n, True)


@pytest.fixture(autouse=True, scope="module", params=[FORM, COMPILED])
def form(request):
    """Every test in both of today's forms: torch's, and compiled code where there is some for the layers."""
    if request.param == COMPILED and library() is None:
        pytest.skip("fedkit was installed where there is no C compiler")
    with pytest.MonkeyPatch.context() as patch:
        if request.param == FORM:
            patch.setattr(cohort_module, "takes", lambda *_, **__: False)
        yield request.param


def cohort(model, kind, at_once=1000):
    layers = linear_stack(model, (5,), OUTPUTS[kind])
    assert not isinstance(layers, str), layers
    return Cohort(layers, at_once, form_of(layers, private=True))


def both(model, kind, sites, plan, at_once=1000):
    ours, state = cohort(model, kind, at_once).train(model, TASKS[kind], sites, plan, {})
    theirs, expected_state = train(model, TASKS[kind], sites, plan, {})
    assert state == expected_state
    return ours, theirs


def assert_same(model, ours, theirs):
    received = pack(model)
    for mine, other in zip(ours, theirs, strict=True):
        weights, expected = received + mine.delta, received + other.delta
        assert (mine.site, mine.weight) == (other.site, other.weight)
        assert mine.metrics.keys() == other.metrics.keys()
        assert mine.metrics == pytest.approx(other.metrics, rel=1e-5)
        assert np.linalg.norm(weights - expected) <= 1e-5 * np.linalg.norm(expected)


def private(name, steps=50, optimizer="sgd", rate=0.1, **changes):
    return local_plan(steps, 8, rate, optimizer, privacy_plan(name, **{"steps": steps, **changes}))


@pytest.mark.slow
@pytest.mark.parametrize("kind", TASKS)
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("mu", [0.0, 0.3])
def test_private_weights_equal_the_references_after_50_steps(kind, optimizer, mu):
    model = network((5, 16, 8, OUTPUTS[kind]))
    sites = [site(f"s{k}", n, k, kind) for k, n in enumerate((40, 3, 25, 0))]
    rate = 0.1 if optimizer == "sgd" else 0.01
    plans = {s.name: private(s.name, optimizer=optimizer, rate=rate, sample_rate=0.2, max_lot=34) for s in sites}
    assert_same(model, *both(model, kind, sites, round_plan(model, plans, mu=mu)))


@pytest.mark.slow
def test_what_many_sites_draw_ahead_stays_small_and_how_much_it_is_changes_no_bit(form, monkeypatch):
    """Beside what the memory budget counts; 100 sites of 600 steps would hold 40 MB of places and noise."""
    model, sites = network((5, 8, 1)), [site(f"s{k}", 20, k, "binary") for k in range(100)]
    plan = round_plan(model, {s.name: private(s.name, 600, sample_rate=0.2, max_lot=34) for s in sites})
    if form == COMPILED:
        # One site after another: what is drawn ahead is one site's.
        ours, _ = cohort(model, "binary").train(model, BINARY, sites, plan, {})
        monkeypatch.setattr(cohort_drawn, "_MOST", 0)
        for ahead in (1, 97 * pack(model).size):
            monkeypatch.setattr(cohort_compiled, "_AHEAD", ahead)
            others, _ = cohort(model, "binary").train(model, BINARY, sites, plan, {})
            assert all(np.array_equal(mine.delta, other.delta) for mine, other in zip(ours, others, strict=True))
        return
    held, whole = [], cohort_private._steps

    def seen(*given):
        for step, ahead in whole(*given):
            held.append(ahead.noise.nbytes + ahead.index.nbytes)
            yield step, ahead

    monkeypatch.setattr(cohort_private, "_steps", seen)
    ours, _ = cohort(model, "binary").train(model, BINARY, sites, plan, {})
    assert len(held) == 600 and max(held) <= 2 * 8 * cohort_private._TOGETHER
    monkeypatch.setattr(cohort_private, "_TOGETHER", 2**16)
    held.clear()
    fewer, _ = cohort(model, "binary").train(model, BINARY, sites, plan, {})
    assert max(held) <= 2 * 8 * 2**16
    assert all(np.array_equal(mine.delta, other.delta) for mine, other in zip(ours, fewer, strict=True))


@pytest.mark.parametrize("kind", TASKS)
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("mu", [0.0, 0.3])
def test_plain_weights_equal_the_references_after_50_steps(kind, optimizer, mu):
    model = network((5, 16, 8, OUTPUTS[kind]))
    sites = [site(f"s{k}", n, k, kind) for k, n in enumerate((40, 3, 25, 41))]
    rate = 0.1 if optimizer == "sgd" else 0.003
    plans = {
        s.name: local_plan(steps, batch, rate, optimizer)
        for s, steps, batch in zip(sites, (50, 7, 50, 20), (8, 3, 7, 8), strict=True)
    }
    assert_same(model, *both(model, kind, sites, round_plan(model, plans, mu=mu)))


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(1, 12), max_size=3),
    st.booleans(),
    st.sampled_from(sorted(POINTWISE, key=lambda kind: kind.__name__)),
    st.sampled_from(sorted(TASKS)),
    st.booleans(),
    st.lists(st.integers(0, 30), min_size=1, max_size=4),
    st.integers(0, 10**6),
)
def test_any_architecture_trains_as_the_reference_does(hidden, bias, activation, kind, dp, counts, seed):
    model = network((5, *hidden, OUTPUTS[kind]), activation, bias, seed)
    sites = [site(f"s{k}", n if dp else n + 1, seed + k, kind) for k, n in enumerate(counts)]
    if dp:
        plans = {s.name: private(s.name, 5 + k, sample_rate=0.3, max_lot=30) for k, s in enumerate(sites)}
    else:
        plans = {s.name: local_plan(5 + k, min(len(s.train), 4 + k), 0.1) for k, s in enumerate(sites)}
    assert_same(model, *both(model, kind, sites, round_plan(model, plans, seed=seed)))


@pytest.mark.slow
@pytest.mark.parametrize("kind", TASKS)
def test_a_patients_rows_are_clipped_as_one(kind):
    model = network((5, 6, OUTPUTS[kind]))
    sites = [site("north", 40, 1, kind, rows_a_unit=3), site("south", 30, 2, kind)]
    plans = {s.name: private(s.name, 20, unit="patient") for s in sites}
    assert_same(model, *both(model, kind, sites, round_plan(model, plans)))


def test_rows_of_a_patient_need_not_be_neighbours():
    model = network((5, 6, 1))
    part = examples(24, 3)
    shuffled = dataclasses.replace(part, unit=np.random.default_rng(0).permutation(np.arange(24) // 3))
    plans = {"north": private("north", 20, unit="patient")}
    sites = [Site("north", shuffled, part, 24, True)]
    assert_same(model, *both(model, "binary", sites, round_plan(model, plans)))


def test_a_lot_of_more_rows_than_places_is_not_truncated():
    model = network((5, 6, 1))
    plans = {"north": private("north", 10, sample_rate=0.9, max_lot=20), "south": private("south", 10, max_lot=20)}
    sites = [site("north", 40, 1, "binary"), site("south", 40, 2, "binary")]
    assert_same(model, *both(model, "binary", sites, round_plan(model, plans)))


@pytest.mark.parametrize("max_lot", [50, 8])
def test_rows_that_the_reference_has_in_columns_are_drawn_and_added_alike(max_lot, monkeypatch):
    """50: as many places as any lot has rows; 8: fewer than some lots have."""
    monkeypatch.setattr("fedkit.privacy.placement.CHEAP", 10)
    model = network((5, 6, 1))
    plans = {"north": private("north", 10, max_lot=max_lot, lot_size=3.0)}
    assert_same(model, *both(model, "binary", [site("north", 40, 1, "binary")], round_plan(model, plans)))


def test_parameters_that_overflow_are_cut_back_as_in_the_reference():
    model = network((5, 4, 1))
    plans = {"north": private("north", 3, rate=1e30)}
    sites = [site("north", 40, 1, "binary")]
    ours, theirs = both(model, "binary", sites, round_plan(model, plans))
    assert np.isfinite(ours[0].delta).all()
    np.testing.assert_allclose(ours[0].delta, theirs[0].delta, rtol=1e-4)


@pytest.mark.parametrize("dp", [True, False])
@pytest.mark.parametrize("kind", TASKS)
@pytest.mark.parametrize("activation", [nn.ReLU, nn.Sigmoid, nn.GELU, nn.ELU])
def test_neither_company_nor_chunks_nor_order_change_a_bit(dp, kind, activation):
    """Matrix products depend on how operands are aligned, functions on where a vector ends."""
    model = network((5, 33, 17, OUTPUTS[kind]), activation)
    sites = [site(f"s{k}", 20 + 5 * (k % 4), k, kind) for k in range(13)]
    plans = {
        s.name: private(s.name, 6, max_lot=30 + k % 3) if dp else local_plan(5 + k % 3, 8, 0.1)
        for k, s in enumerate(sites)
    }
    plan = round_plan(model, plans)
    task = TASKS[kind]
    whole, _ = cohort(model, kind).train(model, task, sites, plan, {})
    for at_once in (1, 2, 5):
        parts, _ = cohort(model, kind, at_once).train(model, task, sites[::-1], plan, {})
        for mine, other in zip(whole, parts[::-1], strict=True):
            assert mine.site == other.site
            assert np.array_equal(mine.delta, other.delta)
            assert mine.metrics == other.metrics


@pytest.mark.parametrize("kind", TASKS)
@pytest.mark.parametrize("widths", [(5, 64, 32), (5, 7), (5, 31, 2), (5, 8, 65), (5, 11, 9)], ids=str)
@pytest.mark.parametrize(("optimizer", "mu"), [("sgd", 0.0), ("adam", 0.2)])
def test_no_width_or_batch_makes_a_site_depend_on_its_company(kind, widths, optimizer, mu):
    model = network((*widths, OUTPUTS[kind]))
    sites = [site(f"s{k}", 40 + 7 * (k % 3), k, kind) for k in range(9)]
    plans = {s.name: local_plan(4 + k % 2, (20, 18, 7)[k % 3], 0.01, optimizer) for k, s in enumerate(sites)}
    plan, task = round_plan(model, plans, mu=mu), TASKS[kind]
    # More sites than before, then fewer, in memory that is used again.
    made = cohort(model, kind)
    alone = [made.train(model, task, [s], plan, {})[0][0] for s in sites]
    for some in (slice(0, 9), slice(3, 8), slice(8, 2, -1)):
        found, _ = made.train(model, task, sites[some], plan, {})
        for mine, other in zip(found, alone[some], strict=True):
            assert mine.site == other.site and np.array_equal(mine.delta, other.delta)
            assert mine.metrics == other.metrics


@pytest.mark.parametrize("kind", TASKS)
@pytest.mark.parametrize(("optimizer", "mu"), [("sgd", 0.0), ("adam", 0.3)])
def test_the_form_of_runs_before_is_the_same_mathematics(kind, optimizer, mu):
    model = network((5, 16, 8, OUTPUTS[kind]))
    sites = [site(f"s{k}", n, k, kind) for k, n in enumerate((40, 3, 25))]
    plans = {s.name: local_plan(9 + k, 8 - k, 0.01, optimizer) for k, s in enumerate(sites)}
    plan = round_plan(model, plans, mu=mu)
    before = dataclasses.replace(cohort(model, kind), form=1)
    assert_same(
        model, before.train(model, TASKS[kind], sites, plan, {})[0], train(model, TASKS[kind], sites, plan, {})[0]
    )


def test_secure_noise_is_fresh_and_of_the_plans_size():
    model = network((5, 64, 3), bias=False)
    names = [f"s{k}" for k in range(20)]
    sites = [site(name, 0, k, "multiclass") for k, name in enumerate(names)]
    plans = {name: private(name, 1, rate=1.0, noise="secure", noise_multiplier=2.0, lot_size=4.0) for name in names}
    plan = round_plan(model, plans)
    runs = [cohort(model, "multiclass").train(model, TASKS["multiclass"], sites, plan, {})[0] for _ in range(2)]
    values = np.stack([u.delta for updates in runs for u in updates])
    assert len({row.tobytes() for row in values}) == 40
    # Empty sites' updates are noise alone: sigma * C / lot.
    from scipy.stats import kstest

    assert kstest(values.ravel() / (2.0 / 4.0), "norm").pvalue > 1e-4
    correlations = np.corrcoef(values)[np.triu_indices(40, 1)]
    assert np.abs(correlations).max() < 6 / np.sqrt(values.shape[1])


@pytest.mark.slow
def test_a_secure_lot_has_the_law_of_the_references():
    """One row, q = 1/2, no clipping effect: joined or not shows in the update, at both engines equally often."""
    model = network((5, 1))
    names = [f"s{k}" for k in range(400)]
    sites = [site(name, 1, 1, "binary") for name in names]
    plans = {
        name: private(name, 1, rate=1.0, noise="secure", noise_multiplier=0.1, lot_size=1.0, sample_rate=0.5, max_lot=1)
        for name in names
    }
    from scipy.stats import ks_2samp

    ours, theirs = both(model, "binary", sites, round_plan(model, plans))
    sizes = [np.array([np.linalg.norm(u.delta) for u in updates]) for updates in (ours, theirs)]
    assert 140 < (sizes[0] > 0.5).sum() < 260
    assert ks_2samp(*sizes).pvalue > 1e-4


def test_a_site_without_a_plan_or_rows_is_refused_as_in_the_reference():
    model = network((5, 1))
    here = site("north", 0, 1, "binary")
    with pytest.raises(TrainingError, match="no local plan for north") as caught:
        cohort(model, "binary").train(model, BINARY, [here], round_plan(model, {}), {})
    assert caught.value.code == "FK409"
    with pytest.raises(TrainingError, match="no training rows"):
        cohort(model, "binary").train(model, BINARY, [here], round_plan(model, {"north": local_plan()}), {})


def test_what_fails_on_a_private_sites_records_has_the_one_code():
    model = network((5, 1))
    wrong = dataclasses.replace(private("north"), steps=3)
    with pytest.raises(TrainingError) as caught:
        cohort(model, "binary").train(
            model, BINARY, [site("north", 9, 1, "binary")], round_plan(model, {"north": wrong}), {}
        )
    assert caught.value.code == "FK419"


def test_parameters_of_another_size_are_refused():
    model = network((5, 1))
    plan = round_plan(model, {"north": private("north")}, parameters=np.zeros(5, np.float32))
    with pytest.raises(TrainingError) as caught:
        cohort(model, "binary").train(model, BINARY, [site("north", 9, 1, "binary")], plan, {})
    assert caught.value.code == "FK401"


def test_a_plain_result_that_is_not_finite_is_refused():
    model = network((5, 8, 1))
    plan = round_plan(model, {"north": local_plan(learning_rate=1e30)})
    with pytest.raises(TrainingError) as caught:
        cohort(model, "binary").train(model, BINARY, [site("north", 20, 1, "binary")], plan, {})
    assert caught.value.code == "FK405"
