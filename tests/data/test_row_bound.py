from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedkit.config.check_data import check_data
from fedkit.config.experiment import PartitionConfig, SourceConfig, SplitConfig
from fedkit.data.load import dataset_of, load_dataset, load_site
from fedkit.data.row_bound import within_bound
from fedkit.errors import DataError

ROW = st.tuples(st.sampled_from("ns"), st.sampled_from("abc"), st.integers(20, 24), st.sampled_from("01"))
BASE = [("n", "z", 30, "0"), ("n", "y", 31, "1"), ("s", "x", 32, "1")]


def bounded(icu, most, **changes):
    features = replace(icu.features, numeric={"rate": (20.0, 250.0)})
    return replace(icu, unit_column="age", features=features, max_rows_per_unit=most, **changes)


def in_memory(table, given):
    region, person, rate, died = zip(*given, strict=True)
    texts = {"rate": [str(value) for value in rate], "gender": ["Male"] * len(given)}
    return table({"region": region, "age": person, **texts, "died": died})


def used(config, table, given):
    """(site, unit's rows) of what a run sees, a multiset of encoded rows for each site's unit."""
    found = Counter()
    for site in dataset_of(config, in_memory(table, given)).sites:
        for part in (site.train, site.test):
            for unit in range(part.num_units):
                mine = part.unit == unit
                rows = sorted(zip(map(bytes, part.x[mine]), part.y[mine].tolist(), strict=True))
                found[site.name, tuple(rows)] += 1
    return found


@settings(max_examples=60, deadline=None)
@given(st.lists(ROW, max_size=20), st.integers(1, 3), st.randoms(use_true_random=False))
def test_no_unit_uses_more_rows_than_the_bound_and_the_order_changes_nothing(icu, table, rows, most, shuffler):
    config, given = bounded(icu, most), [*BASE, *rows]
    before = used(config, table, given)
    counts = Counter((row[0], row[1]) for row in given)
    assert Counter((site, len(unit)) for (site, unit), times in before.items() for _ in range(times)) == Counter(
        (site, min(count, most)) for (site, _), count in counts.items()
    )
    shuffled = list(given)
    shuffler.shuffle(shuffled)
    assert used(config, table, shuffled) == before


@settings(max_examples=60, deadline=None)
@given(st.lists(ROW, max_size=15), st.lists(ROW, min_size=1, max_size=6), st.integers(0, 15))
def test_adding_a_unit_changes_no_other_units_rows(icu, table, rows, added, position):
    config, given = bounded(icu, 2), [*BASE, *rows]
    new = [("n", "new", *row[2:]) for row in added]
    before = used(config, table, given)
    after = used(config, table, [*given[:position], *new, *given[position:]])
    gained = after - before
    assert not before - after
    ((site, unit),) = gained.elements()
    assert (site, len(unit)) == ("n", min(len(new), 2))


def test_a_patient_of_two_sites_is_bounded_at_each(icu, table):
    given = [*BASE, *[(region, "both", 40 + k, "1") for region in "ns" for k in range(5)]]
    sizes = Counter((site, len(unit)) for site, unit in used(bounded(icu, 3), table, given).elements())
    assert sizes == {("n", 1): 2, ("s", 1): 1, ("n", 3): 1, ("s", 3): 1}


def test_rows_that_are_not_used_anyway_take_no_place(icu, table):
    unusable = [("n", "z", 50 + k, "") for k in range(9)]
    assert used(bounded(icu, 1), table, [*BASE, *unusable]) == used(bounded(icu, None), table, BASE)


def test_which_rows_are_kept_depends_on_the_seed_and_favours_none(icu, table):
    rows = [("n", "z", 20 + k, "0") for k in range(10)] + BASE[1:]
    kept = Counter()
    for seed in range(300):
        (unit,) = [
            unit
            for site, unit in used(bounded(icu, 3, split=SplitConfig(seed=seed)), table, rows).elements()
            if len(unit) == 3
        ]
        kept.update(x for x, _ in unit)
    # 300 draws of 3 in 10: 90 each, standard deviation 7.9.
    assert len(kept) == 10
    assert all(55 < count < 125 for count in kept.values())


def test_the_bound_is_the_same_for_a_site_alone_and_is_told(csv):
    generator = random.Random(0)
    lines = [
        f"{region},{generator.randrange(8)},{generator.randrange(20, 200)},Male,{k % 2}"
        for region in ("north", "south")
        for k in range(60)
    ]
    config = csv("region,age,rate,gender,died\n" + "\n".join(lines) + "\n")
    config = bounded(config, 3, source=config.source)
    dataset = load_dataset(config, private=True)
    counts = Counter(tuple(line.split(",")[:2]) for line in lines)
    dropped = sum(max(0, count - 3) for count in counts.values())
    assert f"{dropped} rows beyond data.max_rows_per_unit=3 of their units are left out" in dataset.warnings
    for site in dataset.sites:
        alone = load_site(config, site.name, private=True)
        for one, other in ((alone.train, site.train), (alone.test, site.test)):
            assert one.x.tobytes() == other.x.tobytes()
            assert one.unit.tolist() == other.unit.tolist()
            assert np.bincount(one.unit).max() <= 3


def test_a_partition_keeps_the_bound(icu, table):
    given = [(("n", "s")[k % 2], "abc"[k % 3], 20 + k, str(k % 2)) for k in range(30)]
    config = bounded(icu, 4, site_column=None, partition=PartitionConfig("iid", 2))
    assert [len(unit) for _, unit in used(config, table, given).elements()] == [4, 4, 4]


@pytest.mark.parametrize("size", [0, 1, 5])
def test_few_rows_are_all_used_and_nothing_is_asked_of_them(size):
    def never(rows):
        raise AssertionError

    kept, told = within_bound(np.zeros(size, dtype=np.int64), never, max(size, 1), 1)
    assert kept.all()
    assert told == ()


def test_equal_rows_of_one_unit_are_told_apart_by_their_number():
    kept, _ = within_bound(np.zeros(50, dtype=np.int64), lambda rows: ["same"] * len(rows), 7, 1)
    assert kept.sum() == 7


@pytest.mark.parametrize(("most", "unit"), [(0, "age"), (-2, "age"), (3, None)])
def test_impossible_bound_is_refused_by_the_config_and_by_the_loader(icu, table, most, unit):
    config = replace(bounded(icu, most), unit_column=unit, source=SourceConfig("csv", path="/none.csv"))
    (problem,) = check_data(config)
    assert problem.startswith(f"data.max_rows_per_unit is {most}")
    assert "null" in problem
    with pytest.raises(DataError, match="max_rows_per_unit") as caught:
        load_dataset(config, private=True)
    assert caught.value.code == "FK218"


def test_bound_of_arrays_needs_no_column(icu):
    config = replace(bounded(icu, 3), unit_column=None, source=SourceConfig("arrays"))
    assert check_data(config, python=True) == []
    assert len(check_data(replace(config, max_rows_per_unit=0), python=True)) == 1
