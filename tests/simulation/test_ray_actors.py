"""The actors themselves, over one real Ray that these tests share; without Ray they are skipped."""

import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from torch import nn

from fedkit.config.experiment import TrainingConfig
from fedkit.errors import FederationError, TrainingError
from fedkit.simulation import ray_actors, ray_cluster
from fedkit.simulation.ray_actors import Actors, _Actor, _Job
from fedkit.simulation.seat import Outfit, reduce_here, share_of, versions
from fedkit.training.kinds import Kinds
from tests.training.builders import BINARY, local_plan, privacy_plan, round_plan, site

pytest.importorskip("ray", reason="Ray is not installed: pip install 'fedkit[ray]'")

MODEL = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 1))
NAMES = [f"s{k}" for k in range(7)]
SITES = {name: site(name, 20 + 9 * k, k) for k, name in enumerate(NAMES)}
PLANS = {
    name: local_plan(3 + k % 2, privacy=privacy_plan(name, steps=3 + k % 2, rounds=9)) for k, name in enumerate(NAMES)
}


def outfit(model=MODEL, plans=PLANS, **changes):
    training = TrainingConfig(0.1, local_steps=3, **changes)
    return Outfit(training, model, BINARY, (5,), Kinds.of(plans), SITES, plans)


@pytest.fixture(scope="module")
def shared(cluster):
    """Two actors that tests leave as they found them."""
    made = Actors(cluster, outfit(), 2, "two")
    yield made
    made.stop()


def by_name(answers):
    return {update.site: (update.delta.copy(), update.weight, dict(update.metrics)) for update, _ in answers}


def here(plan, made=None):
    updates, _ = (made or outfit()).work().train(NAMES, plan, {})
    return {update.site: (update.delta, update.weight, dict(update.metrics)) for update in updates}


def mean(actors, plan, weights=None, precise=False):
    return actors.reducer(precise=precise)(list(plan.sites), plan, {}, weights)


def same(left, right):
    assert left.keys() == right.keys()
    for name, (delta, weight, metrics) in left.items():
        assert np.array_equal(delta, right[name][0]) and (weight, metrics) == right[name][1:]


@pytest.mark.deploy
def test_an_update_has_the_bits_of_this_process(shared):
    for number in (1, 2):
        plan = round_plan(MODEL, PLANS, number=number, mu=0.1)
        same(by_name(shared(NAMES, plan, {})), here(plan))
    assert shared.record()["workers"] == 2 and not shared.notes


def test_a_mean_has_the_bits_of_one_process_that_adds_up_in_the_same_tree(shared):
    plan = round_plan(MODEL, PLANS, number=3)
    weights = {name: update[1] for name, update in here(plan).items()}
    for precise in (False, True):
        found = mean(shared, plan, weights, precise)
        alone = reduce_here(outfit().work(), precise=precise)(NAMES, plan, {}, weights)
        assert np.array_equal(found.mean, alone.mean) and found.weight == alone.weight
        assert found.accepted == alone.accepted and set(found.accepted) == set(NAMES)


def test_an_update_is_held_against_its_planned_weight_where_it_is_made(shared):
    plan = round_plan(MODEL, PLANS, number=4)
    weights = {name: update[1] for name, update in here(plan).items()}
    wrong = {**weights, "s2": weights["s2"] * 2}
    found = mean(shared, plan, wrong)
    assert list(found.refused) == ["s2"] and "FK519" in found.refused["s2"]
    assert found.weight == pytest.approx(sum(weights.values()) - weights["s2"])


def test_what_training_meets_is_raised_here_and_the_actors_live_on(shared):
    plan = round_plan(MODEL, PLANS, parameters=np.zeros(3, np.float32))
    for train in (here, lambda plan: list(shared(NAMES, plan, {})), lambda plan: mean(shared, plan)):
        with pytest.raises(TrainingError, match=r"have shape \(3,\)") as caught:
            train(plan)
        assert caught.value.code == "FK401"
    plan = round_plan(MODEL, PLANS, number=5)
    same(by_name(shared(NAMES, plan, {})), here(plan))


def test_a_large_model_lies_in_the_clusters_memory_and_no_round_sees_anothers(shared, monkeypatch):
    monkeypatch.setattr(ray_actors, "_INLINE_BYTES", 0)
    for number in (6, 7):
        plan = round_plan(MODEL, PLANS, number=number, parameters=np.full(57, 0.1 * number, np.float32))
        same(by_name(shared(NAMES, plan, {})), here(plan))
        same(by_name(shared(NAMES[2:5], plan, {})), {name: here(plan)[name] for name in NAMES[2:5]})


def test_updates_that_are_too_many_for_one_answer_come_in_pieces(shared, monkeypatch):
    monkeypatch.setattr(shared, "_piece", 2)
    plan = round_plan(MODEL, PLANS, number=8)
    same(by_name(shared(NAMES, plan, {})), here(plan))


