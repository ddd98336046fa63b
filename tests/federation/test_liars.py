"""One site that lies is named and left out; the others train on."""

import io
import pickle

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg, QFedAvg

from fedkit.errors import FederationError
from fedkit.federation import wire
from fedkit.federation.discovery import discover
from fedkit.simulation.grid import InProcessGrid
from fedkit.strategies.streaming import fed_avg
from tests.federation.fakes import START, FakeSites, run

ZERO = np.zeros(3, np.float32)
NPY = Array(ZERO).data


def _header(text):
    return b"\x93NUMPY\x01\x00v\x00" + text.encode().ljust(117) + b"\n"


def _pickled():
    file = io.BytesIO()
    np.save(file, np.array([{}], dtype=object), allow_pickle=True)
    return file.getvalue()


def _reply(delta=ZERO, weight=1.0, **metrics):
    array = delta if isinstance(delta, Array) else Array(np.asarray(delta))
    numbers = MetricRecord({wire.WEIGHT_KEY: weight, **metrics})
    return RecordDict({"arrays": ArrayRecord({"parameters": array}), "metrics": numbers})


def _raw(data, dtype="float32", shape=(3,), stype="numpy.ndarray"):
    return _reply(Array(dtype, shape, stype, data))


TRAIN = {
    "garbage": (_raw(b"garbage"), "FK516"),
    "truncated": (_raw(NPY[:90]), "FK516"),
    "one byte short": (_raw(NPY[:-1]), "FK516"),
    "one byte more": (_raw(NPY + b"\0"), "FK516"),
    "empty": (_raw(b""), "FK516"),
    "pickle": (_raw(_pickled(), "object", (1,)), "FK516"),
    "pickle that claims to be float32": (_raw(_pickled()), "FK516"),
    "plain pickle": (_raw(pickle.dumps(ZERO)), "FK516"),
    "foreign stype": (_raw(NPY, stype="evil"), "FK516"),
    "header of 3.6 TiB": (
        _raw(_header("{'descr': '<f4', 'fortran_order': False, 'shape': (999999999999,), }")),
        "FK516",
    ),
    "claim of 3.6 TiB": (
        _raw(_header("{'descr': '<f4', 'fortran_order': False, 'shape': (999999999999,), }"), shape=(999999999999,)),
        "FK516",
    ),
    "another type in the header": (_raw(Array(np.zeros(3)).data), "FK516"),
    "another shape": (_reply(np.zeros(4, np.float32)), "FK511"),
    "two dimensions": (_reply(np.zeros((3, 1), np.float32)), "FK516"),
    "nan": (_reply(ZERO + np.float32(np.nan)), "FK512"),
    "infinite": (_reply(ZERO - np.float32(np.inf)), "FK512"),
    "weight infinite": (_reply(ZERO, float("inf")), "FK513"),
    "too large an entry": (_reply(ZERO + np.float32(3.4e38)), "FK526"),
    "weight 1e30": (_reply(ZERO, 1e30), "FK519"),
    "weight a little off": (_reply(ZERO, 1.001), "FK519"),
    "negative weight": (_reply(ZERO, -1.0), "FK513"),
    "weight list": (_reply(ZERO, [1.0, 2.0]), "FK513"),
    "train_loss list": (_reply(ZERO, 1.0, train_loss=[1.0, 2.0]), "FK517"),
    "train_loss nan": (_reply(ZERO, 1.0, train_loss=float("nan")), "FK517"),
    "no metrics": (RecordDict({"arrays": ArrayRecord({"parameters": Array(ZERO)})}), "FK517"),
    "nothing of ours": (RecordDict({"x": MetricRecord({})}), "FK515"),
}


class _Lying(FakeSites):
    train = evaluate = query = None

    def answer_train(self, names, content):
        replies = super().answer_train(names, content)
        return replies | {"liar": self.train} if self.train is not None and "liar" in names else replies

    def answer_evaluate(self, name, content):
        lie = self.evaluate if name == "liar" else None
        return lie if lie is not None else super().answer_evaluate(name, content)


def _lying(**lies):
    fake = _Lying({"a": 1.0, "liar": 1.0, "z": 1.0})
    for kind, lie in lies.items():
        setattr(fake, kind, lie)
    return fake


@pytest.mark.parametrize("strategy", [None, fed_avg()], ids=["holds", "streams"])
@pytest.mark.parametrize("name", sorted(TRAIN))
def test_a_bad_train_reply_is_that_sites_failure(name, strategy):
    reply, code = TRAIN[name]
    finish, reports = run(_lying(train=reply), planned={"a": 1.0, "liar": 1.0, "z": 1.0}, strategy=strategy)
    assert finish.outcome == "degraded"
    assert "degraded 2/3: liar missing (33.3 % of the declared records)" in finish.notes[0]
    assert reports[1].trained == ("a", "z")
    assert code in reports[1].failed["liar"]
    np.testing.assert_allclose(finish.parameters, START + 2.0)


