import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from fedkit.config.compose import compose
from fedkit.data.encode import subgroup_names
from fedkit.data.load import load_dataset
from fedkit.errors import TrainingError
from fedkit.training.histograms import (
    MAX_CELLS,
    REST,
    HistogramSpec,
    bin_of,
    cells_of,
    confidence_edges,
    residual_edges,
    score_edges,
    specs_of,
)
from fedkit.types import Predictions, Task

BINARY = Task("binary", ("no", "yes"))
THREE = Task("multiclass", ("a", "b", "c"))
LENGTH = Task("regression", range=(10.0, 30.0))
SEX = {"sex": ("f", "m")}


def unravelled(spec, y, scores, labels=None):
    subgroups = {} if labels is None else {spec.subgroup: np.array(labels)}
    cells = cells_of(spec, Predictions(np.asarray(y), np.asarray(scores, dtype=np.float64)), subgroups)
    return [tuple(int(i) for i in cell) for cell in zip(*np.unravel_index(cells, spec.shape), strict=True)]


@pytest.mark.parametrize(
    ("task", "shapes"),
    [
        (BINARY, [(2, 10), (2, 2, 3), (2, 2, 4)]),
        (THREE, [(3, 3, 10), (2, 3), (2, 4)]),
        (LENGTH, [(5, 10), (10, 3), (10, 4)]),
    ],
)
def test_shapes_follow_from_the_declaration(task, shapes):
    specs = specs_of(task, {**SEX, "age": ["young", "middle", "old"]}, 10)
    assert [spec.shape for spec in specs] == shapes
    assert [spec.size for spec in specs] == [int(np.prod(shape)) for shape in shapes]
    assert [spec.subgroup for spec in specs] == [None, "sex", "age"]
    assert specs[1].levels == ("f", "m", REST)


@pytest.mark.parametrize(
    ("task", "shapes"), [(BINARY, [(2, 6), (2, 2)]), (THREE, [(3, 3, 6), (2,)]), (LENGTH, [(3, 6), (6,)])]
)
def test_one_fine_and_one_coarse_histogram_without_subgroups(task, shapes):
    assert [spec.shape for spec in specs_of(task, {}, 6)] == shapes


@pytest.mark.parametrize("bins", [2, 4, 6, 10, 20])
def test_one_half_is_an_edge_and_belongs_to_the_positive_side(bins):
    edges = score_edges(bins)
    assert len(edges) == bins + 1
    assert (np.diff(edges) > 0).all()
    assert bin_of(np.array([np.nextafter(0.5, 0), 0.5]), edges).tolist() == [bins // 2 - 1, bins // 2]
    assert edges + edges[::-1] == pytest.approx(np.ones(bins + 1))


def test_ends_of_the_score_lie_in_the_end_bins():
    assert bin_of(np.array([-3.0, 0.0, 1.0, 7.0]), score_edges(10)).tolist() == [0, 0, 9, 9]
    assert bin_of(np.array([1 / 3, 1.0]), confidence_edges(3, 4)).tolist() == [0, 3]
    assert bin_of(np.array([-2.0, -1e-9, 0.0, 2.0]), residual_edges(10)).tolist() == [0, 4, 5, 9]


def test_a_binary_row_lies_at_its_label_score_and_level():
    overall, sex = specs_of(BINARY, SEX, 4)
    assert unravelled(overall, [0, 1, 1], [0.1, 0.5, 0.99]) == [(0, 0), (1, 2), (1, 3)]
    assert unravelled(sex, [0, 1, 1], [0.1, 0.5, 0.99], ["f", "m", "m"]) == [(0, 0, 0), (1, 1, 1), (1, 1, 1)]


def test_a_multiclass_row_lies_at_its_label_prediction_and_confidence():
    overall, sex = specs_of(THREE, SEX, 4)
    scores = [[0.1, 0.2, 0.7], [0.4, 0.35, 0.25]]
    assert unravelled(overall, [2, 1], scores) == [(2, 2, 2), (1, 0, 0)]
    assert unravelled(sex, [2, 1], scores, ["f", "m"]) == [(1, 0), (0, 1)]


def test_a_regression_row_lies_at_its_target_and_clipped_residual():
    overall, sex = specs_of(LENGTH, SEX, 4)
    y, scores = np.array([0.0, 0.9], dtype=np.float32), [5.0, 0.85]
    assert unravelled(overall, y, scores) == [(0, 3), (1, 1)]
    assert unravelled(sex, y, scores, ["f", "m"]) == [(3, 0), (1, 1)]


@pytest.mark.parametrize("task", [BINARY, THREE, LENGTH], ids=lambda task: task.kind)
def test_missing_and_undeclared_levels_go_to_the_rest(task):
    spec = specs_of(task, SEX, 4)[1]
    labels = ["f", "missing", "other", "F", "", "m"]
    scores = np.full((6, 3) if task is THREE else 6, 0.3)
    found = unravelled(spec, np.zeros(6, dtype=np.int64), scores, labels)
    assert [cell[-1] for cell in found] == [0, 2, 2, 2, 2, 1]


@pytest.mark.parametrize("task", [BINARY, THREE, LENGTH], ids=lambda task: task.kind)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
def test_a_score_that_is_no_number_has_a_cell_of_its_own_row_only(task, bad):
    for spec in specs_of(task, SEX, 4):
        scores = np.full((3, 3) if task is THREE else 3, 0.3)
        clean = cells_of(spec, Predictions(np.zeros(3, dtype=np.int64), scores), {"sex": np.array(["f"] * 3)})
        scores[1] = bad
        found = cells_of(spec, Predictions(np.zeros(3, dtype=np.int64), scores), {"sex": np.array(["f"] * 3)})
        assert 0 <= found[1] < spec.size
        assert found[[0, 2]].tolist() == clean[[0, 2]].tolist()


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 30), st.integers(0, 2**20), st.sampled_from([BINARY, THREE, LENGTH]))
def test_a_cell_depends_on_its_own_row_alone(n, seed, task):
    rng = np.random.default_rng(seed)
    y = rng.random(n).astype(np.float32) if task is LENGTH else rng.integers(0, len(task.classes), n)
    scores = rng.random((n, 3) if task is THREE else n)
    labels = rng.choice(["f", "m", "other"], n)
    for spec in specs_of(task, SEX, 6):
        whole = cells_of(spec, Predictions(y, scores), {"sex": labels})
        single = [cells_of(spec, Predictions(y[i:][:1], scores[i:][:1]), {"sex": labels[i:][:1]})[0] for i in range(n)]
        assert whole.tolist() == single
        assert whole.dtype == np.int64
        assert 0 <= whole.min() <= whole.max() < spec.size


