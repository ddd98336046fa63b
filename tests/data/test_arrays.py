from __future__ import annotations

import hashlib
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedkit.data import arrays as module
from fedkit.data.array_values import contents
from fedkit.data.arrays import from_arrays
from fedkit.errors import DataError
from fedkit.types import Task


def arrays(data, task=None):
    return from_arrays(data, task, test_fraction=0.25, seed=3)


def images(count=40):
    generator = np.random.default_rng(0)
    return generator.random((count, 1, 4, 4)), np.arange(count) % 2


def test_images_keep_their_shape_and_sites_their_order():
    dataset = arrays({"south": images(), "north": images(20)})
    assert dataset.input_shape == (1, 4, 4)
    assert dataset.feature_names == ()
    assert [site.name for site in dataset.sites] == ["south", "north"]
    assert (dataset.split, dataset.unit, dataset.task.kind) == ("keyed_hash", "record", "binary")
    site = dataset.sites[0]
    assert len(site.train) + len(site.test) == 40 == site.records
    assert not site.records_declared
    assert site.train.x.dtype == np.float32
    assert site.train.y.dtype == np.int64


@pytest.mark.parametrize(
    ("y", "kind", "outputs"),
    [([0, 1], "binary", 1), ([True, False], "binary", 1), ([0, 2], "multiclass", 3), (np.uint8([1, 0]), "binary", 1)],
)
def test_task_follows_from_whole_numbers(y, kind, outputs):
    task = arrays({"a": (np.ones((2, 3)), y)}).task
    assert (task.kind, task.num_outputs) == (kind, outputs)


def test_regression_is_scaled_by_its_range():
    (site,) = arrays({"a": (np.ones((3, 1)), [0.0, 30, 99])}, Task("regression", range=(0, 60))).sites
    y = np.concatenate([site.train.y, site.test.y])
    assert y.dtype == np.float32
    assert sorted(y.tolist()) == [0, 0.5, 1]


def test_torch_tensors_are_taken_as_numpys():
    x, y = images()
    tensors = {"a": (torch.tensor(x, requires_grad=True), torch.tensor(y)[:, None])}
    assert arrays(tensors).fingerprints == arrays({"a": (x, y)}).fingerprints


# Few values, so that rows are alike in all but one part; labels that would be alike if they were run together.
ROW = st.tuples(st.integers(0, 1), st.integers(0, 1), st.sampled_from(["", "a", "ab", "a\0"]), st.sampled_from("ab"))


@settings(max_examples=200, deadline=None)
@given(st.lists(ROW, min_size=1, max_size=14), ROW, st.integers(0, 14), st.integers(0, 3))
def test_adding_a_row_moves_no_other(given_rows, added, at, seed):
    def parts(rows):
        x, y, ward, sex = zip(*rows, strict=True)
        data = {"x": np.array(x)[:, None], "y": y, "subgroups": {"ward": ward, "sex": sex}}
        (site,) = from_arrays(
            {"a": data}, Task("regression", range=(0, 1)), test_fraction=0.5, seed=seed, private=True, records={"a": 99}
        ).sites
        for part in (site.train, site.test):
            groups = (part.subgroups["ward"].tolist(), part.subgroups["sex"].tolist())
            yield Counter(zip(part.x[:, 0].tolist(), part.y.tolist(), *groups, strict=True))

    before, after = parts(given_rows), parts([*given_rows[:at], added, *given_rows[at:]])
    changes = [(old - new, new - old) for old, new in zip(before, after, strict=True)]
    assert not any(gone for gone, _ in changes)
    x, y, ward, sex = added
    assert sum((new for _, new in changes), Counter()) == Counter([(x, y, ward.rstrip("\0"), sex)])


def test_ids_that_differ_in_a_last_nul_are_two_units():
    owned = {"x": np.eye(4), "y": [0, 1, 0, 1], "unit": ["a", "a\0", "b", "c"]}
    for unit in (owned["unit"], np.array(owned["unit"], dtype=object)):
        (site,) = arrays({"a": {**owned, "unit": unit}}).sites
        assert site.records == 4


