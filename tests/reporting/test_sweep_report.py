"""A sweep's page: one line a combination, seeds folded, failures shown, closed to the outside."""

from __future__ import annotations

import json

import pytest

from fedkit.errors import RunError
from fedkit.reporting.sweep_report import write_sweep


def cell(overrides, accuracy=0.7, epsilon=1.0, error=None):
    result = None
    if error is None:
        site = {"accuracy": accuracy, "auroc": None} | ({"epsilon": epsilon} if epsilon is not None else {})
        noise = "seeded" if epsilon is not None else None
        result = {
            "overall": {"accuracy": accuracy, "auroc": None},
            "sites": {"a": site},
            "noise": noise,
            "private": False,
        }
    return {"overrides": overrides, "result": result, "error": error, "status": "failed" if error else "ran"}


def grid():
    return [
        cell({"privacy.epsilon": str(e), "strategy": s, "seed": str(seed)}, 0.6 + 0.02 * e + 0.01 * seed, e - 0.02)
        for e in (0.5, 1, 3, 8)
        for s in ("fedavg", "fedadam")
        for seed in (1, 2)
    ]


def test_sweep_page_folds_seeds_and_keeps_every_cell(tmp_path):
    page = write_sweep(tmp_path, grid())
    html = page.read_text()
    assert html.count("strategy=fedavg</li>") == 1
    assert "mean over seeds" in html
    assert html.count("<tr>") == 17
    assert "NOT private" in html
    assert json.loads((tmp_path / "sweep.json").read_text())["cells"] == grid()


def test_sweep_page_is_closed_and_deterministic(tmp_path):
    first = write_sweep(tmp_path, grid()).read_bytes()
    assert first == write_sweep(tmp_path, grid()).read_bytes()
    assert b"http://" not in first
    assert b"https://" not in first
    assert b"<script" not in first


def test_hostile_override_and_error_are_escaped(tmp_path):
    cells = [cell({"x": "<script>1"}), cell({"x": "2"}, error="<script>boom"), cell({"<script>k": "3", "x": "$2$"})]
    html = write_sweep(tmp_path, cells).read_text()
    assert "<script" not in html
    assert "&lt;script&gt;boom" in html


def test_cell_without_privacy_is_a_level_not_a_point(tmp_path):
    cells = [
        cell({"privacy": "record_dp", "privacy.epsilon": "1"}, 0.7, 0.99),
        cell({"privacy": "record_dp", "privacy.epsilon": "3"}, 0.75, 2.99),
        cell({"privacy": "none", "privacy.epsilon": ""}, 0.8, None),
    ]
    html = write_sweep(tmp_path, cells).read_text()
    assert "Dashed: without privacy" in html


def test_numeric_key_is_the_axis_where_epsilon_does_not_vary(tmp_path):
    cells = [cell({"training.learning_rate": r}, 0.7 + float(r), None) for r in ("0.01", "0.1")]
    html = write_sweep(tmp_path, cells).read_text()
    assert "Accuracy over training.learning_rate" in html


@pytest.mark.parametrize("cells", [[], [cell({}, error="no")], [cell({"strategy": "fedavg"})]])
def test_sweep_with_nothing_to_draw_still_has_its_table(tmp_path, cells):
    html = write_sweep(tmp_path, cells).read_text()
    assert "<table>" in html
    assert "<figure>" not in html


def test_folder_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(RunError) as caught:
        write_sweep(tmp_path / "nowhere", grid())
    assert caught.value.code == "FK614"
