import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st

from fedkit.errors import FederationError
from fedkit.federation import wire
from fedkit.training.metrics import metric_names
from fedkit.types import ClientUpdate, Task

SHAPES = {"layer.weight": (2, 3), "layer.bias": (2,), "scale": ()}


@settings(max_examples=25)
@given(st.lists(st.floats(-1e3, 1e3, width=32), min_size=9, max_size=9))
def test_a_packed_model_survives_the_strategy_form(values):
    flat = np.array(values, dtype=np.float32)
    np.testing.assert_array_equal(wire.from_record(wire.to_record(flat, SHAPES), SHAPES), flat)


def test_a_request_carries_one_array_the_round_and_mu():
    content = wire.pack_model(np.arange(3, dtype=np.float32), 7, 0.25)
    parameters, server_round, mu = wire.unpack_model(content)
    assert (parameters.tolist(), server_round, mu) == ([0.0, 1.0, 2.0], 7, 0.25)
    assert [len(record) for record in content.array_records.values()] == [1]


def test_an_update_round_trips_with_its_weight():
    sent = ClientUpdate("a", np.array([1.0, -2.0], dtype=np.float32), 12.0, {"train_loss": 0.5})
    got = wire.unpack_update(wire.pack_update(sent), "a", 2)
    assert (got.delta.tolist(), got.weight, got.metrics) == ([1.0, -2.0], 12.0, {"train_loss": 0.5})


def _update(delta, weight=1.0, names=("parameters",)):
    arrays = ArrayRecord({name: Array(np.asarray(delta)) for name in names})
    return RecordDict({"arrays": arrays, "metrics": MetricRecord({wire.WEIGHT_KEY: weight})})


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (_update(np.zeros(3, np.float32)), "FK511"),
        (_update(np.array([np.nan, 0], np.float32)), "FK512"),
        (_update(np.array([np.inf, 0], np.float32)), "FK512"),
        (_update(np.zeros(2, np.float32), weight=0.0), "FK513"),
        (_update(np.zeros(2, np.float32), weight=float("inf")), "FK513"),
        (_update(np.zeros(2, np.float32), weight=-1.0), "FK513"),
        (_update(np.zeros(2, np.float32), names=("a", "b")), "FK515"),
        (RecordDict({"metrics": MetricRecord({wire.WEIGHT_KEY: 1.0})}), "FK515"),
        (_update(np.zeros(2, np.float64)), "FK516"),
        (_update(np.zeros((1, 2), np.float32)), "FK516"),
        (RecordDict({"arrays": ArrayRecord({"parameters": Array(np.zeros(2, np.float32))})}), "FK517"),
    ],
)
def test_an_update_that_could_poison_the_sum_is_refused(content, code):
    with pytest.raises(FederationError) as caught:
        wire.unpack_update(content, "a", 2)
    assert caught.value.code == code


def test_another_wire_version_is_refused():
    content = wire.pack_model(np.zeros(1, np.float32), 1, 0.0)
    content["config"] = ConfigRecord({"wire": 99, "server-round": 1, "proximal-mu": 0.0})
    with pytest.raises(FederationError, match="wire version"):
        wire.unpack_model(content)


def test_an_undefined_metric_stays_undefined():
    content = wire.pack_metrics(10, {"accuracy": 0.5, "auroc": None})
    assert wire.unpack_metrics(content) == (10.0, {"accuracy": 0.5, "auroc": None})


@pytest.mark.parametrize("kind", ["binary", "multiclass", "regression"])
def test_every_metric_of_every_task_may_be_sent(kind):
    task = Task(kind, (0, 1, 2) if kind == "multiclass" else ())
    names = metric_names(task)
    assert names
    assert set(names) <= wire.EVALUATE_METRICS.keys()
    assert wire.unpack_metrics(wire.pack_metrics(1, dict.fromkeys(names, 0.5)))[1] == dict.fromkeys(names, 0.5)


def test_a_strategy_that_changes_shapes_is_refused():
    record = wire.to_record(np.zeros(9, np.float32), {**SHAPES, "scale": ()})
    with pytest.raises(FederationError, match="other names or shapes"):
        wire.from_record(record, {"layer.weight": (3, 2), "layer.bias": (2,), "scale": ()})
