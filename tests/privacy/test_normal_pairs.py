import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedkit.native.library import library
from fedkit.privacy import normal_pairs
from fedkit.privacy.normal_pairs import candidates, round_pairs
from fedkit.privacy.pair_candidate import pair_candidate, settled
from fedkit.privacy.randomness import Seeded
from tests.privacy.test_rounded_gaussian import SCALE, ideal

compiled_only = pytest.mark.skipif(library() is None, reason="no compiled library here")


def without_library(monkeypatch):
    monkeypatch.setattr(normal_pairs, "library", lambda: None)


def rounded(words, scale, odd=0, apart=0):
    rows, _, pairs = words.shape
    found = np.full((rows, 2 * pairs - odd + apart), np.nan)
    kept = found[:, : 2 * pairs - odd]
    doubtful = round_pairs(kept[:, :pairs], kept[:, pairs:], words, scale)
    assert np.isnan(found[:, 2 * pairs - odd :]).all(), "written beside the rows"
    # Their rounding is for further bits to decide: what stands there means nothing.
    for row, index in zip(*np.divmod(doubtful, pairs), strict=True):
        kept[row, index::pairs] = 0.0
    return kept.copy(), doubtful.tolist()


def words_of(seed, rows, pairs):
    words = np.random.default_rng(seed).integers(0, 2**64, (rows, 2, pairs), dtype=np.uint64)
    words[:, 0, ::5] >>= np.uint64(40)
    words[:, 0, 1::5] = ~(words[:, 0, 1::5] >> np.uint64(40))
    words[:, 1, ::3] &= np.uint64(2**64 - 2**30)
    return words


@pytest.mark.slow
@compiled_only
@pytest.mark.parametrize("scale", [0.3, 1.7, 2.0**20, 1.1 * 2.0**33, 2.0**40])
def test_both_ways_give_the_same_numbers_and_leave_the_same_pairs_open(scale, monkeypatch):
    batches = [words_of(seed, 4, 2**16 + 3) for seed in range(3)]
    found = [rounded(words, scale) for words in batches]
    without_library(monkeypatch)
    for words, (numbers, doubtful) in zip(batches, found, strict=True):
        others, open_there = rounded(words, scale)
        # The bits: zeros have one sign.
        assert np.array_equal(numbers.view(np.int64), others.view(np.int64))
        assert doubtful == open_there
    assert scale < 2.0**40 or len(found[0][1]) > 1000


@compiled_only
@pytest.mark.parametrize("pairs", [1, 2, 3, 4, 5, 7, 8, 13])
@pytest.mark.parametrize("odd", [0, 1])
@pytest.mark.parametrize("apart", [0, 3])
def test_rows_of_any_length_are_filled_to_their_last_number_and_not_beyond(pairs, odd, apart, monkeypatch):
    words = words_of(pairs, 5, pairs)
    words[3, 0, pairs - 1] = 0
    numbers, doubtful = rounded(words, 2.0**38, odd, apart)
    assert not np.isnan(numbers).any() and 3 * pairs + pairs - 1 in doubtful
    without_library(monkeypatch)
    others, open_there = rounded(words, 2.0**38, odd, apart)
    assert np.array_equal(numbers, others) and doubtful == open_there


@compiled_only
def test_compiled_pairs_are_those_of_the_arithmetic_that_is_written_down():
    scale, words = 2.0**40, words_of(7, 1, 20_001)
    numbers, doubtful = rounded(words, scale)
    for index, (u, v) in enumerate((words[0] >> np.uint64(12)).T.tolist()):
        known = settled(u, v, scale)
        assert (known is None) == (index in doubtful)
        assert known is None or known == (numbers[0, index], numbers[0, 20_001 + index])


@compiled_only
def test_a_seed_means_the_same_noise_both_ways_where_many_pairs_are_continued(monkeypatch):
    found = np.empty((3, 4001))
    Seeded("both").fill_rounded_gaussians(found, 2.0**40)
    without_library(monkeypatch)
    others = np.empty_like(found)
    Seeded("both").fill_rounded_gaussians(others, 2.0**40)
    assert np.array_equal(found, others)


@compiled_only
@pytest.mark.parametrize("make", [lambda: np.empty((4, 9))[:, ::-1], lambda: np.empty((9, 4)).T])
def test_arrays_that_do_not_lie_row_by_row_are_filled_too(make):
    found, plain = make(), np.empty((4, 9))
    Seeded("rows").fill_rounded_gaussians(plain[: len(found), : found.shape[1]], SCALE)
    Seeded("rows").fill_rounded_gaussians(found, SCALE)
    assert np.array_equal(found, plain[: len(found), : found.shape[1]])


