"""Curves are what a run's folder says, of any length, and nothing of what is not whole."""

import json

from fedkit_server.curves import MOST, curves_of
from fedkit_server.dashboard.curves import HEIGHT, WIDTH, curves

from fedkit.runs.directory import METRICS
from tests.reporting.conftest import Fabricated, write


def line(number, epsilon, **sites):
    return {"round": number, "epsilon": epsilon, "sites": sites, "trained": list(epsilon), "failed": {}}


def test_each_round_is_told_as_the_folder_has_it(tmp_path):
    run = write(tmp_path, Fabricated(rounds=5))
    kept = [json.loads(text) for text in (run / METRICS).read_text().splitlines()]
    told = curves_of(run)
    assert [each["round"] for each in told] == [each["round"] for each in kept]
    assert [each["epsilon"] for each in told] == [each["epsilon"] for each in kept]
    assert [each["missing"] for each in told] == [len(each["failed"]) for each in kept]


def test_what_is_torn_or_no_round_or_no_number_is_left_out(tmp_path):
    good = json.dumps(line(1, {"a": 1.0}, a={"auroc": 0.5, "x": None, "y": True, "z": float("inf"), "s": "<b>"}))
    (tmp_path / METRICS).write_text(f'{good}\n{{"round": 2}}\n[]\nnull\n{good[:40]}')
    assert curves_of(tmp_path) == [
        {"round": 1, "epsilon": {"a": 1.0}, "sites": {"a": {"auroc": 0.5}}, "trained": 1, "missing": 0}
    ]
    assert curves_of(tmp_path / "none") == []


def test_of_very_many_rounds_the_first_and_the_last_are_told(tmp_path):
    (tmp_path / METRICS).write_text("".join(json.dumps(line(n, {"a": n})) + "\n" for n in range(5000)))
    told = [each["round"] for each in curves_of(tmp_path)]
    assert len(told) == MOST and told[0] == 0 and told[-1] == 4999 and told == sorted(set(told))


def test_a_lines_points_are_its_figures_to_scale_and_the_table_has_them_too():
    (curve,) = curves([line(1, {"a": 0.0, "b": 1.0}), line(3, {"a": 2.0, "b": 1.0}), line(5, {"a": 4.0})])
    assert [each.name for each in curve.lines] == ["a", "b"]
    assert curve.lines[0].points == f"0.0,{HEIGHT}.0 {WIDTH / 2:.1f},{HEIGHT / 2:.1f} {WIDTH}.0,0.0"
    assert curve.rows == ((5, ("4.00", "none")), (3, ("2.00", "1.00")), (1, ("0.00", "1.00")))
    assert curve.lines[1].last == "1.00"


def test_of_many_sites_the_spread_is_drawn_and_one_round_is_no_line():
    (curve,) = curves([line(1, {f"site{n}": float(n) for n in range(21)})])
    assert [(each.name, each.last, each.points) for each in curve.lines] == [
        ("smallest", "0.00", ""), ("median", "10.00", ""), ("largest", "20.00", "")
    ]  # fmt: skip
    (curve,) = curves([line(1, {"a": 2.19301})])
    assert float(curve.lines[0].last) >= 2.19301
    assert curves([]) == [] and curves([line(1, {})]) == []
