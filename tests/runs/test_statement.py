from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedkit.reporting.text import epsilon
from fedkit.runs.statement import rounded_up


@settings(max_examples=50, deadline=None)
@given(st.floats(min_value=1e-9, max_value=1e12))
def test_epsilon_is_never_shown_smaller_than_it_is(value):
    shown = Decimal(rounded_up(value))
    assert shown >= Decimal(repr(value))
    assert shown <= Decimal(repr(value)) + max(Decimal("0.01"), Decimal(1) * (value >= 1e9))


@pytest.mark.parametrize(("value", "shown"), [(0.001, "0.0010"), (0.0001234, "0.00013"), (3, "3.00"), (2.981, "2.99")])
def test_small_epsilons_keep_two_digits(value, shown):
    assert rounded_up(value) == epsilon(value) == shown
