import numpy as np

from fedkit.federation.rounds import Finish
from fedkit.simulation.exchange import Exchange
from fedkit.types import ClientUpdate, RoundReport


def test_a_round_crosses_the_folder_bit_for_bit_and_once(tmp_path):
    exchange, seen = Exchange(tmp_path), []
    report = RoundReport(3, ("a", "b"), {"c": "late"}, {"a": {"auroc": None, "accuracy": 0.5}}, {"a": 1.5}, "d", 0.25)
    parameters = np.array([1.0, -0.0, 3.5], np.float32)
    updates = [ClientUpdate("b", parameters * 2, 1 / 3), ClientUpdate("a", parameters, 2.0)]
    assert exchange.take_round(3, lambda *_: None) is None
    exchange.put_round(report, parameters, updates)
    taken = exchange.take_round(3, lambda *arguments: seen.append(arguments))
    assert taken.tobytes() == parameters.tobytes()
    ((got_report, _, got_updates),) = seen
    assert got_report == report
    assert [(u.site, u.weight, u.delta.tobytes()) for u in got_updates] == [
        (u.site, u.weight, u.delta.tobytes()) for u in updates
    ]
    assert exchange.take_round(3, lambda *_: None) is None


def test_the_end_is_known_only_once_it_is_written(tmp_path):
    exchange = Exchange(tmp_path)
    assert exchange.finished() is None
    exchange.put_finish(Finish(np.zeros(1, np.float32), "degraded", 2, ("late",)))
    assert exchange.finished() == {"outcome": "degraded", "rounds": 2, "notes": ["late"]}


def test_an_error_takes_the_place_of_the_end(tmp_path):
    exchange = Exchange(tmp_path)
    exchange.put_error("FK523: a site is missing")
    assert exchange.finished() == {"error": "FK523: a site is missing"}
