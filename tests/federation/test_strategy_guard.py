"""A strategy may raise anything and ask for anything: the run says so instead of tracing back or waiting."""

import pytest
from flwr.serverapp.exception import AggregationError
from flwr.serverapp.strategy import DifferentialPrivacyServerSideFixedClipping, FedAvg

from fedkit.errors import FederationError
from fedkit.federation.strategy_guard import check_patience
from tests.federation.fakes import FakeSites, run

SITES = {"a": 1.0, "b": 1.0}


@pytest.mark.parametrize("step", ["configure_train", "aggregate_train", "configure_evaluate", "aggregate_evaluate"])
def test_what_a_strategy_raises_is_a_federation_error(step):
    def fail(*_):
        raise AggregationError("no weights")

    strategy = FedAvg(1.0, 1.0, 1, 1, 1)
    setattr(strategy, step, fail)
    with pytest.raises(
        FederationError, match=f"the strategy raised AggregationError in {step}: .*no weights"
    ) as caught:
        run(FakeSites(SITES), strategy=strategy)
    assert caught.value.code == "FK527"


def test_a_strategy_that_returns_no_arrays_is_a_federation_error():
    strategy = FedAvg(1.0, 1.0, 1, 1, 1)
    strategy.aggregate_train = lambda *_: ([1.0], None)
    with pytest.raises(FederationError, match="the strategy"):
        run(FakeSites(SITES), strategy=strategy)


@pytest.mark.parametrize("name", ["min_train_nodes", "min_available_nodes", "min_evaluate_nodes"])
def test_a_strategy_that_would_wait_for_ever_is_refused(name):
    least = {"min_train_nodes": 1, "min_evaluate_nodes": 1, "min_available_nodes": 1, name: 3}
    with pytest.raises(FederationError, match=f"waits for {name}=3 sites, but only 2") as caught:
        run(FakeSites(SITES), strategy=FedAvg(**least))
    assert caught.value.code == "FK528"


def test_the_sample_and_not_the_federation_bounds_a_strategy():
    sites = {f"s{index}": 1.0 for index in range(4)}
    with pytest.raises(FederationError, match="min_available_nodes=2 sites, but only 1 train"):
        run(FakeSites(sites), strategy=FedAvg(), fraction_train=0.25)
    assert run(FakeSites(sites), strategy=FedAvg(), fraction_train=0.5)[0].outcome == "complete"


def test_a_wrapped_strategy_is_seen_and_a_phase_that_is_off_is_not():
    inner = FedAvg(min_train_nodes=5)
    wrapped = DifferentialPrivacyServerSideFixedClipping(inner, 1.0, 1.0, 4)
    with pytest.raises(FederationError, match="min_train_nodes=5"):
        check_patience(wrapped, train=4, evaluate=4)
    check_patience(FedAvg(fraction_evaluate=0.0, min_evaluate_nodes=9), train=4, evaluate=4)
    check_patience(FedAvg(min_evaluate_nodes=9), train=4, evaluate=0)
