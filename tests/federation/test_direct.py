"""Updates that no message carries are held to what replies are held to, and to what lends its arrays."""

import numpy as np
import pytest
from flwr.app import ArrayRecord, MetricRecord, RecordDict
from flwr.serverapp.strategy import FedAvg

from fedkit.config.experiment import FederationConfig
from fedkit.errors import TrainingError
from fedkit.federation import wire
from fedkit.federation.direct import hear
from fedkit.federation.events import Stopped
from fedkit.federation.rounds import RoundLoop
from fedkit.simulation.grid import InProcessGrid
from fedkit.strategies.robust import ROBUST
from fedkit.strategies.streaming import fed_avg
from fedkit.types import ClientUpdate
from tests.federation.fakes import SHAPES, START, FakeSites

NAMES = ("a", "liar", "z")
GOOD = np.full(3, 2.0, np.float32)


class Direct(FakeSites):
    """Updates in one array that is lent to one after the other."""

    def __init__(self, lie=None, order=NAMES):
        super().__init__(dict.fromkeys(NAMES, 2.0))
        self.lie, self.order, self.by_message = lie, order, 0

    def answer_train(self, names, content):
        self.by_message += 1
        return super().answer_train(names, content)

    def updates(self, names, parameters, number, mu):
        assert not parameters.flags.writeable
        lent = np.empty(3, np.float32)
        for name in (name for name in self.order if name in names):
            if name == "liar" and self.lie is not None:
                yield from self.lie
            else:
                lent[:] = GOOD + 1 * (name == "z")
                yield ClientUpdate(name, lent, 1.0)
                lent[:] = np.nan


def run(fake, strategy=None, weights=None, keep=False):
    grid = InProcessGrid(fake, updates=fake.updates)
    config = FederationConfig("local", 1, min_sites=1)
    kept, nodes = [], {name: node for node, name in grid.nodes.items()}
    loop = RoundLoop(
        grid, strategy or fed_avg(), SHAPES, 0, config, nodes, frozenset(NAMES), frozenset(),
        weights=weights, keep_updates=keep,
    )  # fmt: skip
    finish = loop.run(START, lambda report, _, updates: kept.append((report, list(updates))))
    return finish, kept[-1][0], kept[-1][1]


def update(delta=GOOD, weight=1.0, site="liar", **metrics):
    return ClientUpdate(site, delta, weight, metrics)


BAD = {
    "float64": (update(GOOD.astype(np.float64)), "FK516"),
    "other byte order": (update(GOOD.astype(">f4")), "FK516"),
    "two dimensions": (update(GOOD[None]), "FK516"),
    "a list": (update([1.0, 2.0, 3.0]), "FK516"),
    "another size": (update(np.zeros(4, np.float32)), "FK511"),
    "nan": (update(GOOD + np.float32(np.nan)), "FK512"),
    "infinite": (update(GOOD - np.float32(np.inf)), "FK512"),
    "too large": (update(np.full(3, 3e38, np.float32)), "FK526"),
    "weight infinite": (update(weight=float("inf")), "FK513"),
    "weight nan": (update(weight=float("nan")), "FK513"),
    "weight zero": (update(weight=0.0), "FK513"),
    "weight a text": (update(weight="1"), "FK513"),
    "weight not planned": (update(weight=1.001), "FK519"),
    "a loss that is none": (update(train_loss=float("nan")), "FK517"),
    "metrics that are none": (ClientUpdate("liar", GOOD, 1.0, 7), "FK516"),
}


@pytest.mark.parametrize("name", sorted(BAD))
def test_a_bad_update_is_that_sites_failure(name):
    lie, code = BAD[name]
    finish, report, _ = run(Direct([lie]), weights=dict.fromkeys(NAMES, 1.0))
    assert finish.outcome == "degraded" and report.trained == ("a", "z")
    assert code in report.failed["liar"]
    np.testing.assert_array_equal(finish.parameters, START + 2.5)


@pytest.mark.parametrize(
    "name", sorted(set(BAD) - {"a list", "metrics that are none", "weight a text", "two dimensions"})
)
def test_it_is_told_what_a_message_would_have_been_told(name):
    """Where the same update can be packed at all."""
    lie, code = BAD[name]
    arrays = ArrayRecord()
    arrays["parameters"] = wire.pack_update(update()).array_records["arrays"]["parameters"]
    packed = RecordDict(
        {"arrays": wire.pack_array(lie.delta), "metrics": MetricRecord({wire.WEIGHT_KEY: lie.weight, **lie.metrics})}
    )
    found = []
    for read in (lambda: wire.unpack_update(packed, "liar", 3), lambda: wire.as_read(lie, 3)):
        try:
            read()
        except wire.FederationError as error:
            found.append((error.code, str(error) if "flat" not in str(error) else ""))
    assert (len(found) == 2 and found[0] == found[1]) or (code in ("FK519", "FK526") and not found)


def test_who_gives_none_or_anothers_is_missing_and_a_second_counts_for_nothing():
    for lie in ([], [update(site="a")], [update(site="nobody")]):
        finish, report, _ = run(Direct(lie))
        assert "FK524" in report.failed["liar"] and report.trained == ("a", "z")
        np.testing.assert_array_equal(finish.parameters, START + 2.5)
    finish, report, _ = run(Direct([update(), update(GOOD * 100)]))
    assert finish.outcome == "complete"
    np.testing.assert_allclose(finish.parameters, START + 7 / 3, rtol=1e-6)


@pytest.mark.parametrize("order", [NAMES, NAMES[::-1], ("z", "a", "liar")])
@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("strategy", [fed_avg, ROBUST["fedmedian"]], ids=["folds", "holds"])
def test_arrays_that_are_lent_are_copied_where_they_must_last(order, keep, strategy):
    fake = Direct(order=order)
    finish, _, updates = run(fake, strategy(), keep=keep)
    expected = START + (7 / 3 if strategy is fed_avg else 2.0)
    np.testing.assert_allclose(finish.parameters, expected, rtol=1e-6)
    if keep:
        assert [(each.site, each.delta.tolist()) for each in updates] == [
            ("a", [2.0] * 3), ("liar", [2.0] * 3), ("z", [3.0] * 3)
        ]  # fmt: skip
    assert fake.by_message == 0


def test_a_strategy_of_flowers_is_given_messages():
    fake = Direct()
    finish, _, _ = run(fake, FedAvg(min_train_nodes=1, min_available_nodes=1, fraction_evaluate=0.0))
    assert fake.by_message == 1 and finish.outcome == "complete"
    np.testing.assert_allclose(finish.parameters, START + 2.0)


def test_sites_are_asked_in_batches_and_a_stop_is_heard_between_them():
    asked, stops = [], iter([False, True])

    def updates(names, *_):
        asked.append(names)
        yield from (update(site=name) for name in names)

    told = hear(updates, list("abcde"), START, 1, 0.0, together=2, stop=lambda: next(stops))
    with pytest.raises(Stopped):
        list(told)
    assert asked == [["a", "b"], ["c", "d"]]


def test_left_by_an_error_the_sites_are_let_go_at_once():
    ended = []

    class Broken(Direct):
        def updates(self, names, *_):
            try:
                yield update(site="a")
                raise TrainingError("at the second", code="FK405")
            finally:
                ended.append(True)

    with pytest.raises(TrainingError, match="at the second"):
        run(Broken())
    assert ended == [True]