@pytest.mark.parametrize("metrics", [{}, {"evil": 1.0}, {"evil": [1.0]}, {"train_loss": 0.5}])
def test_metrics_that_others_lack_do_not_reach_the_strategy(metrics):
    seen = []

    class Watching(FedAvg):
        def aggregate_train(self, server_round, replies):
            seen.extend(set(reply.content["metrics"]) for reply in replies)
            return super().aggregate_train(server_round, replies)

    finish, _ = run(_lying(train=_reply(ZERO + 1, 1.0, **metrics)), strategy=Watching(1.0, 1.0, 1, 1, 1))
    assert finish.outcome == "complete"
    assert {frozenset(keys) for keys in seen} == {frozenset({wire.WEIGHT_KEY})}


def test_a_loss_that_the_strategy_reads_is_the_sites_duty():
    class Losing(_Lying):
        def answer_train(self, names, content):
            replies = super().answer_train(names, content)
            return {name: _reply(ZERO + 1, 1.0, **({} if name == "liar" else {"train_loss": 0.5})) for name in replies}

    fake = Losing({"a": 1.0, "liar": 1.0})
    strategy = QFedAvg(0.1, min_train_nodes=1, min_evaluate_nodes=1, min_available_nodes=1)
    finish, reports = run(fake, strategy=strategy)
    assert finish.outcome == "degraded"
    assert "FK529" in reports[1].failed["liar"]


def _measured(undefined=(), weight=5.0, **metrics):
    numbers = {} if weight is None else {wire.WEIGHT_KEY: weight}
    config = undefined if isinstance(undefined, int) else list(undefined)
    return RecordDict({"metrics": MetricRecord({**numbers, **metrics}), "config": ConfigRecord({"undefined": config})})


EVALUATE = {
    "no rows": _measured(weight=None, accuracy=0.5),
    "zero rows": _measured(weight=0.0, accuracy=0.5),
    "list": _measured(accuracy=[0.5]),
    "undefined is a number": _measured(undefined=5, accuracy=0.5),
    "undefined is markup": _measured(undefined=["<script>"], accuracy=0.5),
    "nan": _measured(accuracy=float("nan")),
    "infinite": _measured(log_loss=float("inf")),
    "huge": _measured(accuracy=1e300),
    "markup": _measured(accuracy=0.5, **{"<script>": 1.0}),
    "nothing": RecordDict(),
}


@pytest.mark.parametrize("name", sorted(EVALUATE))
def test_a_bad_evaluate_reply_is_that_sites_failure(name):
    finish, reports = run(_lying(evaluate=EVALUATE[name]), num_rounds=1)
    assert finish.outcome == "degraded"
    assert set(reports[1].sites) == {"a", "z"}
    assert "FK51" in reports[1].failed["liar"]
    assert "<script>" not in reports[1].failed["liar"]


@pytest.mark.parametrize(
    "answer",
    [
        RecordDict(),
        RecordDict({"config": ConfigRecord({"site": "liar"})}),
        RecordDict({"config": ConfigRecord({"wire": wire.WIRE_VERSION, "site": 5, "trains": True, "evaluates": True})}),
    ],
)
def test_a_query_that_cannot_be_read_is_named_with_the_missing_site(answer):
    fake = _lying()
    good = fake.answer_query
    fake.answer_query = lambda name: answer if name == "liar" else good(name)
    with pytest.raises(
        FederationError, match=r"1 of 3 sites did not join .*: liar; node 1001 gave no usable"
    ) as caught:
        discover(InProcessGrid(fake), list(fake.sites), 0.0)
    assert caught.value.code == "FK523"
    assert list(discover(InProcessGrid(fake), ["a", "z"], 0.0)) == ["a", "z"]


HISTOGRAMS = {
    "another number of cells": (wire.pack_histograms(np.zeros(3)), "FK511"),
    "not a number": (wire.pack_histograms(np.array([np.nan, 1.0])), "FK512"),
    "more units than people": (wire.pack_histograms(np.array([1e300, 1.0])), "FK512"),
    "float32": (RecordDict({"arrays": ArrayRecord({"parameters": Array(np.zeros(2, np.float32))})}), "FK516"),
    "metrics instead": (wire.pack_metrics(10, {"rmse": 1.0}), "FK515"),
}


@pytest.mark.parametrize("name", sorted(HISTOGRAMS))
def test_bad_histograms_are_that_sites_failure(name):
    lie, code = HISTOGRAMS[name]

    class Measured(FakeSites):
        def answer_evaluate(self, site, content):
            if not wire.asks_for_histograms(content):
                return super().answer_evaluate(site, content)
            return lie if site == "liar" else wire.pack_histograms(np.array([1.0, -2.0]))

    fake = Measured({"a": 1.0, "liar": 1.0})
    finish, reports = run(fake, measures={"a": (2,), "liar": (2,)}, cells=2)
    assert finish.outcome == "degraded"
    assert reports[2].histograms == {"a": (1.0, -2.0)} and reports[1].histograms == {}
    assert code in reports[2].failed["liar"]
