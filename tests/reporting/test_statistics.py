"""ROC and calibration against independent definitions."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fedkit.reporting.statistics import SMALL, calibration, roc
from fedkit.types import Predictions


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1), st.integers(0, 8)), min_size=2, max_size=40))
def test_area_under_the_curve_is_the_chance_of_ranking_right(rows):
    y, scores = np.array([r[0] for r in rows]), np.array([r[1] / 8 for r in rows])
    curve = roc(Predictions(y, scores))
    cases, controls = scores[y == 1], scores[y == 0]
    if not len(cases) or not len(controls):
        assert curve is None
        return
    wins = (cases[:, None] > controls).mean() + 0.5 * (cases[:, None] == controls).mean()
    assert np.isclose(np.trapezoid(curve[1], curve[0]), wins)


def test_a_class_without_rows_leaves_multiclass_roc_undefined():
    scores = np.full((6, 3), 1 / 3)
    assert roc(Predictions(np.array([0, 0, 1, 1, 0, 1]), scores)) is None
    assert roc(Predictions(np.array([0, 2, 1, 1, 0, 2]), scores)) is not None


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 250))
def test_no_calibration_bin_is_smaller_than_a_shown_cell(n):
    rng = np.random.default_rng(n)
    scores, y = rng.uniform(size=n), rng.integers(0, 2, n)
    bins = calibration(Predictions(y, scores), "binary")
    if n < SMALL:
        assert bins is None
    else:
        assert 1 <= len(bins[0]) <= min(10, n // SMALL)
        assert (np.diff(bins[0]) >= 0).all()
