from __future__ import annotations

import datetime
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedkit.data.table import canonical, column_of, name_text, number, text_of


@pytest.mark.parametrize("same", [(1, 1.0, "1", " 1 ", "1.0", "+1", True, "TRUE", Decimal("1.00"), np.float32(1))])
def test_spellings_of_one_value_have_one_canonical_text(same):
    assert {canonical(value) for value in same} == {"1"}


@pytest.mark.parametrize(("a", "b"), [("01", "1"), ("Female", "female"), ("1.5", "1.50001"), ("", "0")])
def test_different_values_stay_different(a, b):
    assert canonical(a) != canonical(b)


def test_long_ids_are_not_rounded():
    assert canonical("12345678901234567891") != canonical("12345678901234567892")
    assert name_text("1.10") != name_text("1.1")


@settings(max_examples=50, deadline=None)
@given(st.floats(allow_nan=False, allow_infinity=False))
def test_canonical_text_of_a_number_keeps_its_value(value):
    assert number(canonical(value)) == value
    assert canonical(canonical(value)) == canonical(value)


@pytest.mark.parametrize("text", ["abc", "1_000", "1,5", "", "١", "0x10", "12a"])
def test_text_that_is_no_number_is_none(text):
    assert number(text) is None


def test_nan_and_infinity_are_themselves():
    assert np.isnan(number("NaN"))
    assert number("-Infinity") == -np.inf
    assert number("1e999") == np.inf


def test_values_of_a_database_become_text():
    assert text_of(datetime.date(2020, 1, 2)) == "2020-01-02"
    assert text_of(b"\x01\xff") == "01ff"
    assert text_of(np.float32(0.1)) == "0.1"


def test_column_gives_back_its_values():
    values = ["b", None, "a", "b", ""]
    column = column_of(values)
    assert column.map(lambda text: text, object).tolist() == values
    assert column.take(np.array([2, 0])).map(lambda text: text, object).tolist() == ["a", "b"]
