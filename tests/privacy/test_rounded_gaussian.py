import mpmath
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fedkit.errors import PrivacyError
from fedkit.native.library import library
from fedkit.privacy import normal_pairs
from fedkit.privacy.randomness import Secure
from fedkit.privacy.rounded_gaussian import MAX_SCALE, _decide, rounded_gaussian

ALL_ONES = 2**64 - 1
LOW, MIDDLE, HIGH = [0, 0, 0], [2**63, 0, 0], [ALL_ONES] * 3
SCALE = 1.2 * 2.0**20


@pytest.fixture(scope="module", params=["compiled", "torch"], autouse=True)
def way(request):
    """Whatever is tested here holds for both ways of computing pairs."""
    if request.param == "compiled" and library() is None:
        pytest.skip("no compiled library here")
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "torch":
            patch.setattr(normal_pairs, "library", lambda: None)
        yield


class Stream:
    """Words that are given, then a generator's."""

    def __init__(self, words, seed=0):
        self.words, self.drawn = list(words), 0
        self.generator = np.random.default_rng(seed)
        self.log = []

    def __call__(self, words):
        n = len(words)
        given, self.words = self.words[:n], self.words[n:]
        words[: len(given)] = given
        words[len(given) :] = self.generator.integers(0, 2**64, n - len(given), dtype=np.uint64)
        self.drawn += n
        self.log += [int(word) for word in words]


def ideal(u_bits, v_bits, width, scale):
    """Both values at the midpoint of a cell of width 2**-width, by mpmath."""
    with mpmath.workprec(width + 120):
        u, v = mpmath.mpf(2 * u_bits + 1) / 2 ** (width + 1), mpmath.mpf(2 * v_bits + 1) / 2 ** (width + 1)
        radius = mpmath.mpf(scale) * mpmath.sqrt(-2 * mpmath.log(u))
        return radius * mpmath.cospi(2 * v), radius * mpmath.sinpi(2 * v)


def continued(first, extensions):
    """52 bits of the first word, then whole words."""
    bits, width = first >> 12, 52
    for words in extensions:
        for word in words:
            bits, width = bits << 64 | word, width + 64
    return bits, width


def rounded(log, scale):
    """What one pair must give, from the words that it drew: the ideal value at the end of what was read."""
    extensions = [log[at : at + 6] for at in range(2, len(log), 6)] or [[2**63, 0, 0, 2**63, 0, 0]]
    u, width = continued(log[0], [words[:3] for words in extensions])
    v, _ = continued(log[1], [words[3:] for words in extensions])
    return [int(mpmath.nint(x)) for x in ideal(u, v, width, scale)]


def boundary_scale(u_word, v_word, member, near):
    """A scale for which the cell's midpoint lies on a rounding boundary, to a fiftieth of the cell."""
    with mpmath.workprec(200):
        x = abs(ideal(u_word >> 12, v_word >> 12, 52, 1.0)[member])
        n = int(near * x)
        while True:
            scale = float((n + 0.5) / x)
            if abs(scale * x - n - 0.5) < 2.0**-58 * scale * x:
                return scale
            n += 1


@pytest.mark.parametrize("scale", [0.3, 1.0, SCALE, 1e10, MAX_SCALE])
def test_every_pair_equals_the_ideal_one_evaluated_by_mpmath(scale):
    generator = np.random.default_rng(1)
    for seed in range(800):
        stream = Stream([], seed)
        if seed % 4 == 0:  # far out, and close to 0: where the candidate is least sure
            stream.words = [int(generator.integers(0, 2**20)) << int(generator.integers(12, 30))]
        elif seed % 4 == 1:
            stream.words = [ALL_ONES - (int(generator.integers(0, 2**20)) << int(generator.integers(12, 30)))]
        found = rounded_gaussian(stream, 2, scale)
        assert found.tolist() == rounded(stream.log, scale)


