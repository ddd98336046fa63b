import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from fedkit.training.ranking import auroc, average_precision


@given(st.lists(st.tuples(st.booleans(), st.sampled_from([0.0, 0.1, 0.5, 1.0, 1e-300]) | st.floats(0, 1)), min_size=2))
def test_they_are_those_of_scikit_learn(rows):
    y, scores = np.array([int(row[0]) for row in rows]), np.array([row[1] for row in rows])
    if 0 < y.sum() < len(y):
        assert auroc(y, scores) == pytest.approx(roc_auc_score(y, scores), rel=1e-12, abs=1e-15)
        assert average_precision(y, scores) == pytest.approx(average_precision_score(y, scores), rel=1e-12)
        assert auroc(y == 1, scores) == auroc(y, scores)


def test_order_of_rows_and_a_monotone_map_change_nothing():
    draw = np.random.default_rng(1)
    y, scores = draw.integers(0, 2, 500), np.round(draw.random(500), 2)
    mixed = draw.permutation(500)
    assert auroc(y[mixed], scores[mixed]) == auroc(y, scores) == auroc(y, scores**3)
    assert auroc(1 - y, scores) == pytest.approx(1 - auroc(y, scores), rel=1e-12)
    assert average_precision(y[mixed], scores[mixed]) == pytest.approx(average_precision(y, scores), rel=1e-14)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("metric", [auroc, average_precision])
def test_scores_that_are_no_numbers_are_refused(metric, bad):
    with pytest.raises(ValueError, match="finite"):
        metric(np.array([0, 1]), np.array([0.5, bad]))