@pytest.mark.parametrize("task", [BINARY, THREE, LENGTH], ids=lambda task: task.kind)
def test_an_empty_site_has_no_cells_and_no_error(task):
    empty = Predictions(np.zeros(0), np.zeros((0, 3) if task is THREE else 0))
    for spec in specs_of(task, SEX, 4):
        assert cells_of(spec, empty, {}).shape == (0,)


def test_levels_are_those_of_the_encoded_data():
    config = compose("heart_disease", [])
    names = {name: subgroup_names(config.data, name) for name in config.data.subgroups}
    dataset = load_dataset(config.data, private=True)
    for spec in specs_of(dataset.task, names, 10)[1:]:
        for site in dataset.sites:
            predictions = Predictions(site.test.y, np.full(len(site.test), 0.2))
            cells = cells_of(spec, predictions, site.test.subgroups)
            levels = np.array(spec.levels)[np.unravel_index(cells, spec.shape)[2]]
            assert levels.tolist() == site.test.subgroups[spec.subgroup].tolist()


def test_binning_costs_as_little_auroc_as_stated():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 4000)
    scores = 1 / (1 + np.exp(-(rng.normal(size=4000) * 1.7 + 2.2 * (y - 0.5))))
    exact = roc_auc_score(y, scores)
    lost = {bins: exact - roc_auc_score(y, bin_of(scores, score_edges(bins))) for bins in (6, 10, 20)}
    assert lost[6] < 0.015 and lost[10] < 0.006 and lost[20] < 0.002


@pytest.mark.parametrize(
    ("task", "subgroups", "bins", "parted"),
    [
        (BINARY, {}, 5, 2),
        (BINARY, {}, 0, 2),
        (BINARY, SEX, 10, 3),
        (BINARY, {"sex": ("f", "f")}, 10, 2),
        (BINARY, {"sex": ("f", REST)}, 10, 2),
        (Task("multiclass", ("a",)), {}, 10, 2),
        (Task("multiclass", tuple(map(str, range(100)))), {}, 10, 2),
        (BINARY, {"zip": tuple(map(str, range(MAX_CELLS)))}, 10, 2),
    ],
)
def test_a_shape_that_cannot_be_is_refused(task, subgroups, bins, parted):
    with pytest.raises(TrainingError) as caught:
        specs_of(task, subgroups, bins, subgroup_bins=parted)
    assert caught.value.code == "FK413"


@pytest.mark.parametrize("subgroups", [{}, {"sex": np.array(["f"])}])
def test_arrays_that_do_not_fit_together_are_refused(subgroups):
    spec = specs_of(BINARY, SEX, 4)[1]
    with pytest.raises(TrainingError) as caught:
        cells_of(spec, Predictions(np.array([0, 1]), np.array([0.1, 0.2])), subgroups)
    assert caught.value.code == "FK414"
    with pytest.raises(TrainingError):
        cells_of(HistogramSpec(BINARY, 4), Predictions(np.array([0, 1]), np.array([0.1])), {})
