import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fedkit.errors import PrivacyError
from fedkit.privacy.accounting import GaussianEvent, epsilon, epsilon_of
from fedkit.privacy.column_histogram import (
    CodedColumn,
    column_sums,
    histogram_event,
    histogram_noise,
    noisy_sums,
)
from fedkit.privacy.events import gaussian_delta
from fedkit.privacy.lattice import G
from fedkit.privacy.randomness import Secure, Seeded


@st.composite
def tables(draw):
    """Rows of up to 8 units over up to 3 columns; the unit that joins or leaves is number 0."""
    units = draw(st.lists(st.integers(0, 7), min_size=1, max_size=40))
    widths = draw(st.lists(st.integers(1, 6), min_size=1, max_size=3))
    columns = [draw(st.lists(st.integers(0, k - 1), min_size=len(units), max_size=len(units))) for k in widths]
    return np.array(units), [CodedColumn(np.array(codes), k) for codes, k in zip(columns, widths, strict=True)]


@settings(max_examples=200, deadline=None)
@given(tables())
def test_a_unit_changes_each_column_by_at_most_one_in_norm_whatever_its_rows(table):
    units, columns = table
    kept = units != 0
    without = [CodedColumn(column.codes[kept], column.cells) for column in columns]
    difference = column_sums(columns, units) - column_sums(without, units[kept])
    assert (difference >= 0).all()
    for part in np.split(difference, np.cumsum([column.cells for column in columns])[:-1]):
        assert part.sum() <= G
        assert float(np.linalg.norm(part.astype(float))) <= G
        if (units == 0).any():
            assert part.sum() > G - len(part)


@settings(max_examples=50, deadline=None)
@given(tables())
def test_the_order_of_rows_and_the_numbers_of_units_change_nothing(table):
    units, columns = table
    order = np.random.default_rng(0).permutation(len(units))
    renamed = np.array([3, 7, 1, 0, 5, 6, 2, 4])[units]
    shuffled = [CodedColumn(column.codes[order], column.cells) for column in columns]
    assert np.array_equal(column_sums(columns, units), column_sums(shuffled, renamed[order]))


def test_records_are_counted_exactly_and_no_rows_are_all_zero():
    codes = np.random.default_rng(0).integers(0, 5, 1000)
    counted = column_sums([CodedColumn(codes, 7)], np.arange(1000))
    assert np.array_equal(counted, np.bincount(codes, minlength=7) * G)
    none = np.zeros(0, dtype=np.int64)
    assert column_sums([CodedColumn(none, 3), CodedColumn(none, 2)], none).tolist() == [0] * 5


@pytest.mark.parametrize("codes", [[-1, 0], [0, 3], [0]])
def test_a_code_that_would_count_for_another_unit_is_refused(codes):
    with pytest.raises(PrivacyError) as refused:
        column_sums([CodedColumn(np.array(codes), 3)], np.arange(2))
    assert refused.value.code == "FK314"


@pytest.mark.parametrize("source", [Secure(), Seeded(1, "x")], ids=["secure", "seeded"])
def test_noise_has_the_standard_deviation_that_is_accounted(source):
    noise = noisy_sums(np.zeros(100_000, dtype=np.int64), 7.5, source)
    assert noise.dtype == np.int64
    # Standard error of the deviation is .22 %; a correct source fails the second by chance once in 1e9 runs.
    assert noise.std() / G == pytest.approx(7.5, rel=0.015)
    assert stats.kstest(noise / (7.5 * G), "norm").pvalue > 1e-9


def test_secure_noise_is_fresh_each_time():
    sums = np.zeros(100, dtype=np.int64)
    assert not np.any(noisy_sums(sums, 5.0, Secure()) == noisy_sums(sums, 5.0, Secure()))


@pytest.mark.parametrize("sigma", [0.0, -1.0, float("nan"), float("inf")])
def test_noise_that_is_none_is_refused(sigma):
    with pytest.raises(PrivacyError) as refused:
        noisy_sums(np.zeros(1, dtype=np.int64), sigma, Secure())
    assert refused.value.code == "FK303"


@pytest.mark.parametrize("columns", [1, 12])
def test_calibrated_noise_costs_no_more_than_asked_and_little_less(columns):
    sigma = histogram_noise(1.0, 1e-5, columns)
    spent = epsilon_of([histogram_event(sigma, columns)], gaussian_delta(1e-5))
    assert 0.99 < spent <= 1.0
    assert epsilon(1.0, sigma, columns, 1e-5) <= spent
    # Without sampling, k histograms are one Gaussian of 1 / sqrt(k) of the noise.
    assert spent == pytest.approx(epsilon(1.0, sigma / columns**0.5, 1, 1e-5), abs=0.005)
    assert histogram_event(sigma, columns) == GaussianEvent(1.0, sigma, columns)
