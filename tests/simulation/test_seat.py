import itertools
from dataclasses import replace

import numpy as np
import pytest
from torch import nn

from fedkit.config.experiment import TrainingConfig
from fedkit.errors import TrainingError
from fedkit.native.library import library
from fedkit.simulation import worker
from fedkit.simulation.seat import Failure, Outfit, Seat, Sum, reduce_here, share_of, together
from fedkit.strategies.streaming import fold
from fedkit.training import stack_compiled
from fedkit.training.cohort import COMPILED
from fedkit.training.kinds import Kinds
from tests.training.builders import BINARY, local_plan, privacy_plan, round_plan, site

MODEL = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 1))
SIZE = sum(p.numel() for p in MODEL.parameters())
NAMES = [f"s{k}" for k in range(9)]
SITES = {name: site(name, 20 + 9 * k, k) for k, name in enumerate(NAMES)}
PLANS = {name: local_plan(3, privacy=privacy_plan(name, steps=3, rounds=9)) for name in NAMES}


def outfit(engine="auto"):
    return Outfit(TrainingConfig(0.1, local_steps=3, engine=engine), MODEL, BINARY, (5,), Kinds.of(PLANS), SITES, PLANS)


def updates(plan, engine="auto"):
    return {update.site: update for update in outfit(engine).work().train(NAMES, plan, {})[0]}


@pytest.mark.parametrize("engine", ["closed_form", "reference"])
@pytest.mark.parametrize("ends", [[0, 9], [0, 4, 9], [0, 1, 2, 7, 9]])
def test_the_mean_is_the_loops_and_its_bits_do_not_depend_on_the_shares(engine, ends):
    plan, weights = round_plan(MODEL, PLANS), {name: float(len(SITES[name].train)) for name in NAMES}
    found = []
    for first, last in itertools.pairwise(ends):
        share = share_of(NAMES[first:last], plan, {})
        found.append(Seat(outfit(engine)).reduce(share, plan.parameters, Sum(first, 9, weights, precise=False)))
    reduced = together(9, found, precise=False)
    alone = reduce_here(outfit(engine).work(), precise=False)(NAMES, plan, {}, weights)
    assert np.array_equal(reduced.mean, alone.mean)
    mean, total = np.zeros(SIZE, np.float32), 0.0
    for update in updates(plan, engine).values():
        total = fold(mean, total, update.delta, update.weight)
    assert reduced.weight == total and np.linalg.norm(reduced.mean - mean) <= 1e-6 * np.linalg.norm(mean)
    assert reduced.accepted.keys() == set(NAMES) and not reduced.refused


class Spoiling:
    """An engine's train with some updates spoilt."""

    def __init__(self, engine, spoil):
        self.engine, self.spoil = engine, spoil

    def __call__(self, *arguments):
        found, state = self.engine.train(*arguments)
        return [self.spoil.get(update.site, lambda same: same)(update) for update in found], state


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (lambda update: replace(update, delta=np.full(SIZE, np.nan, np.float32)), "FK512"),
        (lambda update: replace(update, delta=update.delta[:-1]), "FK511"),
        (lambda update: replace(update, delta=update.delta.astype(np.float64)), "FK516"),
        (lambda update: replace(update, delta=np.full(SIZE, 1e7, np.float32)), "FK526"),
        (lambda update: replace(update, weight=update.weight * 2), "FK519"),
        (lambda update: replace(update, weight=-1.0), "FK513"),
    ],
)
def test_an_update_that_the_loop_would_refuse_is_not_added(spoil, code):
    plan, weights = round_plan(MODEL, PLANS), {name: float(len(SITES[name].train)) for name in NAMES}
    work = outfit().work()
    spoilt = replace(work, engine=replace(work.engine, train=Spoiling(work.engine, {"s3": spoil})))
    found = reduce_here(spoilt, precise=False)(NAMES, plan, {}, weights)
    assert list(found.refused) == ["s3"] and code in found.refused["s3"]
    mean, total = np.zeros(SIZE, np.float32), 0.0
    for name, update in updates(plan).items():
        if name != "s3":
            total = fold(mean, total, update.delta, update.weight)
    assert found.weight == total and np.allclose(found.mean, mean, rtol=0, atol=1e-6 * np.linalg.norm(mean))
    assert found.accepted.keys() == set(NAMES) - {"s3"}


def test_a_round_of_which_nothing_counts_has_no_weight():
    plan = round_plan(MODEL, PLANS)
    found = reduce_here(outfit().work(), precise=False)(NAMES, plan, {}, dict.fromkeys(NAMES, 1e9))
    assert found.weight == 0.0 and not len(found.mean) and found.refused.keys() == set(NAMES)


def test_few_updates_are_in_memory_together(monkeypatch):
    monkeypatch.setattr(worker, "PIECE_BYTES", 2 * 4 * SIZE + 1)
    plan, calls = round_plan(MODEL, PLANS), []
    work = outfit().work()

    def counted(model, task, sites, plan, state):
        calls.append(len(sites))
        return work.engine.train(model, task, sites, plan, state)

    watched = replace(work, engine=replace(work.engine, train=counted))
    found = reduce_here(watched, precise=False)(NAMES, plan, {}, None)
    assert calls == [2, 2, 2, 2, 1]
    assert np.array_equal(found.mean, reduce_here(work, precise=False)(NAMES, plan, {}, None).mean)


def test_what_training_meets_is_handed_back_whole():
    plan = round_plan(MODEL, PLANS, parameters=np.zeros(3, np.float32))
    share = share_of(NAMES, plan, {})
    for found in (
        Seat(outfit()).train(share, plan.parameters),
        Seat(outfit()).reduce(share, plan.parameters, Sum(0, 9, None, precise=False)),
    ):
        assert isinstance(found, Failure) and isinstance(found.error, TrainingError) and found.error.code == "FK401"
    with pytest.raises(TrainingError, match="have shape"):
        reduce_here(outfit().work(), precise=False)(NAMES, plan, {}, None)


def test_a_machine_trains_in_the_form_that_the_run_has_or_says_that_it_cannot(monkeypatch):
    before = outfit("closed_form")
    for form in (2, COMPILED if library() else 2):
        assert replace(before, form=form).work().engine.form == form
    monkeypatch.setattr(stack_compiled, "library", lambda: None)
    assert replace(before, form=2).work().engine.form == 2
    with pytest.raises(TrainingError, match="compiled code") as caught:
        replace(before, form=COMPILED).work()
    assert caught.value.code == "FK425"
