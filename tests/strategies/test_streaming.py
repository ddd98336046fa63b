"""Our streaming strategies do what Flower's classes of the same names do, one update at a time."""

import tracemalloc

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg, FedProx
from hypothesis import given, settings
from hypothesis import strategies as st

from fedkit.config.arguments import STRATEGY_ARGUMENTS
from fedkit.config.experiment import StrategyConfig
from fedkit.federation.flower_internals import local_identity
from fedkit.storage.mapped import CHUNK
from fedkit.strategies import STRATEGIES, build, memory_note, streaming
from fedkit.strategies.streaming import STREAMING, Streaming, fold
from tests.federation.scripted import ScriptedGrid

LEAST = {"min_train_nodes": 1, "min_evaluate_nodes": 1, "min_available_nodes": 1}
ARGUMENTS = {
    "fedavg": [{}],
    "fedprox": [{"proximal_mu": 0.1}],
    "fedavgm": [{}, {"server_momentum": 0.9}, {"server_learning_rate": 0.5, "server_momentum": 0.7}],
    "fedadagrad": [{}, {"eta": 0.3, "beta_1": 0.9, "tau": 1e-8}],
    "fedadam": [{}, {"eta": 0.01, "beta_1": 0.5, "beta_2": 0.999, "tau": 1e-8}],
    "fedadam_uncorrected": [{}, {"eta": 0.1, "beta_1": 0.0, "beta_2": 0.9, "tau": 1e-3}],
    "fedyogi": [{}, {"eta": 0.1, "beta_1": 0.0, "beta_2": 0.9, "tau": 1e-3}],
}
CASES = [(name, arguments) for name, several in ARGUMENTS.items() for arguments in several]


def _flower_round(strategy, x, deltas, weights, number):
    grid = ScriptedGrid({str(i): None for i in range(len(deltas))})
    with local_identity():
        requests = list(strategy.configure_train(number, ArrayRecord({"w": Array(x)}), ConfigRecord(), grid))
        replies = [
            Message(
                RecordDict(
                    {
                        "arrays": ArrayRecord({"w": Array(x + delta.astype(x.dtype))}),
                        "metrics": MetricRecord({"num-examples": weight}),
                    }
                ),
                reply_to=request,
            )
            for request, delta, weight in zip(requests, deltas, weights, strict=True)
        ]
        record, _ = strategy.aggregate_train(number, replies)
    return record["w"].numpy().astype(x.dtype)


def _our_round(strategy, x, deltas, weights, number, state):
    mean, total = np.zeros_like(x), 0.0
    for delta, weight in zip(deltas, weights, strict=True):
        total = fold(mean, total, delta, weight, precise=strategy.precise)
    return strategy.finish(x, mean, state, number)


def test_what_streams_is_what_the_issue_names():
    assert set(ARGUMENTS) == set(STREAMING) and STREAMING.keys() <= STRATEGIES.keys()
    for name in STREAMING:
        assert isinstance(build(StrategyConfig(name), num_sites=3, private=True), Streaming)
        known = {key: argument.default for key, argument in STRATEGY_ARGUMENTS[name].items()}
        build(StrategyConfig(name, known), num_sites=3, private=True)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "arguments"), CASES)
@settings(max_examples=40)
@given(seed=st.integers(0, 2**32), sites=st.integers(1, 6), rounds=st.integers(1, 6), wide=st.booleans())
def test_every_streaming_strategy_equals_flowers(name, arguments, seed, sites, rounds, wide):
    generator = np.random.default_rng(seed)
    arguments = {key: known.default for key, known in STRATEGY_ARGUMENTS[name].items()} | arguments
    ours, theirs = STREAMING[name](**arguments), STRATEGIES[name](**LEAST, **arguments)
    start = generator.normal(size=50).astype(np.float32)
    # Flower subtracts full models: in float32 a step much smaller than the model is lost there, so that the comparison
    # to 1e-6 is made with steps of the model's size, and once more with Flower's own arithmetic in float64.
    x, other, state = start, start.astype(np.float64 if wide else np.float32), ours.init(50)
    for number in range(1, rounds + 1):
        sign = np.ones(50) if wide else generator.choice([-1.0, 1.0], 50)
        low = 0.0 if wide else 0.3
        deltas = [(sign * generator.uniform(low, 1.0, 50)).astype(np.float32) for _ in range(sites)]
        if wide:
            deltas = [(d * generator.choice([-1.0, 1.0], 50)).astype(np.float32) for d in deltas]
        weights = [float(w) for w in generator.uniform(1, 1000, sites)]
        x, state = _our_round(ours, x, deltas, weights, number, state)
        other = _flower_round(theirs, other, deltas, weights, number)
        # Of the model's largest parameter: with momentum small ones carry the rounding of larger ones that they were.
        np.testing.assert_allclose(x, other, rtol=0, atol=1e-6 * max(1.0, float(np.abs(other).max())))


