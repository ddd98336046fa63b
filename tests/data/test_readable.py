from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedkit.config.experiment import TargetConfig
from fedkit.data.load import load_dataset, load_site, load_site_dataset
from fedkit.data.readable import empty_table, readable
from fedkit.errors import DataError

CELL = st.sampled_from(["1", "60", "1e300", "-inf", "inf", "NaN", "nan", "forty", "", "?", "1e999", "0x1", "½"])
GENDER = st.sampled_from(["Male", "Female", "male", "", "NaN"])
DIED = st.sampled_from(["0", "1", "2", "", "NaN", "yes"])
ROW = st.tuples(CELL, CELL, GENDER, DIED).map(",".join)
TARGETS = (
    TargetConfig("died", "binary", positive=(1,)),
    TargetConfig("died", "multiclass", classes=(0, 1)),
    TargetConfig("died", "regression", range=(0.0, 2.0)),
)


@settings(max_examples=40, deadline=None)
@given(st.lists(ROW, max_size=8), st.sampled_from(TARGETS), st.sampled_from(["midpoint", "drop_row"]))
def test_no_cell_stops_a_private_site_from_giving_data(tmp_path_factory, icu, lines, target, numeric):
    path = tmp_path_factory.mktemp("own") / "icu.csv"
    path.write_text("age,rate,gender,died\n" + "".join(f"{line}\n" for line in lines), encoding="utf-8")
    source = replace(icu.source, path=str(path))
    missing = replace(icu.missing, numeric=numeric)
    config = replace(icu, source=source, site_column=None, target=target, missing=missing, records={"north": 20})
    site = load_site(config, "north", private=True)
    assert (site.records, site.records_declared) == (20, True)
    for part in (site.train, site.test):
        assert part.x.shape[1:] == (4,)
        assert (part.x.dtype, part.y.dtype) == (np.float32, np.float32 if target.kind == "regression" else np.int64)
        assert np.isfinite(part.x).all()
        assert np.abs(part.x).max(initial=0) <= 1
    assert len(site.train) + len(site.test) <= len(lines)


@settings(max_examples=40, deadline=None)
@given(st.lists(ROW, min_size=1, max_size=6), st.integers(0, 6), ROW, st.sampled_from(TARGETS))
def test_what_becomes_of_a_row_follows_from_that_row_alone(icu, table, lines, position, added, target):
    config = replace(icu, target=target, site_column=None)

    def texts(given):
        cells = zip(*(line.split(",") for line in given), strict=True)
        columns = dict(zip(("age", "rate", "gender", "died"), cells, strict=True))
        cleaned, _ = readable(config, table(columns))
        return [
            tuple(column.values[column.codes[row]] for column in cleaned.columns.values())
            for row in range(len(cleaned))
        ]

    before, after = texts(lines), texts([*lines[:position], added, *lines[position:]])
    after.pop(min(position, len(lines)))
    assert after == before


def test_site_without_a_row_is_a_site(csv):
    for text in ("region,age,rate,gender,died\n", "", "\n"):
        config = csv(text, records={"north": 30, "south": 5})
        dataset = load_site_dataset(config, "north", private=True)
        (site,) = dataset.sites
        assert (len(site.train), len(site.test), site.records) == (0, 0, 30)
        assert site.train.x.shape == (0, 4)
        assert dataset.input_shape == (4,)
        assert any("north has 0 units; records declares 30" in told for told in dataset.warnings)
        with pytest.raises(DataError):
            load_site(config, "north", private=False)
        with pytest.raises(DataError):
            load_dataset(config, private=True)


def test_declared_site_that_the_table_does_not_name_is_empty_and_a_misspelt_one_is_refused(rows):
    config = rows("south,30,80,Male,0", "south,31,80,Male,1", records={"north": 3, "south": 3})
    assert len(load_site(config, "north", private=True).train) == 0
    for site, private in (("north", False), ("nrth", True)):
        with pytest.raises(DataError, match=f"no rows of site '{site}'") as caught:
            load_site(config, site, private=private)
        assert caught.value.code == "FK213"


@pytest.mark.parametrize(
    ("lines", "code"),
    [
        (("north,1,80,Male,1", "north,2,80,Male,1"), "FK211"),
        (("north,,80,Male,1", "north,?,80,Male,0"), "FK212"),
        (("north,1,80,Male,", "north,2,80,Male,NA"), "FK202"),
        (("north,old,80,Male,1", "north,2,80,Male,0"), "FK210"),
    ],
)
def test_whole_simulation_still_refuses_what_nobody_can_learn_from(rows, lines, code):
    config = rows(*lines, records={"north": 2})
    with pytest.raises(DataError) as caught:
        load_dataset(config, private=True)
    assert caught.value.code == code
    load_site(config, "north", private=True)


def test_what_was_left_out_is_told_to_the_site(rows):
    config = rows(
        "north,old,80,Male,1", "north,inf,80,Male,0", "north,3,80,Male,x", "north,4,80,Male,1", unit_column="gender"
    )
    config = replace(
        config,
        target=TargetConfig("died", "multiclass", classes=(0, 1)),
        features=replace(config.features, categorical={}),
        missing=replace(config.missing, codes={"gender": ("Nobody",)}),
        records={"north": 4},
    )
    warnings = load_site_dataset(config, "north", private=True).warnings
    assert "age: 2 cells that cannot be read as declared count as missing" in warnings
    assert "died: 1 cell that cannot be read as declared counts as missing" in warnings
    assert "1 of 4 rows have no died and are left out" in warnings


def test_row_without_an_id_is_left_out_and_makes_no_patient(rows):
    config = rows("north,7,80,Male,1", "north,,80,Male,1", "north,null,90,Male,0", unit_column="age")
    config = replace(config, features=replace(config.features, numeric={"rate": (20, 250)}), records={"north": 3})
    dataset = load_site_dataset(config, "north", private=True)
    assert dataset.sites[0].train.num_units + dataset.sites[0].test.num_units == 1
    assert "2 rows have no age and are left out" in dataset.warnings
    with pytest.raises(DataError, match="empty or missing in 2 rows"):
        load_site(config, "north", private=False)


def test_a_table_that_can_be_read_is_left_as_it_is(icu, table):
    given = table({name: ["1", "60"] for name in ("region", "age", "rate", "died")} | {"gender": ["Male", "x"]})
    cleaned, told = readable(icu, given)
    assert told == ()
    assert cleaned.columns == given.columns
    assert len(empty_table(icu)) == 0
    assert set(empty_table(icu).columns) == set(given.columns)
