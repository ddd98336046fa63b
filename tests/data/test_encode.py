from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedkit.config.experiment import FeaturesConfig, MissingConfig, TargetConfig
from fedkit.data.declared import feature_names, task_of
from fedkit.data.encode import encode_features, encode_subgroups, encode_target, subgroup_names
from fedkit.errors import DataError

COLUMNS = {
    "region": ["n", "n", "s"],
    "age": ["0", "120", "60"],
    "rate": ["20", None, "250"],
    "gender": ["Female", "Male", "?"],
    "died": ["1", "0", "1"],
}


def test_numbers_are_scaled_to_minus_one_and_one(icu, table):
    x = encode_features(icu, table(COLUMNS)).x
    assert x.dtype == np.float32
    assert x[:, 0].tolist() == [-1, 1, 0]
    assert x[:, 1].tolist() == [-1, 0, 1]


def test_names_say_what_the_columns_are(icu, table):
    config = replace(icu, missing=MissingConfig(indicator=True))
    assert feature_names(config) == ("age", "rate", "age_missing", "rate_missing", "gender=Female", "gender=Male")
    x = encode_features(config, table(COLUMNS)).x
    assert x[:, 2:4].tolist() == [[0, 0], [0, 1], [0, 0]]
    assert x[:, 4:].tolist() == [[1, 0], [0, 1], [0, 0]]


def test_drop_first_reads_a_missing_category_as_the_first_level(icu, table):
    config = replace(icu, features=replace(icu.features, drop_first=True))
    assert feature_names(config) == ("age", "rate", "gender=Male")
    assert encode_features(config, table(COLUMNS)).x[:, 2].tolist() == [0, 1, 0]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False) | st.none(), min_size=1, max_size=8))
def test_scaled_numbers_never_leave_the_bounds_whatever_the_table_holds(icu, table, ages):
    count = len(ages)
    columns = {"age": ages, "rate": ["20"] * count, "gender": ["Male"] * count}
    x = encode_features(icu, table(columns)).x
    assert np.isfinite(x).all()
    assert (np.abs(x) <= 1).all()


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.integers(-50, 200) | st.none(), st.sampled_from(["Male", "Female", "x", None])), min_size=1)
)
def test_encoding_of_a_row_does_not_depend_on_the_others(icu, table, rows):
    def encoded(part):
        ages, genders = zip(*part, strict=True)
        return encode_features(icu, table({"age": ages, "rate": ["20"] * len(part), "gender": genders})).x

    together = encoded(rows)
    for index, row in enumerate(rows):
        assert encoded([row])[0].tolist() == together[index].tolist()


@pytest.mark.parametrize("spellings", [(1, "2"), ("1.0", 2.0), (True, "2")])
def test_levels_are_found_whatever_their_spelling(icu, table, spellings):
    config = replace(icu, features=FeaturesConfig({}, {"cp": (1, 2)}))
    features = encode_features(config, table({"cp": spellings}))
    assert features.x.tolist() == [[1, 0], [0, 1]]
    assert features.undeclared == {"cp": 0}


def test_undeclared_level_counts_as_missing_and_is_counted(icu, table):
    features = encode_features(icu, table({**COLUMNS, "gender": ["female", "Male", None]}))
    assert features.x[0, 2:].tolist() == [0, 0]
    assert features.undeclared == {"gender": 1}
    assert features.missing["gender"].tolist() == [True, False, True]


def test_declared_level_wins_over_a_text_that_means_missing(icu, table):
    config = replace(icu, features=FeaturesConfig({}, {"unit": ("NA", "ICU")}))
    assert encode_features(config, table({"unit": ["NA", "ICU"]})).x.tolist() == [[1, 0], [0, 1]]


@pytest.mark.parametrize("bad", ["old", "NaN", "inf", "-Infinity", "1e999", float("nan"), float("inf")])
def test_value_that_is_no_finite_number_is_refused_with_its_place(icu, table, bad):
    with pytest.raises(DataError) as caught:
        encode_features(icu, table({**COLUMNS, "age": ["1", bad, bad]}))
    assert caught.value.code == "FK210"
    assert "age has 2 values that are no finite number (first in row 2)" in str(caught.value)
    assert "missing.values" in str(caught.value)


def test_all_bad_columns_are_named_at_once(icu, table):
    with pytest.raises(DataError, match=r"age has 1 value .*; rate has 2 values"):
        encode_features(icu, table({**COLUMNS, "age": ["x", "1", "1"], "rate": ["1", "y", "z"]}))
    with pytest.raises(DataError, match=r"rate has 1 value .*; age is missing in every row"):
        encode_features(icu, table({**COLUMNS, "age": [None, "?", "NA"], "rate": ["1", "y", "1"]}))


def test_declared_texts_and_codes_are_missing(icu, table):
    config = replace(icu, missing=MissingConfig(indicator=False, values=("n/a", "nan"), codes={"rate": (-9, "0.0")}))
    features = encode_features(config, table({**COLUMNS, "age": ["n/a", "NaN", "60"], "rate": ["-9.0", "0", "20"]}))
    assert features.missing["age"].tolist() == [True, True, False]
    assert features.missing["rate"].tolist() == [True, True, False]


