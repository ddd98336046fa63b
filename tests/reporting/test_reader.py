"""Reading run directories: whole, unfinished, torn, broken."""

from __future__ import annotations

import json

import numpy as np
import pytest

from fedkit.errors import RunError
from fedkit.reporting.reader import read_run
from fedkit.reporting.report import write_report


def test_a_finished_run_is_read_whole(make_run):
    view = read_run(make_run("seeded"))
    assert view.sites == ("cleveland", "hungary", "switzerland", "va")
    assert (view.rounds_done, view.num_rounds, len(view.rounds)) == (15, 15, 16)
    assert view.headline == ("accuracy", "auroc")
    assert view.spent("va") == 2.98
    assert view.sizes("switzerland") == (30, 16)
    assert len(view.predictions["hungary"].y) == 89
    assert view.remarks == ()


def test_undefined_metric_stays_none(make_run):
    view = read_run(make_run("seeded"))
    assert view.final("switzerland")["auroc"] is None
    assert view.series("switzerland", "auroc") == []
    assert len(view.series("switzerland", "accuracy")) == 16


def test_interrupted_run_shows_its_last_round(make_run):
    view = read_run(make_run("interrupted"))
    assert view.result is None
    assert view.rounds_done == 2
    assert view.final("va") == view.rounds[-1]["sites"]["va"]
    assert view.spent("va") == view.rounds[-1]["epsilon"]["va"]


def test_result_without_metrics_falls_back_to_the_last_round(make_run):
    path = make_run("interrupted")
    bare = {"overall": {}, "sites": {"va": {"train": 85, "test": 45, "epsilon": 0.5, "delta": 1e-5}}}
    (path / "result.json").write_text(json.dumps(bare))
    view = read_run(path)
    assert view.final("va") == view.rounds[-1]["sites"]["va"]
    assert view.spent("va") == 0.5


def test_torn_last_line_is_left_out_and_said(make_run):
    path = make_run("interrupted")
    with (path / "metrics.jsonl").open("a") as file:
        file.write('{"round": 3, "sit')
    view = read_run(path)
    assert view.rounds_done == 2
    assert "cut off" in view.remarks[0]


def test_whole_last_line_without_newline_is_kept(make_run):
    path = make_run("interrupted")
    text = (path / "metrics.jsonl").read_text()
    (path / "metrics.jsonl").write_text(text.rstrip("\n"))
    assert read_run(path).rounds_done == 2


def test_nan_reads_as_undefined(make_run):
    path = make_run("seeded")
    result = json.loads((path / "result.json").read_text())
    result["sites"]["va"]["auroc"] = float("nan")
    (path / "result.json").write_text(json.dumps(result))
    assert read_run(path).final("va")["auroc"] is None


def test_failed_run_without_rounds_is_read(make_run):
    view = read_run(make_run("failed"))
    assert (view.outcome, view.rounds, view.result) == ("failed", (), None)


def broken(path, name, content):
    (path / name).write_bytes(content)


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (lambda p: (p / "manifest.json").unlink(), "FK610"),
        (lambda p: broken(p, "manifest.json", b"{"), "FK611"),
        (lambda p: broken(p, "manifest.json", b"[1]"), "FK611"),
        (lambda p: broken(p, "manifest.json", b"\xff\xfe"), "FK611"),
        (lambda p: broken(p, "manifest.json", b'{"format": 99}'), "FK613"),
        (lambda p: (p / "config.yaml").unlink(), "FK612"),
        (lambda p: broken(p, "config.yaml", b"a: [1"), "FK611"),
        (lambda p: (p / "metrics.jsonl").unlink(), "FK612"),
        (lambda p: broken(p, "metrics.jsonl", b'{"round": 0}\nnot json\n{"round": 2}\n'), "FK611"),
        (lambda p: (p / "result.json").unlink(), "FK612"),
        (lambda p: broken(p, "result.json", b"nope"), "FK611"),
        (lambda p: broken(p, "manifest.json", b'{"format": 1}'), "FK611"),
        (lambda p: broken(p, "metrics.jsonl", b'{"round": 0}\n{}\n'), "FK611"),
        (lambda p: broken(p, "metrics.jsonl", b'{"round": 0}\n[1]\n'), "FK611"),
    ],
)
def test_broken_directory_is_refused_with_its_code(make_run, spoil, code):
    path = make_run("seeded")
    spoil(path)
    with pytest.raises(RunError) as caught:
        read_run(path)
    assert caught.value.code == code
    assert path.name in str(caught.value)


def test_folder_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(RunError, match="is not a directory") as caught:
        read_run(tmp_path / "nowhere")
    assert caught.value.code == "FK610"


def test_pickled_predictions_are_never_loaded(make_run):
    path = make_run("seeded")
    np.savez(path / "predictions.npz", **{"a.y": np.array([{"x": 1}], dtype=object), "a.scores": np.zeros(1)})
    view = read_run(path)
    assert dict(view.predictions) == {}
    assert "predictions.npz" in view.remarks[0]


@pytest.mark.parametrize("spoil", [lambda b: b[: len(b) // 2], lambda b: b"PK not a zip", lambda b: b""])
def test_torn_predictions_cost_the_curves_and_not_the_report(make_run, spoil):
    path = make_run("seeded")
    whole = (path / "predictions.npz").read_bytes()
    (path / "predictions.npz").write_bytes(spoil(whole))
    assert "left out" in read_run(path).remarks[0]
    assert "predictions.npz cannot be read" in write_report(path).read_text()


def test_counts_of_patients_are_no_metrics(make_run):
    path = make_run("seeded")
    result = json.loads((path / "result.json").read_text())
    result["sites"]["va"]["train_patients"] = 80
    (path / "result.json").write_text(json.dumps(result))
    assert "train_patients" not in read_run(path).metric_names
