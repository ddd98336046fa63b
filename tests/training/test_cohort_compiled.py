"""Compiled code: what it promises beyond the weights of the reference, which tests/training/test_cohort.py compares."""

import ctypes
import dataclasses
import itertools

import numpy as np
import pytest
from torch import nn

from fedkit.config.experiment import TrainingConfig
from fedkit.errors import TrainingError
from fedkit.models.flat import pack
from fedkit.native.library import BASE, HERE, WIDE, library
from fedkit.privacy.lattice import slack
from fedkit.training import choice, stack_compiled
from fedkit.training.cohort import COMPILED, FORM, form_of
from fedkit.training.cohort_compiled import train_plain, train_private
from fedkit.training.kinds import Kinds
from fedkit.training.stack import linear_stack
from fedkit.training.stack_compiled import takes
from fedkit.types import Examples, Site, Task
from tests.training.builders import BINARY, local_plan, privacy_plan, round_plan

pytestmark = pytest.mark.skipif(library() is None, reason="fedkit was installed where there is no C compiler")
CLASSES = Task("multiclass", ("a", "b", "c"))


def stack(*widths, activation=nn.ReLU):
    parts = [part for a, b in itertools.pairwise(widths) for part in (nn.Linear(a, b), activation())]
    return nn.Sequential(*parts[:-1])


def layers_of(model, inputs=5, outputs=1):
    found = linear_stack(model, (inputs,), outputs)
    assert not isinstance(found, str), found
    return found


def site(name, n, seed=0, width=5, classes=2):
    rng = np.random.default_rng(seed)
    part = Examples(rng.normal(size=(n, width)).astype(np.float32), rng.integers(0, classes, n), np.arange(n))
    return Site(name, part, part, n, True)


def quiet(name, rows, **changes):
    """A plan in which every row joins and noise is all but none."""
    told = {"sample_rate": 1.0, "noise_multiplier": 1e-9, "lot_size": 1.0, "steps": 1, "max_lot": 40, "records": rows}
    return local_plan(1, 8, 1.0, "sgd", privacy_plan(name, **{**told, **changes}))


@pytest.mark.parametrize("kind", ["binary", "multiclass", "regression"])
@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh, nn.Sigmoid])
def test_both_libraries_give_the_same_bits(kind, activation, monkeypatch):
    """A product and a sum are two roundings on every processor: what one machine trained another can train again."""
    if not (HERE / WIDE).exists() or ctypes.CDLL(str(HERE / BASE)).fedkit_wide() == 0:
        pytest.skip("this processor has one library")
    outputs = 3 if kind == "multiclass" else 1
    model, task = stack(5, 33, 17, outputs, activation=activation), {"multiclass": CLASSES, "binary": BINARY}.get(kind)
    task = task or Task("regression", (), (0.0, 1.0))
    layers, sites = layers_of(model, outputs=outputs), [site(f"s{k}", 40 + k, k) for k in range(3)]
    private = {s.name: local_plan(6, 8, 0.05, "adam", privacy_plan(s.name, max_lot=8)) for s in sites}
    plain = {s.name: local_plan(6, 8, 0.05, "adam") for s in sites}
    runs = []
    for name in (BASE, WIDE):
        library.cache_clear()
        monkeypatch.setattr("fedkit.native.library.WIDE", name)
        runs.append(
            (
                train_private(layers, task, sites, round_plan(model, private, mu=0.1)),
                train_plain(layers, task, sites, round_plan(model, plain, mu=0.1)),
            )
        )
    library.cache_clear()
    for base, wide in zip(*runs, strict=True):
        assert np.array_equal(base, wide) and np.abs(base).max() > 0


@pytest.mark.parametrize("others", [0, 1, 3, 4, 7, 31, 32, 39])
@pytest.mark.parametrize("joins", ["first", "last"])
def test_a_row_that_joins_moves_the_sum_by_its_own_clipped_gradient(others, joins):
    """Weights of 1e9 that cancel: were another row's sums taken in another order, it would move by whole clips."""
    rng = np.random.default_rng(others)
    model = stack(16, 24, 1)
    received = pack(model)
    huge = (1e9 * rng.normal(size=(24, 8))).astype(np.float32)
    received[: 24 * 16] = np.concatenate([huge, -huge], 1).ravel()
    half = rng.normal(size=(others + 1, 8)).astype(np.float32)
    x = np.concatenate([half, half], 1)
    y = rng.random(others + 1).astype(np.float32)
    task, layers = Task("regression", (), (0.0, 1.0)), layers_of(model, 16)

    def moved(rows):
        part = Examples(x[rows], y[rows], np.arange(len(rows)))
        plan = round_plan(model, {"s": quiet("s", len(rows))}, parameters=received)
        trained = train_private(layers, task, [Site("s", part, part, len(rows), True)], plan)[0]
        # The last layer's weights are small, so that a step of theirs is not lost in them.
        return (trained - received)[-25:].astype(np.float64)

    here = np.arange(1, others + 1)
    joined = np.r_[0, here] if joins == "first" else np.r_[here, 0]
    alone, without, together = moved(np.array([0])), moved(here), moved(joined)
    assert 0.01 < np.linalg.norm(alone) <= slack(len(received)) + 1e-5
    np.testing.assert_allclose(together - without, alone, atol=1e-5)


