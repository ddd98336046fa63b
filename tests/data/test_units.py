from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedkit.config.experiment import FeaturesConfig, MissingConfig
from fedkit.data.table import canonical
from fedkit.data.units import Units, in_order_of_appearance, row_texts, shared_units, uniforms, units_of
from fedkit.errors import DataError

COLUMNS = {
    "region": ["n", "n", "s", "s"],
    "age": ["1", "1.0", "1", "2"],
    "rate": ["20", "20", "20", "20"],
    "gender": ["Male"] * 4,
    "died": ["1"] * 4,
    "person": ["7", "8", "7.0", "007"],
}


def test_equal_rows_of_a_site_are_numbered_and_the_site_is_no_part_of_an_id(icu, table):
    ids = units_of(icu, table(COLUMNS)).ids
    assert len({ids[0], ids[1], ids[3]}) == 3
    assert ids[2] == ids[0]


@given(
    st.lists(st.sampled_from(["1", "1", "\x1b1", "\x1b"]), min_size=2, max_size=6),
    st.sampled_from(["\x1f", "\x1f", "\x1b", "\x1b1"]),
    st.integers(1, 5),
    st.integers(1, 5),
)
def test_rows_have_one_text_only_where_every_value_is_the_same(icu, table, words, glue, cut, also):
    one, other = ((glue.join(words[:at]), glue.join(words[at:])) for at in (cut, also))
    config = replace(icu, features=FeaturesConfig({}, {"age": (), "gender": ()}))
    age, gender = zip(one, other, strict=True)
    first, second = row_texts(config, table({**COLUMNS, "region": "nn", "died": "11", "age": age, "gender": gender}))
    assert (first == second) == (tuple(map(canonical, one)) == tuple(map(canonical, other)))


def test_ids_of_texts_without_control_characters_are_joined_as_ever(icu, table):
    assert next(row_texts(icu, table(COLUMNS))) == "\x1f".join(("1", "1", "Male", "20"))


def test_rows_of_one_id_are_one_unit(icu, table):
    units = units_of(replace(icu, unit_column="person"), table(COLUMNS))
    assert units.ids == ("7", "8", "007")
    assert units.of_row.tolist() == [0, 1, 0, 2]


def test_row_without_an_id_is_refused(icu, table):
    config = replace(icu, unit_column="person")
    with pytest.raises(DataError, match=r"empty or missing in 2 rows \(first in row 2\)") as caught:
        units_of(config, table({**COLUMNS, "person": ["7", " ", None, "8"]}))
    assert caught.value.code == "FK214"
    assert "leave unit_column out" in caught.value.remedy


@pytest.mark.parametrize("text", ["NaN", "None", "null", "n/a", "-9.0", float("nan")])
def test_text_that_means_missing_never_becomes_one_giant_patient(icu, table, text):
    missing = MissingConfig(values=("n/a",), codes={"person": (-9,)})
    config = replace(icu, unit_column="person", missing=missing)
    with pytest.raises(DataError, match="missing in 3 rows"):
        units_of(config, table({**COLUMNS, "person": ["7", text, text, text]}))


def test_ids_at_several_sites_are_counted_in_any_spelling():
    assert shared_units([["1", "1"], ["2"]]) == ()
    (told,) = shared_units([["1", "2", "3", "3"], [1.0, "2"], ["2", "4"]])
    assert told.startswith("2 patients have records at more than one site; epsilon holds at each site")


def test_taken_rows_keep_their_owners():
    units = Units(("a", "b", "c"), np.array([0, 1, 2, 0]))
    taken = units.take(np.array([3, 2]))
    assert taken.ids == ("a", "c")
    assert taken.of_row.tolist() == [0, 1]
    assert units.largest(np.array([1, 5, 2, 9])).tolist() == [9, 5, 2]


def test_uniforms_are_uniform_and_independent_by_purpose():
    ids = [str(index) for index in range(4000)]
    split, parted = uniforms(ids, "split", 1), uniforms(ids, "partition", 1)
    assert ((split >= 0) & (split < 1)).all()
    assert np.allclose(np.histogram(split, 10, (0, 1))[0], 400, atol=100)
    assert abs(np.corrcoef(split, parted)[0, 1]) < 0.07


def test_order_of_appearance_of_nothing_is_nothing():
    distinct, index = in_order_of_appearance(np.zeros(0, dtype=np.int64))
    assert len(distinct) == len(index) == 0
