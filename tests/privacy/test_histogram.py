import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fedkit.errors import PrivacyError
from fedkit.privacy import histogram
from fedkit.privacy.histogram import integer_histogram, noisy_histogram
from fedkit.privacy.lattice import G
from fedkit.privacy.randomness import Secure, Seeded

SIZE = 12
NONE = np.zeros(0, dtype=np.int64)


def squared_norm(change):
    return sum(int(value) ** 2 for value in change)


@st.composite
def neighbours(draw):
    rows = draw(st.integers(0, 40))
    cells = draw(arrays(np.int64, rows, elements=st.integers(0, SIZE - 1)))
    unit = draw(arrays(np.int64, rows, elements=st.integers(0, 9)))
    owned = draw(st.integers(1, 60))
    added = draw(arrays(np.int64, owned, elements=st.integers(0, SIZE - 1)))
    order = np.random.default_rng(draw(st.integers(0, 99))).permutation(rows + owned)
    whole = np.concatenate([cells, added])[order], np.concatenate([unit, np.full(owned, 77)])[order]
    return (cells, unit), whole


@settings(max_examples=300, deadline=None)
@given(neighbours())
def test_adding_a_unit_changes_the_integers_by_at_most_g_in_norm(pair):
    without, whole = pair
    change = integer_histogram(*whole, SIZE) - integer_histogram(*without, SIZE)
    assert squared_norm(change) <= G**2
    assert change.min() >= 0
    assert change.sum() <= G


def test_a_unit_of_one_row_reaches_the_bound_so_that_noise_is_not_wasted():
    assert integer_histogram(np.array([3]), np.array([0]), SIZE).tolist() == [0, 0, 0, G] + [0] * 8


@pytest.mark.parametrize("rows", [3, 7, 1000, 1_000_003])
def test_a_unit_weighs_at_most_one_whatever_its_rows(rows):
    spread = integer_histogram(np.arange(rows) % SIZE, np.zeros(rows, dtype=np.int64), SIZE)
    alone = integer_histogram(np.full(rows, 5), np.zeros(rows, dtype=np.int64), SIZE)
    assert G - SIZE <= spread.sum() <= G
    assert alone[5] == alone.sum() == G


@pytest.mark.parametrize("rows", [1029, 3072])
def test_a_unit_of_more_rows_than_the_lattice_has_steps_still_weighs_at_most_one(rows, monkeypatch):
    monkeypatch.setattr(histogram, "G", 1024)
    assert integer_histogram(np.arange(rows) % SIZE, np.zeros(rows, dtype=np.int64), SIZE).sum() <= 1024


def test_weights_agree_with_plain_shares():
    rng = np.random.default_rng(0)
    cells, unit = rng.integers(0, SIZE, 200), rng.integers(0, 50, 200)
    shares = 1 / np.bincount(unit)[unit]
    found = integer_histogram(cells, unit, SIZE) / G
    assert found == pytest.approx(np.bincount(cells, shares, SIZE), abs=200 / G)


def test_neither_the_order_of_rows_nor_the_names_of_units_matter():
    rng = np.random.default_rng(0)
    cells, unit, order = rng.integers(0, SIZE, 90), rng.integers(0, 30, 90), rng.permutation(90)
    found = integer_histogram(cells[order], 10**15 - 7 * unit[order], SIZE)
    assert np.array_equal(found, integer_histogram(cells, unit, SIZE))


@pytest.mark.parametrize("source", [Seeded(1), Secure()], ids=["seeded", "secure"])
def test_noise_of_an_empty_site_has_the_standard_deviation_of_the_plan(source):
    # Standard errors: .11 %, an eighth of the mean's bound, 3 % of the tail; each bound is 7 and more of them away.
    noise = noisy_histogram(NONE, NONE, 400_000, 1.7, source)
    assert noise.std() == pytest.approx(1.7, rel=0.01)
    assert abs(noise.mean()) < 7 * 1.7 / 400_000**0.5
    assert (np.abs(noise) > 3 * 1.7).mean() == pytest.approx(0.0027, rel=0.25)


def test_released_values_are_an_integer_sum_on_the_lattice():
    cells, unit = np.arange(9), np.arange(9) // 2
    released = noisy_histogram(cells, unit, SIZE, 2.0, Seeded(5))
    assert np.array_equal(released * G, np.rint(released * G))
    noise = noisy_histogram(NONE, NONE, SIZE, 2.0, Seeded(5))
    assert np.array_equal((released - noise) * G, integer_histogram(cells, unit, SIZE))


def test_secure_noise_never_repeats():
    first, second = (noisy_histogram(NONE, NONE, 4, 1.0, Secure()) for _ in range(2))
    assert not np.isin(first, second).any()


@pytest.mark.parametrize("rows", [0, 1, 500])
def test_the_length_follows_from_the_declared_size_alone(rows):
    cells = np.zeros(rows, dtype=np.int64)
    assert noisy_histogram(cells, np.arange(rows), SIZE, 1.0, Secure()).shape == (SIZE,)


@pytest.mark.parametrize("sigma", [0.0, -1.0, 1e-3, float("nan"), float("inf"), 1e7])
def test_impossible_noise_is_refused(sigma):
    with pytest.raises(PrivacyError) as caught:
        noisy_histogram(NONE, NONE, SIZE, sigma, Secure())
    assert caught.value.code == "FK312"


@pytest.mark.parametrize(
    ("cells", "unit", "size", "code"),
    [
        (NONE, NONE, 0, "FK313"),
        (np.array([SIZE]), np.array([0]), SIZE, "FK314"),
        (np.array([-1]), np.array([0]), SIZE, "FK314"),
        (np.array([1, 2]), np.array([0]), SIZE, "FK314"),
        (np.array([1.0]), np.array([0]), SIZE, "FK314"),
        (np.array([[1]]), np.array([[0]]), SIZE, "FK314"),
    ],
)
def test_arrays_that_make_no_histogram_are_refused(cells, unit, size, code):
    with pytest.raises(PrivacyError) as caught:
        noisy_histogram(cells, unit, size, 1.0, Secure())
    assert caught.value.code == code