def test_a_lot_of_more_rows_than_places_is_summed_exactly():
    """In two halves or in one: the sum is rounded to the lattice once."""
    model, many = stack(5, 8, 1), site("s", 300, 3)
    layers = layers_of(model)
    found = [
        train_private(layers, BINARY, [many], round_plan(model, {"s": quiet("s", 300, max_lot=most)}))[0]
        for most in (300, 128, 7)
    ]
    for few in found[1:]:
        # Fewer bits of the factors where there are more places: a ten-thousandth of a clip a row at most.
        np.testing.assert_allclose(few, found[0], atol=1e-5)


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan, 3e38])
def test_a_row_whose_gradient_is_not_finite_counts_as_none(value):
    model, here = stack(5, 8, 1), site("s", 9, 1)
    x = here.train.x.copy()
    x[4] = value
    broken = dataclasses.replace(here, train=dataclasses.replace(here.train, x=x))
    kept = np.arange(9) != 4
    part = Examples(here.train.x[kept], here.train.y[kept], np.arange(8))
    plan = round_plan(model, {"s": quiet("s", 9)})
    with_it = train_private(layers_of(model), BINARY, [broken], plan)[0]
    without = train_private(layers_of(model), BINARY, [dataclasses.replace(here, train=part)], plan)[0]
    assert np.isfinite(with_it).all()
    if value != 3e38:
        np.testing.assert_allclose(with_it, without, atol=1e-6)


@pytest.mark.parametrize("train", [train_private, train_plain])
def test_a_class_that_is_none_and_rows_of_another_width_are_refused(train):
    model = stack(5, 8, 3)
    layers, here = layers_of(model, outputs=3), site("s", 20, classes=3)
    plans = {"s": quiet("s", 20) if train is train_private else local_plan()}
    for classes in ([3], [-1]):
        y = np.r_[here.train.y[:-1], classes]
        wrong = dataclasses.replace(here, train=dataclasses.replace(here.train, y=y))
        with pytest.raises(TrainingError, match="between 0 and 2"):
            train(layers, CLASSES, [wrong], round_plan(model, plans))
    few = dataclasses.replace(here, train=dataclasses.replace(here.train, y=here.train.y[:-1]))
    with pytest.raises(TrainingError, match="another number of targets"):
        train(layers, CLASSES, [few], round_plan(model, plans))
    with pytest.raises(TrainingError, match="rows of shape") as caught:
        train(layers, CLASSES, [site("s", 20, width=4)], round_plan(model, plans))
    assert caught.value.code == "FK401"


def test_it_takes_small_stacks_of_functions_it_knows():
    assert takes(layers_of(stack(5, 8, 1)), private=True)
    assert not takes(layers_of(stack(5, 8, 1, activation=nn.GELU)), private=True)
    assert not takes(layers_of(nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Tanh(), nn.Linear(8, 1))), private=True)
    wide = layers_of(stack(5, 9000, 1))
    assert takes(wide, private=True) and not takes(wide, private=False)
    assert form_of(wide, private=True) == COMPILED and form_of(wide, private=False) == FORM


def test_a_run_of_compiled_code_is_not_trained_again_without_it(monkeypatch):
    kinds = Kinds(private=True)
    chosen = choice.choose(TrainingConfig(0.1, local_steps=1), stack(5, 8, 1), BINARY, (5,), kinds)
    assert chosen.record()["form"] == COMPILED and chosen.in_form(FORM).record()["form"] == FORM
    monkeypatch.setattr(stack_compiled, "library", lambda: None)
    assert chosen.in_form(COMPILED) is chosen
    without = choice.choose(TrainingConfig(0.1, local_steps=1), stack(5, 8, 1), BINARY, (5,), kinds)
    assert without.record()["form"] == FORM
    with pytest.raises(TrainingError, match="C compiler") as caught:
        without.in_form(COMPILED)
    assert caught.value.code == "FK425"