@pytest.mark.parametrize("scale", [0.3, SCALE, 2.0**40])
def test_torch_s_candidates_are_within_half_a_bound_of_those_that_decide(scale):
    # With twice the bound, none that they call clear is open by the others.
    words = words_of(11, 1, 20_000)[0]
    words[0] |= np.uint64(2**12)
    x, tolerance = candidates(words, scale)
    worst = 0.0
    for index, (u, v) in enumerate((words >> np.uint64(12)).T.tolist()):
        first, second, bound = pair_candidate(u, v, scale)
        assert bound == pytest.approx(tolerance[index], rel=1e-12)
        worst = max(worst, abs(x[0, index] - first) / bound, abs(x[1, index] - second) / bound)
    assert worst < 0.5


cells = st.one_of(
    st.integers(1, 2**52 - 1), st.integers(1, 2**12), st.integers(2**52 - 2**12, 2**52 - 1), st.integers(1, 2**38)
)
angles = st.one_of(st.integers(0, 2**52 - 1), st.builds(lambda a, b: (a * 2**50 + b) % 2**52, *[st.integers(0, 8)] * 2))


@settings(max_examples=400, deadline=None)
@given(u=cells, v=angles, scale=st.sampled_from([2.0, SCALE, 1e10]))
def test_tolerance_dominates_the_error_over_the_whole_cell(u, v, scale):
    x, tolerance = candidates(np.array([[u << 12], [v << 12]], dtype=np.uint64), scale)
    for du in (0, 2**40, 2**41 - 1):
        for dv in (0, 2**40, 2**41 - 1):
            exact = ideal((u << 41) + du, (v << 41) + dv, 93, scale)
            for member in range(2):
                assert abs(mpmath.mpf(float(x[member, 0])) - exact[member]) <= 0.9 * tolerance[0]


def test_tolerance_is_the_documented_one():
    for u, v, scale in [(2**51 + 5, 77, SCALE), (3, 2**50, 1e10), (2**52 - 2, 1, 2.0), (7, 9, 0.5)]:
        _, tolerance = candidates(np.array([[u << 12], [v << 12]], dtype=np.uint64), scale)
        middle = (u + 0.5) * 2.0**-52
        radius = (-2 * np.log(middle)) ** 0.5
        assert tolerance[0] == pytest.approx(max(scale, 2) * (radius * 2.0**-47 + 2.0**-51 / (middle * radius)))


@pytest.mark.parametrize("length", [*range(1, 19), 64, 333])
def test_cosine_and_sine_are_within_what_is_assumed_at_every_place_of_an_array(length):
    """The last few numbers of an array, which do not fill a vector, are computed by other code."""
    angles = np.random.default_rng(length).random(length) * 2 * np.pi
    angles[: length // 2] = np.round(angles[: length // 2] / (np.pi / 4)) * (np.pi / 4) + 1e-9
    for ours, exact in ((torch.cos, mpmath.cos), (torch.sin, mpmath.sin)):
        found = ours(torch.from_numpy(angles)).tolist()
        with mpmath.workprec(200):
            for value, angle in zip(found, angles.tolist(), strict=True):
                assert abs(mpmath.mpf(value) - exact(mpmath.mpf(angle))) < mpmath.mpf(2) ** -51


def test_float64_errors_stay_far_within_what_is_assumed_of_them():
    generator = np.random.default_rng(5)
    words = generator.integers(0, 2**64, (2, 3000), dtype=np.uint64)
    words[0, ::3] >>= np.uint64(12)
    words[0, 1::3] = ~(words[0, 1::3] >> np.uint64(20))
    words[0] |= np.uint64(2**13)
    x, _ = candidates(words, 1.0)
    worst = 0.0
    for index, (u, v) in enumerate(words.T):
        exact = ideal(int(u) >> 12, int(v) >> 12, 52, 1.0)
        radius = mpmath.sqrt(exact[0] ** 2 + exact[1] ** 2)
        worst = max(worst, *(float(abs(mpmath.mpf(float(x[m, index])) - exact[m]) / radius) for m in range(2)))
    # The first term of the tolerance grants 2**-47, of which V's cell takes a tenth.
    assert worst < 2.0**-49