def test_units_and_subgroups_follow_their_rows():
    owners = np.repeat(np.arange(20), 2)
    x = np.arange(40.0)[:, None]
    groups = {"sex": np.where(owners % 2 == 0, "f", "m")}
    dataset = arrays({"a": {"x": x, "y": owners % 2, "unit": owners, "subgroups": groups}})
    (site,) = dataset.sites
    assert dataset.unit == "patient"
    assert site.records == 20 == site.train.num_units + site.test.num_units
    assert not set((site.train.x // 2).ravel()) & set((site.test.x // 2).ravel())
    assert site.test.subgroups["sex"].tolist() == ["f" if value // 2 % 2 == 0 else "m" for value in site.test.x.ravel()]


def test_given_test_set_is_used_as_it_is():
    x, y = images()
    dataset = arrays({"a": {"x": x[:30], "y": y[:30], "x_test": x[30:], "y_test": y[30:]}})
    (site,) = dataset.sites
    assert (len(site.train), len(site.test), site.records, dataset.split) == (30, 10, 40, "given")


def test_given_test_set_needs_no_hash_of_a_row(monkeypatch):
    x, y = images()
    hashed = []
    monkeypatch.setattr(module, "contents", lambda *given: hashed.append(1) or contents(*given))
    arrays({"a": {"x": x, "y": y, "x_test": x[:9], "y_test": y[:9]}})
    assert not hashed
    arrays({"a": (x, y)})
    assert hashed


@pytest.mark.parametrize("shape", [(2500, 3), (7, 1, 4, 4), (3, 0), (0, 2)])
def test_a_rows_text_is_the_hash_of_its_bytes(shape):
    x = np.random.default_rng(1).random(shape, np.float32)
    y = np.arange(len(x))
    for laid_out in (x, np.asfortranarray(x), np.repeat(x, 2, axis=0)[::2]):
        assert contents(laid_out, y) == [
            hashlib.sha256(row.tobytes() + label.tobytes()).hexdigest() for row, label in zip(x, y, strict=True)
        ]


def test_declared_share_stays_a_constant_whatever_test_set_is_given():
    x, y = images()
    for cut in (10, 30):
        assert arrays({"a": {"x": x[:cut], "y": y[:cut], "x_test": x[cut:], "y_test": y[cut:]}}).test_fraction == 0.25


def test_private_run_never_counts_classes_in_the_data():
    task = Task("binary", ("no", "yes"))
    kept = {"test_fraction": 0.25, "seed": 3, "private": True}
    with pytest.raises(DataError, match="classes to be counted") as caught:
        from_arrays({"a": images()}, None, **kept)
    assert "pass task=fedkit.Task('binary'" in caught.value.remedy
    assert from_arrays({"a": images()}, task, **kept).task == task


@pytest.mark.parametrize("owners", [[1, None], ["1", ""], [1.0, np.nan], ["1", "None"]])
@pytest.mark.parametrize("part", ["", "_test"])
def test_missing_id_is_refused(owners, part):
    parts = {"x": GOOD[0], "y": GOOD[1], "x_test": GOOD[0], "y_test": GOOD[1], "unit": [7, 8], f"unit{part}": owners}
    with pytest.raises(DataError, match=f"a: unit{part} is empty or missing in 1 rows") as caught:
        arrays({"a": parts})
    assert caught.value.code == "FK214"


def test_units_are_of_all_sites_or_of_none():
    owned = {"x": GOOD[0], "y": GOOD[1], "unit": [1, 2]}
    with pytest.raises(DataError, match="a unit at a and none at b"):
        arrays({"a": owned, "b": GOOD})
    assert arrays({"a": owned, "b": {**owned, "unit": [3, 4]}}).warnings == ()
    assert arrays({"a": owned, "b": {**owned, "unit": ["2", "5"]}}).warnings[0].startswith("1 patient has records at")


def test_name_that_no_site_can_have_is_refused():
    with pytest.raises(DataError, match=r"'a\\nb' holds a control") as caught:
        arrays({"a\nb": GOOD})
    assert caught.value.code == "FK213"


GOOD = (np.ones((2, 3)), [0, 1])


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ({}, "no mapping with at least one site"),
        ([GOOD], "no mapping"),
        ({"a": np.ones((2, 3))[0]}, "neither"),
        ({"a": {"x": GOOD[0]}}, "a: there is no y"),
        ({"a": {"x": GOOD[0], "y": GOOD[1], "z": 1}}, "key z is not known"),
        ({"a": {"x": GOOD[0], "y": GOOD[1], "x_test": GOOD[0]}}, "only one of x_test and y_test"),
        ({"a": (np.ones((3, 3)), [0, 1])}, "a: y has 2 entries and x 3 rows"),
        ({"a": (np.ones(2), [0, 1])}, "must be \\[rows, features"),
        ({"a": (np.ones((2, 3)), [[0, 1], [1, 0]])}, "y has shape"),
        ({"a": (np.array([[np.nan], [1]]), [0, 1])}, "NaN or infinity in 1 rows, first in row 0"),
        ({"a": (np.array([[1], [1e300]]), [0, 1])}, "NaN or infinity in 1 rows, first in row 1"),
        ({"a": (np.array([["x"], ["y"]]), [0, 1])}, "not numbers"),
        ({"a": ([[1], [1, 2]], [0, 1])}, "x is no array"),
        ({"a": (np.ones((2, 3)), [0.0, 1.0])}, "y of floats"),
        ({"a": (np.ones((2, 3)), [-1, 1])}, "label -1"),
        ({"a": (np.ones((2, 3)), [0, 10**6])}, "no class index"),
        ({"a": (np.ones((2, 3)), [1, 1])}, "one class everywhere"),
        ({"a": GOOD, "b": (np.ones((2, 4)), [0, 1])}, "different shapes"),
        ({"a": GOOD, "a ": GOOD}, "names a site twice"),
        ({"a": (np.ones((0, 3)), np.zeros(0, dtype=int))}, "no rows"),
        ({"a": {"x": GOOD[0], "y": GOOD[1], "unit": [1]}}, "unit has 1 entries"),
        ({"a": {"x": GOOD[0], "y": GOOD[1], "subgroups": {"sex": ["f"]}}}, "1 entries"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(data, told):
    with pytest.raises(DataError, match=told) as caught:
        arrays(data)
    assert caught.value.code == "FK217"


@pytest.mark.parametrize(
    ("y", "task", "told"),
    [
        ([0, 2], Task("binary", ("n", "p")), "not 0 .. 1"),
        ([0.5, 1], Task("binary", ("n", "p")), "not 0 .. 1"),
        ([0, 1], Task("regression"), "without a usable range"),
        ([0, 1], Task("regression", range=(0, 5e-324)), "without a usable range"),
        ([0, np.nan], Task("regression", range=(0, 1)), "NaN"),
    ],
)
def test_labels_that_do_not_fit_the_task_are_refused(y, task, told):
    with pytest.raises(DataError, match=told):
        arrays({"a": (np.ones((2, 3)), y)}, task)


def test_unit_in_both_parts_is_refused():
    parts = {"x": GOOD[0], "y": GOOD[1], "unit": [1, 2], "x_test": GOOD[0], "y_test": GOOD[1], "unit_test": [2, 3]}
    with pytest.raises(DataError, match="1 units are in both"):
        arrays({"a": parts})


def test_declared_counts_of_arrays_stand_for_the_true_ones_and_stop_a_private_run_that_has_more():
    task, kept = Task("binary", ("no", "yes")), {"test_fraction": 0.25, "seed": 3}
    data = {"a": images(), "b": images(20)}
    dataset = from_arrays(data, task, **kept, private=True, records={"a": 50, "b": 20, "cleveland": 9})
    assert [(site.records, site.records_declared) for site in dataset.sites] == [(50, True), (20, True)]
    assert dataset.warnings == ("a has 40 units; records declares 50: it trains with the declared constants",)
    assert not any(site.records_declared for site in from_arrays(data, task, **kept, records={"c": 9}).sites)
    with pytest.raises(DataError, match="declares no count of b"):
        from_arrays(data, task, **kept, records={"a": 50})
    with pytest.raises(DataError, match="a has 40 units and declares 39; b has 20 units and declares 19") as caught:
        from_arrays(data, task, **kept, private=True, records={"a": 39, "b": 19})
    assert caught.value.code == "FK222"
    assert len(from_arrays(data, task, **kept, records={"a": 39, "b": 19}).sites) == 2


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 4), st.sampled_from("vw")), min_size=1, max_size=25),
    st.integers(1, 3),
    st.randoms(use_true_random=False),
)
def test_rows_of_a_unit_are_bounded_alike_in_any_order(rows, most, shuffler):
    def kept(given):
        owners, values, wards = zip(*given, strict=True)
        x = np.array([values, owners], dtype=float).T
        data = {"a": {"x": x, "y": x[:, 0], "unit": owners, "subgroups": {"ward": wards}}}
        task = Task("regression", range=(0, 4))
        dataset = from_arrays(data, task, test_fraction=0.5, seed=1, max_rows_per_unit=most)
        found = []
        for part in (dataset.sites[0].train, dataset.sites[0].test):
            assert not len(part) or np.bincount(part.unit).max() <= most
            found += [(*x, ward) for x, ward in zip(part.x.tolist(), part.subgroups["ward"].tolist(), strict=True)]
        return sorted(found), dataset.warnings

    owners = [owner for owner, *_ in rows]
    found, warnings = kept(rows)
    assert len(found) == sum(min(most, owners.count(owner)) for owner in set(owners))
    assert bool(warnings) == (len(found) < len(rows))
    shuffled = list(rows)
    shuffler.shuffle(shuffled)
    assert kept(shuffled)[0] == found


