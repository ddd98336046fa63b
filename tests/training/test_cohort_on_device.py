"""The closed form on a device against the reference on the CPU: same lots, same noise, same weights."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedkit.errors import TrainingError
from fedkit.privacy.lattice import G, slack
from fedkit.privacy.product_sum import clipped_sums
from fedkit.training.cohort_on_device import CohortOnDevice
from fedkit.training.cohort_rows import padded
from fedkit.training.local import as_found, train
from fedkit.training.losses import target_type
from fedkit.training.on_device import deterministic, device_of
from fedkit.training.placed import Rows
from fedkit.training.stack import POINTWISE, linear_stack
from fedkit.training.stack_on_device import StackOnDevice
from tests.training.builders import BINARY, local_plan, round_plan
from tests.training.test_cohort import OUTPUTS, TASKS, assert_same, cohort, network, private, site

TWIN = torch.device("cpu", 0)
"""The CPU by another name: training on it takes the way of a GPU."""
gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU here")
everywhere = pytest.mark.parametrize("where", ["twin", pytest.param("cuda", marks=gpu)])


def device(where):
    return TWIN if where == "twin" else device_of("cuda", "device")


def both(model, kind, sites, plan, where, at_once=1000):
    ours, _ = CohortOnDevice(cohort(model, kind, at_once), device(where)).train(model, TASKS[kind], sites, plan, {})
    theirs, _ = train(model, TASKS[kind], sites, plan, {})
    return ours, theirs


@pytest.mark.slow
@everywhere
@pytest.mark.parametrize("kind", TASKS)
@pytest.mark.parametrize(("optimizer", "mu"), [("sgd", 0.0), ("sgd", 0.3), ("adam", 0.3)])
def test_private_weights_equal_the_references_after_50_steps(kind, optimizer, mu, where):
    model = network((5, 16, 8, OUTPUTS[kind]))
    sites = [site(f"s{k}", n, k, kind) for k, n in enumerate((40, 3, 25, 0))]
    rate = 0.1 if optimizer == "sgd" else 0.01
    plans = {s.name: private(s.name, optimizer=optimizer, rate=rate, sample_rate=0.2, max_lot=34) for s in sites}
    assert_same(model, *both(model, kind, sites, round_plan(model, plans, mu=mu), where))


@everywhere
@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(1, 20), min_size=0, max_size=3),
    st.sampled_from(sorted(POINTWISE, key=lambda kind: kind.__name__)),
    st.booleans(),
    st.lists(st.tuples(st.integers(0, 30), st.integers(1, 6), st.integers(5, 40)), min_size=1, max_size=5),
    st.integers(0, 10**6),
)
def test_any_stack_and_any_company_trains_as_the_reference_does(where, widths, activation, bias, of_sites, seed):
    """Sites differ in steps, places and lots that exceed them."""
    model = network((5, *widths, 3), activation, bias, seed % 1000)
    sites = [site(f"s{k}", n, seed + k, "multiclass") for k, (n, _, _) in enumerate(of_sites)]
    plans = {
        s.name: private(s.name, steps, rate=0.05, sample_rate=0.4, max_lot=most)
        for s, (_, steps, most) in zip(sites, of_sites, strict=True)
    }
    assert_same(model, *both(model, "multiclass", sites, round_plan(model, plans, seed=seed), where, at_once=3))


@everywhere
def test_sites_without_privacy_and_units_of_several_rows_are_trained_as_without_a_gpu(where):
    model = network((5, 8, 1))
    sites = [site("plain", 30, 0, "binary"), site("patients", 30, 1, "binary", 3), site("records", 30, 2, "binary")]
    plans = {
        "plain": local_plan(6, 8, 0.1),
        "patients": private("patients", 6, unit="patient"),
        "records": private("records", 6),
    }
    plan = round_plan(model, plans)
    ours, theirs = both(model, "binary", sites, plan, where)
    assert_same(model, ours, theirs)
    here, _ = cohort(model, "binary").train(model, BINARY, sites, plan, {})
    assert all(np.array_equal(mine.delta, other.delta) for mine, other in zip(ours[:2], here[:2], strict=True))


@everywhere
def test_rounds_of_a_run_have_the_bits_that_they_have_by_themselves(where):
    model, engine = network((5, 8, 1)), CohortOnDevice(cohort(network((5, 8, 1)), "binary"), device(where))
    sites = [site(f"s{k}", 20 + k, k, "binary") for k in range(5)]
    plans = {s.name: private(s.name, 6) for s in sites}
    for number in (1, 2, 3):
        plan = round_plan(model, plans, number=number)
        fresh = CohortOnDevice(cohort(model, "binary"), device(where))
        for mine, other in zip(*(e.train(model, BINARY, sites, plan, {})[0] for e in (engine, fresh)), strict=True):
            assert np.array_equal(mine.delta, other.delta)


@everywhere
def test_secure_noise_is_fresh_and_of_the_plans_size(where):
    from scipy.stats import kstest

    model = network((5, 64, 8, 1))
    sites = [site(f"s{k}", 0, k, "binary") for k in range(20)]
    changes = {"noise": "secure", "noise_multiplier": 2.0, "lot_size": 4.0}
    plan = round_plan(model, {s.name: private(s.name, 1, rate=1.0, **changes) for s in sites})
    engine = CohortOnDevice(cohort(model, "binary"), device(where))
    values = np.stack([u.delta for _ in range(2) for u in engine.train(model, BINARY, sites, plan, {})[0]])
    assert len({row.tobytes() for row in values}) == 40
    assert kstest(values.ravel() / (2.0 / 4.0), "norm").pvalue > 1e-4


@everywhere
@pytest.mark.parametrize("size", [1.0, 1e3, 1e18], ids=["ordinary", "large", "overflowing"])
def test_a_row_that_joins_moves_no_other_row_s_integers_at_any_site(size, where):
    """The guarantee of `fedkit.privacy.placement`, with parameters for which rounding is not small."""
    there, places, sites = device(where), padded(40), 3
    drawn = np.random.default_rng(7)
    x = torch.tensor(drawn.normal(size=(41, 5)), dtype=torch.float32)
    y = torch.tensor(drawn.integers(0, 3, 41)).to(target_type(TASKS["multiclass"]))
    x[39] *= size
    with as_found(), deterministic(there), torch.no_grad():
        layers = linear_stack(network((5, 64, 16, 3), nn.Tanh), (5,), 3)
        stack = StackOnDevice(layers, TASKS["multiclass"], sites, places, 1.0, there)
        stack.flat.copy_(torch.randn(stack.flat.shape, generator=torch.Generator().manual_seed(0)) * 100)
        rows, nobody = Rows(x.to(there), y.to(there)), torch.full((sites,), 40, device=there)
        order = torch.from_numpy(drawn.permutation(places))

        def total(present):
            index = torch.full((1, sites, places), 40)
            index[0, 1, order[present]] = torch.tensor(present)
            index[0, 0, :20] = torch.arange(20)
            return stack.of_records(rows, nobody, index.to(there)).clone()

        whole, others, own = (total(list(who)) for who in (range(40), range(39), (39,)))
    d = stack.flat.shape[1]
    # Its own term, but that a sum is rounded to the lattice.
    assert int((whole - others - own)[1].abs().max()) <= 1
    assert float((whole - others)[1].double().norm()) <= slack(d) * G
    # And none of it is another site's.
    assert torch.equal(whole[[0, 2]], others[[0, 2]]) and not whole[2].any() and whole[0].any()


@everywhere
def test_sums_are_those_of_the_cpu(where):
    from fedkit.privacy.product_sum import fine_bits, fine_sums
    from fedkit.privacy.tap_block import Grid

    there, shapes = device(where), [(7, 4), (5, 3)]
    torch.manual_seed(0)
    inputs, errors = ([torch.randn(3, 20, shape[side]) for shape in shapes] for side in range(2))
    present = torch.rand(3, 20) < 0.7
    errors[1][0, 3] = torch.inf
    sums = [torch.empty(3, o, m, dtype=torch.float64) for m, o in shapes]
    clipped_sums(inputs, errors, present, 0.8, sums)
    with deterministic(there):
        fine = fine_sums(*([part.to(there) for part in parts] for parts in (inputs, errors)), present.to(there), 0.8)
        grid = Grid(torch.tensor(fine_bits(20), device=there))
        for mine, other in zip(fine, sums, strict=True):
            # A half is rounded up here and to even there, and a norm may be off by a unit in its last place.
            assert (grid.rounded([mine], 1).cpu() - other).abs().max() <= 2


@everywhere
def test_what_is_not_finite_or_does_not_fit_is_one_error(where):
    model, engine = network((5, 8, 1)), CohortOnDevice(cohort(network((5, 8, 1)), "binary"), device(where))
    sites = [site("north", 20, 0, "binary")]
    with pytest.raises(TrainingError, match="no local plan for north") as caught:
        engine.train(model, BINARY, sites, round_plan(model, {}), {})
    assert caught.value.code == "FK409"
    plan = round_plan(model, {"north": private("north", 6)})
    with pytest.raises(TrainingError) as caught:
        engine.check(model, BINARY, sites, dataclasses.replace(plan, parameters=plan.parameters[:-1]))
    assert caught.value.code == "FK401"
    wrong = dataclasses.replace(plan.sites["north"], steps=5)
    with pytest.raises(TrainingError, match="private training at north failed") as caught:
        engine.train(model, BINARY, sites, round_plan(model, {"north": wrong}), {})
    assert caught.value.code == "FK419"
