import numpy as np
import pytest

from fedkit.training.metrics import MIN_CELL, concatenate, metric_names, metrics, subgroup_metrics
from fedkit.types import Predictions, Task

BINARY = Task("binary", ("no", "yes"))
MULTI = Task("multiclass", ("a", "b", "c"))
NUMBER = Task("regression", (), (10.0, 60.0))


def test_binary_metrics_match_hand_counts():
    found = metrics(BINARY, Predictions(np.array([0, 0, 1, 1]), np.array([0.1, 0.6, 0.5, 0.9])))
    assert found["accuracy"] == 0.75
    assert found["auroc"] == 0.75
    assert found["average_precision"] == pytest.approx(1 / 2 * 1 + 1 / 2 * 2 / 3)
    assert found["brier"] == pytest.approx((0.01 + 0.36 + 0.25 + 0.01) / 4)
    assert found["log_loss"] == pytest.approx(-np.log([0.9, 0.4, 0.5, 0.9]).mean())


def test_one_class_leaves_ranking_metrics_undefined_not_half():
    for label in (0, 1):
        found = metrics(BINARY, Predictions(np.full(6, label), np.linspace(0, 1, 6)))
        assert found["auroc"] is None and found["average_precision"] is None
        assert found["accuracy"] == 0.5
        assert np.isfinite(found["log_loss"])


def test_certain_and_wrong_is_finite():
    assert metrics(BINARY, Predictions(np.array([1]), np.array([0.0])))["log_loss"] == pytest.approx(-np.log(1e-15))


def test_multiclass_needs_every_class_for_auroc():
    scores = np.eye(3)[[0, 1, 2, 0]] * 0.7 + 0.1
    full = metrics(MULTI, Predictions(np.array([0, 1, 2, 0]), scores))
    assert full["accuracy"] == 1.0 and full["auroc"] == 1.0
    assert full["brier"] == pytest.approx(0.2**2 + 2 * 0.1**2)
    assert metrics(MULTI, Predictions(np.array([0, 1, 1, 0]), scores))["auroc"] is None


def test_regression_is_in_the_targets_own_units():
    y = np.array([0.0, 0.5, 1.0], dtype=np.float32)
    found = metrics(NUMBER, Predictions(y, y.astype(np.float64) + 0.1))
    assert found["rmse"] == pytest.approx(5.0)
    assert found["mae"] == pytest.approx(5.0)
    assert found["r2"] == pytest.approx(1 - 3 * 25 / (2 * 25**2))


@pytest.mark.parametrize("y", [np.full(5, 0.1, np.float32), np.array([0.3], np.float32)])
def test_r2_of_a_constant_target_is_undefined(y):
    assert metrics(NUMBER, Predictions(y, np.linspace(0, 1, len(y))))["r2"] is None


@pytest.mark.parametrize("task", [BINARY, MULTI, NUMBER])
def test_no_rows_leave_every_metric_undefined(task):
    shape = (0, 3) if task is MULTI else (0,)
    found = metrics(task, Predictions(np.zeros(0), np.zeros(shape)))
    assert found and set(found.values()) == {None}
    assert tuple(found) == metric_names(task)


def test_concatenation_gives_the_overall_metrics():
    a = Predictions(np.array([0, 1]), np.array([0.1, 0.9]))
    b = Predictions(np.array([1, 1]), np.array([0.4, 0.9]))
    assert metrics(BINARY, concatenate([a, b]))["accuracy"] == 0.75


def cells(**sizes):
    labels = np.concatenate([np.full(n, name) for name, n in sizes.items()])
    rng = np.random.default_rng(0)
    predictions = Predictions(rng.integers(0, 2, len(labels)), rng.random(len(labels)))
    found = subgroup_metrics(BINARY, predictions, labels)
    assert set(found) == set(sizes)
    for name, cell in found.items():
        assert cell == {"n": None, "suppressed": True} or cell["n"] == sizes[name]
    return {name for name, cell in found.items() if "suppressed" not in cell}


def test_small_cells_are_suppressed_and_cannot_be_subtracted_back():
    assert MIN_CELL == 10
    assert cells(a=30, b=40) == {"a", "b"}
    assert cells(a=30, b=9) == set()
    assert cells(a=30, b=40, c=9) == {"b"}
    assert cells(a=30, b=40, c=6, d=7) == {"a", "b"}
    assert cells(a=30, b=40, c=3, d=4) == {"b"}
    assert cells(a=10, b=10) == {"a", "b"}
    assert cells(a=3) == set()
