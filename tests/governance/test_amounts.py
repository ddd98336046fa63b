import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedkit.governance.amounts import number_of_bytes


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("2GiB", 2**31),
        ("5 GB", 5 * 10**9),
        ("10MiB", 10 * 2**20),
        ("1.5K", 1500),
        ("7", 7),
        (7, 7),
        ("3B", 3),
        (0.5, None),
    ],
)
def test_sizes_mean_what_a_person_means(text, size):
    assert number_of_bytes(text) == size


@pytest.mark.parametrize("text", [None, True, "", "much", "-1GiB", "0", "1e9", "2 GiB/s", "NaN", [], {}, "9" * 30])
def test_what_is_no_size_has_none(text):
    assert number_of_bytes(text) is None


@given(st.text() | st.integers() | st.floats())
def test_no_value_is_an_error(value):
    size = number_of_bytes(value)
    assert size is None or size >= 1