def test_pairs_of_one_draw_equal_the_ideal_ones_across_chunks():
    d, stream = 2 * 2**14 + 2001, Stream([], 3)
    found = rounded_gaussian(stream, d, SCALE)
    pairs = (d + 1) // 2
    assert stream.drawn == 2 * pairs, "this stream has no doubtful pair"
    for index in [0, 1, 2**14 - 1, 2**14, 2**14 + 1, pairs - 1]:
        first = 2**14 * (index // 2**14)
        count = min(2**14, pairs - first)
        at = 2 * first + index - first
        expected = rounded([stream.log[at], stream.log[at + count]], SCALE)
        assert found[index] == expected[0]
        assert pairs + index >= d or found[pairs + index] == expected[1]


@pytest.mark.parametrize("v", [0, 2**62, 2**63, 3 * 2**62, ALL_ONES])
@pytest.mark.parametrize("u", [0, 2**12, 2**13, 2**63, ALL_ONES])
def test_edges_of_both_uniforms_are_decided_by_further_bits(u, v):
    for more in ([LOW, LOW], [LOW, HIGH], [HIGH, LOW], [HIGH, HIGH], [MIDDLE, MIDDLE], [[0, 0, 1], [5, 0, 0]]):
        stream = Stream([u, v, *more[0], *more[1]])
        found = rounded_gaussian(stream, 2, SCALE)
        assert found.tolist() == rounded(stream.log, SCALE)
        assert stream.drawn > 2 or u > 0, "the cell that reaches 0 never passes as it is"


@pytest.mark.parametrize("member", [0, 1])
@pytest.mark.parametrize("near", [2.0**4, 2.0**20, 2.0**33])
def test_further_bits_decide_a_boundary_in_both_directions(member, near):
    generator = np.random.default_rng(0)
    for _ in range(40):
        u, v = (int(word) for word in generator.integers(2**50, 2**64, 2, dtype=np.uint64))
        scale = boundary_scale(u, v, member, near)
        results = []
        for more in (LOW, HIGH):
            stream = Stream([u, v, *more, *MIDDLE])
            found = rounded_gaussian(stream, 2, scale)
            assert stream.drawn == 8
            assert found.tolist() == rounded(stream.log, scale)
            results.append(abs(int(found[member])))
        # A smaller U is a longer radius. Half a cell moves x by more than the scale's own rounding.
        assert results[0] == results[1] + 1


def test_a_boundary_that_192_bits_leave_open_is_decided_by_the_next_192():
    with mpmath.workprec(900):
        target = mpmath.mpf(1_500_000) + mpmath.mpf("0.5")
        on_boundary = mpmath.exp(-((target / mpmath.mpf(SCALE)) ** 2) / 2)
        bits = int(mpmath.floor(on_boundary * 2**244))
    u, extension = bits >> 192, [(bits >> shift) & ALL_ONES for shift in (128, 64, 0)]
    found = []
    for more in (LOW, HIGH):
        stream = Stream([u << 12, 0, *extension, *LOW, *more, *LOW])
        found.append(int(rounded_gaussian(stream, 2, SCALE)[0]))
        assert stream.drawn == 14
        assert found[-1] == rounded(stream.log, SCALE)[0]
    assert found == [1_500_001, 1_500_000]


@pytest.mark.parametrize("scale", [0.3, 1.0, 1.9])
def test_the_cell_that_reaches_0_never_passes_however_small_the_scale(scale):
    stream = Stream([0, 1 << 55])
    found = rounded_gaussian(stream, 2, scale)
    assert stream.drawn == 8
    assert found.tolist() == rounded(stream.log, scale)


@pytest.mark.slow
@settings(max_examples=600, deadline=None)
@given(u=st.one_of(st.integers(1, 2**24 - 1), st.integers(1, 40)), v=st.integers(0, 2**24 - 1), scale=st.floats(14, 20))
def test_what_is_decided_in_decimal_holds_in_every_corner_of_the_cell(u, v, scale):
    # Cells of 2**-24, in which x moves by a good part of 1: most are open, and a bound too small would show.
    decided = _decide(u, v, 24, 2.0**scale)
    if decided is not None:
        for du in (0, 2**60 - 1):
            for dv in (0, 2**60 - 1):
                corner = ideal((u << 60) + du, (v << 60) + dv, 84, 2.0**scale)
                assert [int(mpmath.nint(x)) for x in corner] == list(decided)


def test_most_pairs_are_decided_where_cells_are_small():
    generator = np.random.default_rng(2)
    cells = generator.integers(1, 2**24, (300, 2)).tolist()
    assert sum(_decide(u, v, 24, 2.0**18) is not None for u, v in cells) > 100
    assert sum(_decide(u, v, 24, 2.0**14) is not None for u, v in cells) > 270


def test_bits_below_the_prefix_do_not_matter():
    low = [5 << 60, 7 << 59]
    first = rounded_gaussian(Stream(low), 2, SCALE)
    assert np.array_equal(first, rounded_gaussian(Stream([word | 4095 for word in low]), 2, SCALE))


def test_samples_have_the_law_of_a_rounded_gaussian():
    # All bounds lie 7 standard errors and more away: a correct source fails any of them less than once in 1e8 runs.
    found = Secure().rounded_gaussian(2_000_000, SCALE) / SCALE
    assert stats.kstest(found, "norm").pvalue > 1e-9
    assert abs(found.mean()) < 5e-3 and abs(found.std() - 1) < 5e-3
    assert abs(stats.kurtosis(found)) < 0.03 and abs(stats.skew(found)) < 0.02
    assert abs(np.corrcoef(found[:1_000_000], found[1_000_000:])[0, 1]) < 0.01
    for sigmas in (4, 5):
        expected = 4e6 * stats.norm.sf(sigmas)
        low, high = stats.poisson.ppf([1e-9, 1 - 1e-9], expected)
        assert low <= np.sum(np.abs(found) > sigmas) <= high


@pytest.mark.parametrize("scale", [0.4, 1.7])
def test_small_scales_have_the_probabilities_of_the_discrete_law(scale):
    found = rounded_gaussian(Stream([], 9), 400_000, scale)
    values = np.arange(-1 if scale < 1 else -5, (1 if scale < 1 else 5) + 1)
    counts = np.array([np.sum(found == k) for k in values])
    chances = stats.norm.cdf((values + 0.5) / scale) - stats.norm.cdf((values - 0.5) / scale)
    counts, chances = np.append(counts, 400_000 - counts.sum()), np.append(chances, 1 - chances.sum())
    assert stats.chisquare(counts, chances * 400_000).pvalue > 1e-6


def test_the_tail_goes_on_beyond_what_53_bits_can_say():
    found = rounded_gaussian(Stream([0, 0, 0, 2**40, 0, *LOW]), 1, SCALE)
    assert found[0] / SCALE == pytest.approx((2 * np.log(2) * (52 + 64 + 23)) ** 0.5, rel=0.01)
    assert found[0] / SCALE > 13


@pytest.mark.parametrize("d", [0, 1, 2, 7, 32768, 32769])
def test_any_number_of_samples_can_be_drawn(d):
    found = Secure().rounded_gaussian(d, SCALE)
    assert found.dtype == np.int64 and found.shape == (d,)


def test_the_largest_scale_stays_exact():
    found = rounded_gaussian(Stream([2**12, 2**62, *LOW, *LOW]), 2, MAX_SCALE)
    assert 8.4 < found[1] / MAX_SCALE < 9 and found[1] < 2**52


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf"), 2.0**41])
def test_a_scale_out_of_bounds_is_refused_before_bits_are_drawn(scale):
    stream = Stream([])
    with pytest.raises(PrivacyError, match="FK315"):
        rounded_gaussian(stream, 4, scale)
    assert stream.drawn == 0


def test_a_stuck_stream_is_an_error_and_not_a_sample():
    with pytest.raises(PrivacyError, match="FK316"):
        rounded_gaussian(lambda words: words.fill(0), 2, SCALE)