def test_bound_of_rows_follows_their_values_in_a_given_test_set_too():
    x = np.arange(40.0)[:, None]
    y = np.arange(40) % 2
    order = np.random.default_rng(1).permutation(40)

    def kept(order):
        parts = {"x": x[order], "y": y[order], "unit": (x[order, 0] // 10).astype(int)}
        tested = {"x_test": x[order] + 100, "y_test": y[order], "unit_test": (x[order, 0] // 20).astype(int) + 50}
        dataset = from_arrays({"a": {**parts, **tested}}, None, test_fraction=0.25, seed=3, max_rows_per_unit=3)
        (site,) = dataset.sites
        assert (np.bincount(site.train.unit).tolist(), np.bincount(site.test.unit).tolist()) == ([3] * 4, [3] * 2)
        assert dataset.warnings == (
            "a: 28 rows beyond data.max_rows_per_unit=3 of their units are left out",
            "a: 34 rows beyond data.max_rows_per_unit=3 of their units are left out",
        )
        return sorted(site.train.x.ravel()), sorted(site.test.x.ravel())

    assert kept(order) == kept(np.arange(40))


@pytest.mark.parametrize(("most", "unit"), [(0, [1, 2]), (2, None)])
def test_impossible_bound_of_rows_is_refused(most, unit):
    with pytest.raises(DataError, match=f"max_rows_per_unit={most}") as caught:
        from_arrays(
            {"a": {"x": GOOD[0], "y": GOOD[1], "unit": unit}}, None, test_fraction=0.25, seed=1, max_rows_per_unit=most
        )
    assert caught.value.code == "FK217"
