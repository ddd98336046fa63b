from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import replace
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedkit.config.experiment import SplitConfig
from fedkit.data.split import held_out, require_private
from fedkit.data.units import Units, units_of
from fedkit.errors import DataError

ROW = st.tuples(st.sampled_from("ns"), st.integers(0, 3), st.sampled_from("01"), st.integers(0, 5))


def parts(icu, table, rows, unit_column):
    """Multiset of (unit's content, part), for the rows of a table without and with a unit column."""
    regions, ages, died, people = zip(*rows, strict=True)
    count = len(rows)
    columns = {"region": regions, "age": ages, "rate": ["50"] * count, "gender": ["Male"] * count, "died": died}
    config = replace(icu, unit_column=unit_column)
    units = units_of(config, table({**columns, "person": people}))
    return units, held_out(SplitConfig(test_fraction=0.5), units, None)


@settings(max_examples=50, deadline=None)
@given(st.lists(ROW, min_size=1, max_size=12), ROW, st.integers(0, 12))
def test_adding_a_row_moves_no_other(icu, table, rows, added, position):
    def counts(given):
        _, marked = parts(icu, table, given, None)
        found = defaultdict(list)
        for row, tested in zip(given, marked, strict=True):
            found[row[:3]].append(bool(tested))
        return {row: (tested.count(True), tested.count(False)) for row, tested in found.items()}

    before, after = counts(rows), counts([*rows[:position], added, *rows[position:]])
    # Rows of equal values are one another's equals: what counts is how many of them are in each part.
    moved = [row for row in before if before[row] != after[row]]
    assert moved in ([], [added[:3]])
    gained = np.subtract(after[added[:3]], before.get(added[:3], (0, 0)))
    assert sorted(gained.tolist()) == [0, 1]


@settings(max_examples=50, deadline=None)
@given(st.lists(ROW, min_size=1, max_size=12), st.lists(ROW, min_size=1, max_size=3))
def test_adding_a_unit_of_several_rows_moves_no_other(icu, table, rows, added):
    new = [(*row[:3], 99) for row in added]
    units, marked = parts(icu, table, rows, "person")
    _, after = parts(icu, table, [*new, *rows], "person")
    assert after[len(new) :].tolist() == marked.tolist()
    assert len(set(after[: len(new)].tolist())) == 1
    assert len(units) == len({row[3] for row in rows})


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=30),
    st.sampled_from(["keyed_hash", "permuted", "stratified"]),
    st.integers(0, 99),
)
def test_unit_never_straddles_the_split(owners, kind, seed):
    distinct, of_row = np.unique(owners, return_inverse=True)
    units = Units(tuple(map(str, distinct)), of_row.astype(np.int64))
    marked = held_out(SplitConfig(kind, 0.4, seed), units, np.arange(len(owners)) % 2)
    for unit in range(len(units)):
        assert len(set(marked[units.of_row == unit].tolist())) == 1


def test_share_of_test_units_is_near_the_fraction():
    units = Units(tuple(map(str, range(4000))), np.arange(4000))
    for fraction in (0.1, 0.34):
        assert held_out(SplitConfig(test_fraction=fraction), units, None).mean() == pytest.approx(fraction, abs=0.03)


def test_seed_changes_the_split():
    units = Units(tuple(map(str, range(100))), np.arange(100))
    first, second = (held_out(SplitConfig(seed=seed), units, None) for seed in (1, 2))
    assert (first != second).any()


@pytest.mark.parametrize("kind", ["permuted", "stratified"])
@pytest.mark.parametrize("count", [0, 1, 2])
def test_tiny_site_is_split_without_failing(kind, count):
    units = Units(tuple(map(str, range(count))), np.arange(count))
    marked = held_out(SplitConfig(kind, 0.34), units, np.zeros(count, dtype=np.int64))
    assert marked.sum() == max(count - 1, 0)


def test_stratified_split_keeps_the_shares_of_the_classes():
    units = Units(tuple(map(str, range(100))), np.arange(100))
    labels = np.repeat([0, 1], [80, 20])
    marked = held_out(SplitConfig("stratified", 0.25), units, labels)
    assert (marked[labels == 1].sum(), marked.sum()) == (5, 25)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"split": SplitConfig("stratified")}, "stratified"),
        ({"split": SplitConfig("permuted")}, "permuted"),
        ({"scaling": "site_zscore"}, "site_zscore"),
        ({"scaling": "pooled_zscore"}, "pooled_zscore"),
    ],
)
def test_private_run_refuses_what_depends_on_other_records(icu, changes, told):
    require_private(icu)
    with pytest.raises(DataError, match=told) as caught:
        require_private(replace(icu, **changes))
    assert caught.value.code == "FK215"


@pytest.mark.parametrize("split", [SplitConfig("random"), SplitConfig(test_fraction=1.0), SplitConfig("stratified")])
def test_impossible_split_is_refused(split):
    with pytest.raises(DataError, match="split"):
        held_out(split, Units(("a",), np.zeros(1, dtype=np.int64)), None)


@pytest.mark.parametrize("fraction", [0.1, 0.3, 0.34, 0.7])
@pytest.mark.parametrize("count", [10, 50, 100])
def test_test_units_are_counted_up_as_decimals_are(fraction, count):
    units = Units(tuple(map(str, range(count))), np.arange(count))
    marked = held_out(SplitConfig("permuted", fraction), units, None)
    assert marked.sum() == math.ceil(Decimal(str(fraction)) * count)
