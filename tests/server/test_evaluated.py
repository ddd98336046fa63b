"""A private run's charged estimates are curves: from released cells alone, with their noise and intervals said."""

import json

import numpy as np
import pytest
from fedkit_server.curves import curves_of
from fedkit_server.dashboard.curves import curves
from fedkit_server.evaluated import FILE, OVERALL, evaluations, note_evaluation

from fedkit.models.flat import pack
from fedkit.runs.directory import METRICS
from fedkit.simulation.measured import measured
from tests.server.sites import RECORDS
from tests.server.test_record import opened, report, updates

PRIVATE = (
    "privacy=record_dp", "privacy.epsilon=2", "privacy.delta=1e-5", "privacy.noise=secure",
    "privacy.evaluation.share=0.2", "privacy.evaluation.every=2", "federation.num_rounds=4",
)  # fmt: skip


def cells(made, seed=0):
    size = sum(spec.size for spec in made.prepared.local.specs)
    return {site: tuple(np.random.default_rng(seed).normal(30.0, 3.0, size)) for site in RECORDS}


@pytest.fixture
def made(tmp_path):
    """A private run that is measured after every second round."""
    made = opened(tmp_path, *PRIVATE)
    start = pack(made.prepared.model)
    for number in range(5):
        released = {"histograms": cells(made, number)} if number in (2, 4) else {}
        made.on_round(report(number, sites={}, **released), start, updates(len(start)) if number else ())
    return made


def test_each_evaluated_round_is_a_point_with_its_interval_and_its_noise_in_the_title(made):
    folder = made.directory.path
    told = evaluations(folder)
    assert sorted(told) == [2, 4] and set(told[2]["sites"]) == {OVERALL, *RECORDS}
    found = measured(made.prepared, 2, cells(made, 2))
    assert told[2]["sites"][OVERALL] == json.loads(json.dumps(found["overall"]))
    drawn = curves(curves_of(folder))
    charged = [curve for curve in drawn if "charged" in curve.title]
    assert any(curve.title.startswith("AUROC, charged") for curve in charged)
    for curve in charged:
        assert "noisy histograms (sigma " in curve.title and "with 95 % intervals" in curve.title
        assert [number for number, _ in curve.rows] == [4, 2]
        assert all("(" in value and " to " in value for _, row in curve.rows for value in row if value != "none")


def test_what_is_drawn_follows_from_the_released_cells_alone(made):
    # The same cells give the same curve: nothing of a run without them, or of its exact metrics, is in it.
    before = curves_of(made.directory.path)
    (made.directory.path / FILE).unlink()
    assert all("charged" not in each for each in curves_of(made.directory.path))
    for line in map(json.loads, (made.directory.path / METRICS).read_text().splitlines()):
        if line.get("histograms"):
            note_evaluation(made.directory.path, made.prepared, line["round"], line["histograms"])
    assert curves_of(made.directory.path) == before


def test_half_a_line_of_a_kill_and_a_round_that_is_told_twice_spoil_nothing(made):
    path = made.directory.path / FILE
    whole = evaluations(made.directory.path)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) - len(content) // 3])
    assert sorted(evaluations(made.directory.path)) == [2]
    made.on_round(report(4, sites={}, histograms=cells(made, 4)), None, ())
    made.on_round(report(4, sites={}, histograms=cells(made, 4)), None, ())
    assert evaluations(made.directory.path) == whole


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e308, -1e308])
def test_cells_that_no_honest_site_sends_end_no_run(made, value):
    spoilt = {site: tuple(value for _ in held) for site, held in cells(made).items()}
    note_evaluation(made.directory.path, made.prepared, 6, spoilt)
    assert all("nan" not in line.points for curve in curves(curves_of(made.directory.path)) for line in curve.lines)


def test_an_unprotected_run_has_its_exact_metrics_and_no_such_file(tmp_path):
    made = opened(tmp_path)
    made.on_round(report(0), pack(made.prepared.model), ())
    assert not (made.directory.path / FILE).exists()
    assert [curve.title for curve in curves(curves_of(made.directory.path))] == ["Accuracy, by site"]