def test_prox_tells_its_mu_and_the_others_zero():
    assert STREAMING["fedprox"](proximal_mu=0.25).proximal_mu == 0.25
    assert STREAMING["fedavg"]().proximal_mu == 0.0


@given(st.integers(0, 2**32), st.integers(1, 120), st.booleans())
def test_the_running_mean_is_the_weighted_mean_of_those_who_came(seed, sites, precise):
    generator = np.random.default_rng(seed)
    deltas = generator.normal(size=(sites, 20)).astype(np.float32)
    weights = generator.uniform(0.01, 1e6, sites)
    mean, total = np.zeros(20, np.float32), 0.0
    for delta, weight in zip(deltas, weights, strict=True):
        total = fold(mean, total, delta, float(weight), precise=precise)
    np.testing.assert_allclose(mean, np.average(deltas.astype(np.float64), axis=0, weights=weights), atol=1e-6)
    assert total == pytest.approx(weights.sum())


@pytest.mark.parametrize("precise", [False, True])
def test_one_sites_mean_is_its_update_bit_for_bit(precise):
    delta = np.random.default_rng(0).normal(size=1000).astype(np.float32)
    mean = np.zeros(1000, np.float32)
    fold(mean, 0.0, delta, 0.37, precise=precise)
    assert mean.tobytes() == delta.tobytes()


def test_more_than_a_chunk_is_folded_and_finished_throughout():
    size = 2 * CHUNK + 7
    for name in STREAMING:
        ours = STREAMING[name]()
        mean = np.zeros(size, np.float32)
        fold(mean, 0.0, np.ones(size, np.float32), 1.0)
        after, _ = ours.finish(np.zeros(size, np.float32), mean, ours.init(size), 1)
        assert len(np.unique(after)) == 1 and after[0] > 0


@pytest.mark.parametrize("precise", [False, True])
@pytest.mark.parametrize("cores", [2, 3])
def test_threads_change_no_bit_of_the_mean(cores, precise, monkeypatch):
    monkeypatch.setattr(streaming, "_A_THREAD", 1000)
    generator = np.random.default_rng(0)
    deltas = [generator.normal(size=5003).astype(np.float32) for _ in range(4)]
    means = []
    for count in (1, cores):
        monkeypatch.setattr(streaming, "_cores", lambda count=count: count)
        mean, total = np.zeros(5003, np.float32), 0.0
        for delta in deltas:
            total = fold(mean, total, delta, 1.5, precise=precise)
        means.append(mean.tobytes())
    assert means[0] == means[1]


def test_neither_fold_nor_finish_needs_memory_of_the_models_size():
    size = 4_000_000
    x, mean, delta = np.zeros(size, np.float32), np.zeros(size, np.float32), np.ones(size, np.float32)
    ours = STREAMING["fedadam"]()
    state = ours.init(size)
    tracemalloc.start()
    fold(mean, 0.0, delta, 1.0)
    ours.finish(x, mean, state, 1)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * size


def test_an_overflow_becomes_infinite_without_a_warning():
    ours = STREAMING["fedavgm"](server_learning_rate=1e300)
    after, _ = ours.finish(np.zeros(1, np.float32), np.ones(1, np.float32), ours.init(1), 1)
    assert np.isinf(after).all()


def test_only_what_holds_all_updates_says_so():
    assert memory_note(STREAMING["fedavg"](), sites=100, parameters=10**9) is None
    assert "up to 20 models of 20.0 MB" in memory_note(FedAvg(**LEAST), sites=20, parameters=5_000_000)
    assert "FedProx" in memory_note(FedProx(**LEAST), sites=2, parameters=34)
