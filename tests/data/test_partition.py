from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedkit.config.experiment import PartitionConfig
from fedkit.data.partition import partition_units
from fedkit.data.units import Units
from fedkit.errors import DataError
from fedkit.types import Task

BINARY = Task("binary", ("negative", "positive"))
KINDS = ("iid", "dirichlet", "quantity_skew")


def sites_of(icu, people, labels, task=BINARY, **changes):
    config = replace(icu, site_column=None, partition=replace(PartitionConfig("dirichlet", 3), **changes))
    units = Units(tuple(map(str, people)), np.arange(len(people)))
    return partition_units(config, task, units, np.array(labels))


@settings(max_examples=50, deadline=None)
@given(
    st.dictionaries(st.integers(0, 99), st.integers(0, 1), min_size=4, max_size=20),
    st.sampled_from(KINDS),
    st.integers(0, 9),
    st.sampled_from([0.001, 0.1, 1.0, 100.0]),
    st.integers(0, 1),
)
def test_adding_a_unit_moves_no_other(icu, people, kind, seed, alpha, label):
    before = sites_of(icu, people.keys(), list(people.values()), kind=kind, seed=seed, alpha=alpha)
    more = [100, *people.keys()], [label, *people.values()]
    after = sites_of(icu, *more, kind=kind, seed=seed, alpha=alpha)
    assert after[1:].tolist() == before.tolist()
    assert ((after >= 0) & (after < 3)).all()


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=4, max_size=12), st.floats(0, 1))
def test_adding_a_unit_moves_no_other_in_regression(icu, labels, added):
    task = Task("regression", range=(0, 60))
    before = sites_of(icu, range(len(labels)), labels, task)
    assert sites_of(icu, range(len(labels) + 1), [*labels, added], task)[:-1].tolist() == before.tolist()


def shares(icu, **changes):
    labels = np.arange(6000) % 2
    sites = sites_of(icu, range(6000), labels, **changes)
    return np.array([np.bincount(sites[labels == label], minlength=3) / 3000 for label in (0, 1)])


def test_iid_sites_are_alike(icu):
    assert np.allclose(shares(icu, kind="iid"), 1 / 3, atol=0.04)


def test_dirichlet_skews_labels_and_quantity_skew_does_not(icu):
    skewed, sized = shares(icu, kind="dirichlet", alpha=0.3), shares(icu, kind="quantity_skew", alpha=0.3)
    assert np.abs(skewed[0] - skewed[1]).max() > 0.2
    assert np.allclose(sized[0], sized[1], atol=0.04)
    assert np.abs(sized[0] - 1 / 3).max() > 0.2


def test_large_alpha_approaches_iid(icu):
    assert np.allclose(shares(icu, kind="dirichlet", alpha=1e6), 1 / 3, atol=0.04)


def test_seed_changes_the_partition(icu):
    assert (sites_of(icu, range(50), [0] * 50, seed=1) != sites_of(icu, range(50), [0] * 50, seed=2)).any()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"sites": 5}, "partition.sites is 5 and the table has 4 units"),
        ({"sites": 0}, "at least 1"),
        ({"alpha": 0.0}, "above 0"),
        ({"kind": "hospital"}, "not known"),
    ],
)
def test_impossible_partition_is_refused(icu, changes, told):
    with pytest.raises(DataError, match=told) as caught:
        sites_of(icu, range(4), [0, 1, 0, 1], **changes)
    assert caught.value.code == "FK216"
