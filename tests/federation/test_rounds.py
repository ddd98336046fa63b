"""The loop against sites that are plain functions: no data, no training, every failure on demand."""

import random

import numpy as np
import pytest
from flwr.serverapp.strategy import FedAvg
from hypothesis import given, settings
from hypothesis import strategies as st

from fedkit.errors import FederationError
from fedkit.federation import wire
from fedkit.federation.discovery import discover
from fedkit.federation.rounds import digest
from fedkit.simulation.grid import InProcessGrid
from tests.federation.fakes import SHAPES, START, FakeSites, run


def test_the_model_is_the_weighted_mean_of_the_sites():
    finish, reports = run(FakeSites({"a": 1.0, "b": 4.0}, {"a": 1.0, "b": 2.0}), num_rounds=1)
    np.testing.assert_allclose(finish.parameters, START + 3.0, rtol=1e-6)
    assert (finish.outcome, finish.rounds, finish.notes) == ("complete", 1, ())
    assert [report.round for report in reports] == [0, 1]
    assert reports[-1].digest == digest(finish.parameters)


@settings(max_examples=20, deadline=None)
@given(st.randoms(use_true_random=False))
def test_the_sum_does_not_depend_on_the_order_of_replies(shuffler):
    sites = {f"s{i}": 0.1 * i + 1e-4 for i in range(7)}
    first, _ = run(FakeSites(sites))
    second, _ = run(FakeSites(sites), order=lambda replies: shuffler.sample(list(replies), len(list(replies))))
    assert first.parameters.tobytes() == second.parameters.tobytes()


def test_a_site_whose_update_is_not_finite_is_named_and_left_out():
    bad = FakeSites(
        {"a": 1.0, "b": 2.0},
        update=lambda name, number: np.full(3, np.nan if (name, number) == ("b", 1) else 1.0, np.float32),
    )
    finish, reports = run(bad)
    assert finish.outcome == "degraded"
    assert "FK512" in reports[1].failed["b"]
    assert reports[1].trained == ("a",)
    assert reports[2].trained == ("a", "b")
    np.testing.assert_allclose(finish.parameters, START + 2.0)


def test_a_round_below_quorum_fails_with_the_last_good_model():
    silent = FakeSites(
        {"a": 1.0, "b": 2.0}, update=lambda n, r: None if r == 2 and n == "a" else np.ones(3, np.float32)
    )
    finish, reports = run(silent, num_rounds=3, min_sites=2)
    assert (finish.outcome, finish.rounds) == ("failed", 1)
    np.testing.assert_allclose(finish.parameters, START + 1.0)
    assert "round 2 stopped the run: 1 usable updates, at least 2 needed" in finish.notes[-1]
    assert [report.round for report in reports] == [0, 1]


def test_sampling_follows_the_seed_and_the_fraction():
    sites = {f"s{i}": 0.0 for i in range(10)}
    first, second, other = (FakeSites(dict(sites)) for _ in range(3))
    run(first, fraction_train=0.25, num_rounds=5)
    random.seed(99)
    run(second, fraction_train=0.25, num_rounds=5)
    run(other, fraction_train=0.25, num_rounds=5, seed=1)
    assert first.asked == second.asked != other.asked
    assert {len(names) for _, names in first.asked} == {3}
    assert len({names for _, names in first.asked}) > 1


def test_a_strategys_own_sampling_is_reproducible_and_leaves_the_generator_alone():
    sites = {f"s{i}": 0.0 for i in range(10)}
    runs = [FakeSites(dict(sites)) for _ in range(2)]
    random.seed(5)
    before = random.getstate()
    for fake in runs:
        run(fake, strategy=FedAvg(fraction_train=0.3, min_train_nodes=1, min_evaluate_nodes=1, min_available_nodes=1))
    assert runs[0].asked == runs[1].asked
    assert {len(names) for _, names in runs[0].asked} == {3}
    assert random.getstate() == before


def test_evaluation_keeps_to_its_interval_and_to_undefined():
    _, reports = run(FakeSites({"a": 0.0, "b": 0.0}), num_rounds=5, evaluate_every=2)
    assert [bool(report.sites) for report in reports] == [True, False, True, False, True, True]
    assert reports[0].sites["b"] == {"rmse": 1.0, "auroc": None}


class _Infinite(FedAvg):
    def aggregate_train(self, server_round, replies):
        record, metrics = super().aggregate_train(server_round, replies)
        return wire.to_record(wire.from_record(record, SHAPES) * np.float32(np.inf), SHAPES), metrics


def test_a_model_that_turns_infinite_stops_the_run():
    with pytest.raises(FederationError, match="NaN or infinity") as caught:
        run(FakeSites({"a": 0.0}), strategy=_Infinite(1.0, 1.0, 1, 1, 1), num_rounds=3)
    assert caught.value.code == "FK521"


def test_two_nodes_with_one_name_are_refused():
    fake = FakeSites({"a": 0.0, "b": 0.0})
    fake.answer_query = lambda name: wire.pack_roster(wire.Roster("a", True, True))
    with pytest.raises(FederationError, match="two nodes claim"):
        discover(InProcessGrid(fake), ["a"], 1.0)


def test_a_missing_site_is_named_when_the_wait_ends():
    with pytest.raises(FederationError, match=r"1 of 2 sites did not join .*: ghost") as caught:
        discover(InProcessGrid(FakeSites({"a": 0.0})), ["a", "ghost"], 0.0)
    assert caught.value.code == "FK523"


def test_sites_of_this_process_are_found_as_those_behind_messages():
    class _Mute(FakeSites):
        def answer_query(self, name):
            if name == "c":
                raise FederationError("out of order", code="FK520")
            return super().answer_query(name)

    fake = _Mute({"a": 0.0, "b": 0.0, "c": 0.0})
    here, behind = InProcessGrid(fake), InProcessGrid(fake, lambda replies: replies[::-1])
    assert here.answers is not None and behind.answers is None
    assert discover(here, ["b", "a"], 1.0) == discover(behind, ["b", "a"], 1.0)
    for grid in (here, behind):
        with pytest.raises(FederationError, match=r"1 of 3 sites did not join .*: c"):
            discover(grid, ["a", "b", "c"], 0.0)


class _Copying(FedAvg):
    """Writes the exact metric that it is told into the next model."""

    told = 0.0

    def aggregate_evaluate(self, server_round, replies):
        self.told = float(next(iter(replies)).content["metrics"]["rmse"])
        return super().aggregate_evaluate(server_round, replies)

    def aggregate_train(self, server_round, replies):
        record, metrics = super().aggregate_train(server_round, replies)
        return wire.to_record(wire.from_record(record, SHAPES) + np.float32(1000 * self.told), SHAPES), metrics


@pytest.mark.parametrize("private", [False, True])
def test_no_exact_metric_reaches_a_private_model_through_its_strategy(private):
    finish, reports = run(FakeSites({"a": 1.0}), strategy=_Copying(1.0, 1.0, 1, 1, 1), num_rounds=1, private=private)
    assert reports[0].sites["a"]["rmse"] == 1.0
    np.testing.assert_allclose(finish.parameters, START + 1.0 + (0.0 if private else 1000.0))
