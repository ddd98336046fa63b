import inspect

import numpy as np
import pytest
from flwr.app import ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import DifferentialPrivacyServerSideFixedClipping, FedAvg, QFedAvg

from fedkit.config.arguments import STRATEGY_ARGUMENTS
from fedkit.config.experiment import StrategyConfig
from fedkit.errors import FederationError
from fedkit.federation import wire
from fedkit.federation.chosen import ChosenSites
from fedkit.federation.flower_internals import local_identity
from fedkit.simulation.grid import InProcessGrid
from fedkit.strategies import STRATEGIES, build, refuse_if_needs_statistics
from fedkit.strategies.robust import Robust
from fedkit.strategies.streaming import Streaming, fold

SHAPES = {"w": (4,)}


class _Sites:
    sites = dict.fromkeys("abcdefg")


def _round(strategy, flat, deltas, number, kept=None):
    if isinstance(strategy, Streaming):
        mean, total = np.zeros_like(flat), 0.0
        for delta in deltas:
            total = fold(mean, total, delta, 1.0)
        return strategy.finish(flat, mean, strategy.init(len(flat)) if kept is None else kept, number)[0]
    if isinstance(strategy, Robust):
        return strategy.finish(flat, deltas, [1.0] * len(deltas))
    grid = InProcessGrid(_Sites())
    with local_identity():
        requests = list(
            strategy.configure_train(
                number, wire.to_record(flat, SHAPES), ConfigRecord(), ChosenSites(grid, list(grid.nodes))
            )
        )
        replies = []
        for request, delta in zip(requests, deltas, strict=True):
            numbers = MetricRecord({wire.WEIGHT_KEY: 1.0, "train_loss": 1.0})
            replies.append(
                Message(
                    RecordDict({"arrays": wire.to_record(flat + delta, SHAPES), "metrics": numbers}), reply_to=request
                )
            )
        record, _ = strategy.aggregate_train(number, replies)
    return wire.from_record(record, SHAPES)


def _arguments(name):
    return {"client_learning_rate": 0.1} if name == "qfedavg" else {}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_every_strategy_folds_a_round_of_equal_updates(name):
    strategy = build(StrategyConfig(name, _arguments(name)), num_sites=7, private=False)
    flat = np.zeros(4, dtype=np.float32)
    after = _round(strategy, flat, [np.full(4, 0.5, np.float32)] * 7, 1)
    assert np.isfinite(after).all()
    assert (after > 0).all()
    if name in ("fedavg", "fedavgm", "fedprox", "fedmedian", "fedtrimmedavg", "krum", "multikrum", "bulyan"):
        np.testing.assert_allclose(after, 0.5, rtol=1e-6)


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_every_argument_the_config_admits_is_taken(name):
    known = STRATEGY_ARGUMENTS[name]
    signature = inspect.signature(STRATEGIES[name])
    open_ended = any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values())
    assert open_ended or set(known) <= set(signature.parameters)


def test_uncorrected_adam_is_the_published_update():
    strategy = build(
        StrategyConfig("fedadam_uncorrected", {"eta": 0.1, "beta_1": 0.9, "beta_2": 0.999, "tau": 1e-8}),
        num_sites=7,
        private=True,
    )
    generator, flat = np.random.default_rng(0), np.zeros(4)
    m, v, kept = np.zeros(4), np.zeros(4), strategy.init(4)
    for number in range(1, 6):
        deltas = [generator.normal(size=4).astype(np.float32) for _ in range(7)]
        mean = np.mean(deltas, axis=0)
        m, v = 0.9 * m + 0.1 * mean, 0.999 * v + 0.001 * mean**2
        expected = flat + 0.1 * m / (np.sqrt(v) + 1e-8)
        flat = _round(strategy, flat.astype(np.float32), deltas, number, kept)
        np.testing.assert_allclose(flat, expected, rtol=1e-4, atol=1e-6)


def test_flowers_adam_corrects_the_bias_and_ours_does_not():
    arguments = {"eta": 0.1, "beta_1": 0.9, "beta_2": 0.999, "tau": 1e-8}
    flat, deltas = np.zeros(4, np.float32), [np.full(4, 0.01, np.float32)] * 7
    ours = _round(build(StrategyConfig("fedadam_uncorrected", arguments), num_sites=7, private=True), flat, deltas, 1)
    flowers = _round(build(StrategyConfig("fedadam", arguments), num_sites=7, private=True), flat, deltas, 1)
    assert abs(ours[0]) > 2 * abs(flowers[0])


def test_adagrads_first_moment_is_admitted():
    arguments = {"eta": 0.1, "eta_l": 0.1, "tau": 1e-8}
    flat, deltas = np.zeros(4, np.float32), [np.ones(4, np.float32)]
    without, with_moment = (
        _round(build(StrategyConfig("fedadagrad", {**arguments, "beta_1": beta}), num_sites=4, private=True), flat,
               deltas, 1) for beta in (0.0, 0.9)
    )  # fmt: skip
    np.testing.assert_allclose(with_moment, 0.1 * without, rtol=1e-6)
    assert STRATEGIES["fedadagrad"](**arguments, beta_1=0.9).beta_1 == 0.9


def test_a_strategy_that_reads_each_sites_loss_is_refused_in_a_private_run():
    with pytest.raises(FederationError, match="training loss of each site") as caught:
        build(StrategyConfig("qfedavg", {"client_learning_rate": 0.1}), num_sites=4, private=True)
    assert caught.value.code == "FK501"


@pytest.mark.parametrize(("name", "liars", "least"), [("krum", 1, 5), ("multikrum", 1, 5), ("bulyan", 1, 7)])
def test_a_robust_strategy_refuses_too_few_sites(name, liars, least):
    with pytest.raises(FederationError, match=f"needs at least {least} sites"):
        build(StrategyConfig(name, {"num_malicious_nodes": liars}), num_sites=least - 1, private=True)
    build(StrategyConfig(name, {"num_malicious_nodes": liars}), num_sites=least, private=True)


def test_flowers_own_privacy_wrappers_and_trees_are_not_offered():
    assert not [name for name in STRATEGIES if name.startswith(("dp", "differential")) or "xgb" in name]


@pytest.mark.parametrize("wrap", [False, True])
def test_a_strategy_object_that_reads_each_sites_loss_is_refused_in_a_private_run(wrap):
    strategy = QFedAvg(0.1)
    if wrap:
        strategy = DifferentialPrivacyServerSideFixedClipping(strategy, 1.0, 1.0, 4)
    with pytest.raises(FederationError, match="training loss of each site") as caught:
        refuse_if_needs_statistics(strategy, private=True)
    assert caught.value.code == "FK501"
    refuse_if_needs_statistics(strategy, private=False)
    refuse_if_needs_statistics(FedAvg(), private=True)