def test_booleans_are_numbers_and_levels(icu, table):
    config = replace(icu, features=FeaturesConfig({"a": (0, 1)}, {"b": ("true", "false")}))
    x = encode_features(config, table({"a": [True, False], "b": ["TRUE", "f"]})).x
    assert x.tolist() == [[1, 1, 0], [-1, 0, 0]]


def test_range_without_extent_is_refused(icu, table):
    with pytest.raises(DataError, match="low must be below its high"):
        encode_features(replace(icu, features=FeaturesConfig({"age": (3, 3)})), table(COLUMNS))


TINIEST = float(np.finfo(np.float32).tiny)


@pytest.mark.parametrize("bounds", [(0, 5e-324), (0, 1.9 * TINIEST), (-1.7e308, 1.7e308), (0, 1e39), (1, 1 + 2**-52)])
def test_range_that_cannot_be_scaled_is_refused(icu, table, bounds):
    with pytest.raises(DataError, match="no normal 32-bit number") as caught:
        encode_features(replace(icu, features=FeaturesConfig({"age": bounds})), table(COLUMNS))
    assert caught.value.code == "FK218"
    with pytest.raises(DataError, match="no normal 32-bit number"):
        encoded_target(replace(icu, target=TargetConfig("died", "regression", range=bounds)), table, ["0", "1"])


def test_smallest_range_that_can_be_scaled_stays_inside_the_bounds(icu, table):
    config = replace(icu, features=FeaturesConfig({"age": (0, 2 * TINIEST)}))
    assert encode_features(config, table({"age": ["-1", "0", "1", str(TINIEST)]})).x[:, 0].tolist() == [-1, -1, 1, 0]


def test_labels_of_a_subgroup_stand_in_the_declared_order(icu):
    config = replace(icu, subgroups={"age": (50, 65), "gender": ("Male", "Female")})
    assert subgroup_names(config, "age") == ["under 50", "50 to under 65", "65 and over"]
    assert subgroup_names(config, "gender") == ["Male", "Female"]
    assert subgroup_names(config, "rate") == []


def encoded_target(config, table, values):
    y, absent = encode_target(config, task_of(config), table({"died": values}))
    return y.dtype, y[~absent].tolist(), absent.tolist()


def test_binary_target_is_positive_missing_or_negative(icu, table):
    config = replace(icu, target=TargetConfig("died", "binary", positive=(1, "yes")))
    found = encoded_target(config, table, ["1.0", "yes", "no", 0, None, "NA", "nan"])
    assert found == (np.int64, [1, 1, 0, 0], [False] * 4 + [True] * 3)
    named = replace(config, target=replace(config.target, classes=("alive", "dead")))
    assert task_of(named).classes == ("alive", "dead")


def test_multiclass_target_is_an_index_and_refuses_other_values(icu, table):
    config = replace(icu, target=TargetConfig("died", "multiclass", classes=("a", "b", 3)))
    assert encoded_target(config, table, ["b", "3.0", None, "a"])[1] == [1, 2, 0]
    with pytest.raises(DataError, match=r"2 values outside its 3 classes \(first in row 2\)"):
        encoded_target(config, table, ["a", "c", "d"])


def test_regression_target_is_clipped_and_scaled_to_zero_and_one(icu, table):
    config = replace(icu, target=TargetConfig("died", "regression", range=(0, 60)))
    assert encoded_target(config, table, ["-5", "0", "30", "99", None]) == (
        np.float32,
        [0, 0, 0.5, 1],
        [False] * 4 + [True],
    )
    with pytest.raises(DataError, match="died has 1 value that is no finite number"):
        encoded_target(config, table, ["long", "3"])


@pytest.mark.parametrize(
    ("target", "told"),
    [
        (TargetConfig("died", "binary"), "no target.positive"),
        (TargetConfig("died", "multiclass", classes=("a",)), "no target.classes"),
        (TargetConfig("died", "regression"), "no range"),
    ],
)
def test_target_without_its_declaration_is_refused(icu, table, target, told):
    with pytest.raises(DataError, match=told):
        encoded_target(replace(icu, target=target), table, ["a", "b"])


def test_subgroups_are_levels_or_intervals(icu, table):
    config = replace(icu, subgroups={"age": (50, 65), "gender": ("Female",), "rate": (20, 250)})
    columns = {
        "age": ["49.9", "50", "65", None],
        "gender": ["Female", "Male", None, "Female"],
        "rate": ["20", "250.0", "100", None],
    }
    labels = encode_subgroups(config, table(columns))
    assert labels["age"].tolist() == ["under 50", "50 to under 65", "65 and over", "missing"]
    assert labels["gender"].tolist() == ["Female", "other", "missing", "Female"]
    # The bounds of the range are no cut points: a number with two values is grouped by them.
    assert labels["rate"].tolist() == ["20", "250", "other", "missing"]