def test_a_site_keeps_what_it_kept_wherever_it_is_trained(shared):
    """No engine keeps anything today: that it is handed on is seen where a share is made."""
    plan, kept = round_plan(MODEL, PLANS), {"s1": {"mine": np.ones(2, np.float32)}, "other": {}}
    assert share_of(NAMES, plan, kept).state == {"s1": kept["s1"]}


def test_what_cannot_be_carried_is_one_error(cluster):
    lock = nn.Sequential(nn.Linear(5, 1))
    lock.held = threading.Lock()
    with pytest.raises(FederationError, match="cannot carry") as caught:
        Actors(cluster, outfit(lock, engine="reference"), 2, "two")
    assert caught.value.code == "FK553" and "federation=local" in caught.value.remedy


def test_a_machine_with_another_torch_is_refused(shared, monkeypatch):
    monkeypatch.setattr(ray_actors, "versions", lambda: {**versions(), "torch": "1.0"})
    with pytest.raises(FederationError, match=r"here is torch 1\.0") as caught:
        shared._greet(shared._actors[0], time.monotonic() + 60)
    assert caught.value.code == "FK552"


class Slow(nn.Module):
    """Long enough in training for its process to be killed in it; in some processes for ever."""

    def __init__(self, asleep=None):
        super().__init__()
        self.one, self.asleep = nn.Linear(5, 1), asleep

    def forward(self, x):
        time.sleep(0.05)
        if self.asleep is not None and len(x) == 8 and not Path(self.asleep).exists():
            Path(self.asleep).touch()
            time.sleep(60)
        return self.one(x)


def process(actor):
    return int(actor.who.split("process ")[1].split()[0])


@pytest.mark.deploy
def test_an_actor_that_is_lost_is_replaced_and_nothing_counts_twice(cluster, shared, tmp_path):
    shared.stop()
    asleep = tmp_path / "asleep"
    asleep.touch()
    slow = outfit(Slow(str(asleep)), {name: local_plan(4) for name in NAMES}, engine="reference")
    plan = round_plan(slow.model, slow.plans, number=2)
    weights = {name: update[1] for name, update in here(plan, slow).items()}
    alone = reduce_here(slow.work(), precise=False)(NAMES, plan, {}, weights)

    def whole(found):
        assert np.array_equal(found.mean, alone.mean) and found.weight == alone.weight
        assert set(found.accepted) == set(NAMES)

    made = Actors(cluster, slow, 2, "two", patience=10.0)
    try:
        pid = process(made._actors[0])
        threading.Timer(0.3, os.kill, (pid, signal.SIGKILL)).start()
        whole(mean(made, plan, weights))
        assert len(made.notes) == 1 and f"process {pid} of " in made.notes[0]
        assert "was lost and was replaced" in made.notes[0] and "trained again" in made.notes[0]
        assert len(made) == 2 and pid not in map(process, made._actors)
        # One that says nothing for its patience is taken to hang.
        asleep.unlink()
        made._patience = 0.5
        whole(mean(made, plan, weights))
        assert len(made.notes) == 2 and "said nothing for" in made.notes[1]
        # What ends one actor after another ends the run.
        made._cluster = Deadly(cluster, made._actors[0].handle)
        with pytest.raises(TrainingError, match="2 actors in turn were lost in round 2") as caught:
            mean(made, plan, weights)
        assert caught.value.code == "FK421"
        made._cluster = cluster
    finally:
        made.stop()


def test_a_share_that_was_lost_waits_for_another_machine_if_there_is_one():
    """Actors of a machine that has gone may be idle, and not yet known to be lost."""
    made = Actors.__new__(Actors)
    near, gone, also = (_Actor(None, host, host) for host in ("near", "gone", "gone"))
    job, other = _Job(None, None, lost={"gone"}), _Job(None, None)
    made._actors = [near, gone, also]
    waiting = [other, job]
    assert made._pair([gone], [job]) is None
    assert made._pair([gone], waiting) == (gone, other) and waiting == [job]
    assert made._pair([near, also], waiting) == (near, job) and not waiting
    # Where there is no other, one of the same has to do.
    made._actors = [gone, also]
    assert made._pair([also], [job]) == (also, job)


class Deadly:
    """A cluster whose actors greet and are then lost, each of them the same one."""

    def __init__(self, cluster, handle):
        self._cluster, self._handle = cluster, handle

    def __getattr__(self, name):
        return getattr(self._cluster, name)

    def actor(self, *_):
        return self._handle

    def end(self, _):
        pass

    def get(self, reference):
        found = self._cluster.get(reference)
        if isinstance(found, dict):
            return found
        raise ray_cluster.ActorLost("killed")
