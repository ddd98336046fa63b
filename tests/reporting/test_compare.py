"""Comparisons: differences only, largest epsilon, plain JSON."""

from __future__ import annotations

import json

import pytest

from fedkit.errors import RunError
from fedkit.reporting.compare import compare


def test_only_differing_keys_are_listed(make_run, tmp_path):
    one = make_run("seeded", tmp_path / "a")
    two = make_run("seeded", tmp_path / "b", epsilon=1.0, overrides={"training.learning_rate": 0.5})
    assert dict(compare([one, two]).differences) == {
        "privacy.epsilon": (3.0, 1.0),
        "training.learning_rate": (0.1, 0.5),
    }


def test_equal_configs_have_no_differences(make_run, tmp_path):
    assert not compare([make_run("open", tmp_path / "a"), make_run("open", tmp_path / "b")]).differences


def test_runs_without_privacy_or_end_have_their_place(make_run):
    comparison = compare([make_run("open"), make_run("secure"), make_run("interrupted"), make_run("failed")])
    assert [r.max_epsilon for r in comparison.runs][:2] == [None, 2.98]
    assert [r.private for r in comparison.runs] == [False, True, False, False]
    assert [r.outcome for r in comparison.runs] == ["complete", "complete", "interrupted", "failed"]
    assert comparison.runs[3].overall == {}
    assert json.loads(json.dumps(comparison.to_dict(), allow_nan=False))["runs"][1]["adjacency"] == "add_remove"


def test_one_run_is_no_comparison(make_run):
    with pytest.raises(RunError, match="a comparison needs 2") as caught:
        compare([make_run("open")])
    assert caught.value.code == "FK620"
