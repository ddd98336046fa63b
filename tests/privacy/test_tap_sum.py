import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedkit.native.library import library
from fedkit.privacy import tap_sum
from fedkit.privacy.lattice import G, LatticeSum, slack
from fedkit.privacy.tap_rows import add_rows, lie_in_rows
from fedkit.privacy.tap_sum import MOST_PLACES, Explicit, Product, Table, TapSum, fits

SIZES = st.integers(1, 9)
PARTS = st.lists(
    st.one_of(
        st.builds(Product, SIZES, SIZES, st.booleans()),
        st.builds(Explicit, st.integers(1, 40)),
        st.builds(Table, SIZES, SIZES),
    ),
    min_size=1,
    max_size=4,
)


@pytest.fixture(scope="module", params=["compiled", "torch"], autouse=True)
def way(request):
    """Whatever is tested here holds of compiled sums and of others."""
    if request.param == "compiled" and library() is None:
        pytest.skip("no compiled library here")
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "torch":
            patch.setattr(tap_sum, "lie_in_rows", lambda told: False)
        yield request.param


def told(parts, rows, seed, spread=1.0):
    """What layers tell of random rows, of sizes that differ by powers of ten."""
    draw = torch.Generator().manual_seed(seed)
    scale = 10 ** (spread * torch.randn(rows, 1, generator=draw))
    found = []
    for part in parts:
        if isinstance(part, Product):
            found.append(
                (
                    torch.randn(rows, part.inputs, generator=draw) * scale,
                    torch.randn(rows, part.outputs, generator=draw) * scale,
                )
            )
        elif isinstance(part, Explicit):
            found.append((torch.randn(rows, part.size, generator=draw) * scale,))
        else:
            named = min(3, part.lines)
            lines = torch.stack([torch.randperm(part.lines, generator=draw)[:named] for _ in range(rows)])
            values = torch.randn(rows, named, part.columns, generator=draw) * scale[:, :, None]
            # A line that comes again, with zeros.
            lines, values = torch.cat([lines, lines[:, :1]], 1), torch.cat([values, torch.zeros_like(values[:, :1])], 1)
            found.append((lines, values))
    return found


def row_gradients(parts, values):
    """As arrays of every parameter, in float64."""
    found = []
    for part, each in zip(parts, values, strict=True):
        if isinstance(part, Product):
            a, e = (v.double() for v in each)
            a = torch.cat([a, torch.ones(len(a), int(part.bias), dtype=a.dtype)], 1)
            found.append((e[:, :, None] * a[:, None, :]).flatten(1))
        elif isinstance(part, Explicit):
            found.append(each[0].double())
        else:
            whole = torch.zeros(len(each[0]), part.lines, part.columns, dtype=torch.float64)
            for row, (lines, entries) in enumerate(zip(*each, strict=True)):
                whole[row].index_add_(0, lines, entries.double())
            found.append(whole.flatten(1))
    return found


def summed(parts, values, present, clip=1.0, splits=1):
    total = TapSum(parts, clip, compiled=True)
    for where in torch.arange(len(present)).chunk(splits):
        total.add([tuple(v[where] for v in each) for each in values], present[where])
    return torch.cat([part.reshape(-1) for part in total.result()])


@settings(max_examples=80, deadline=None)
@given(PARTS, st.integers(1, 40), st.integers(0, 10**6))
def test_sums_are_those_of_clipped_rows_on_the_lattice(parts, rows, seed):
    values = told(parts, rows, seed)
    present = torch.rand(rows, generator=torch.Generator().manual_seed(seed)) < 0.7
    found = summed(parts, values, present, 0.8)
    one_by_one = LatticeSum(len(found), 0.8)
    one_by_one.add([part.float() for part in row_gradients(parts, values)], present)
    apart = (found - one_by_one.result()).double().norm()
    assert apart <= 1e-6 * G * math.sqrt(rows) + 2 * math.sqrt(len(found))


@settings(max_examples=80, deadline=None)
@given(PARTS, st.integers(2, 60), st.integers(0, 10**6), st.floats(0.0, 8.0))
def test_a_row_that_joins_moves_the_sum_by_no_more_than_the_noise_is_scaled_for(parts, rows, seed, spread):
    values = told(parts, rows, seed, spread)
    present = torch.ones(rows, dtype=torch.bool)
    without = present.clone()
    without[seed % rows] = False
    assert fits(parts)
    moved = (summed(parts, values, present) - summed(parts, values, without)).double()
    assert moved.norm() <= slack(len(moved)) * G


def test_a_row_at_the_clip_comes_close_to_the_bound_and_not_beyond():
    """The bound is no waste: rows of the same gradient far above the clip, rounding at its worst."""
    parts = [Product(30, 40, True), Explicit(5000), Table(10, 7)]
    values = told(parts, 50, 3, 2.0)
    present = torch.ones(50, dtype=torch.bool)
    for row in range(50):
        without = present.clone()
        without[row] = False
        moved = (summed(parts, values, present) - summed(parts, values, without)).double().norm()
        assert moved <= slack(sum(part.size for part in parts)) * G


@settings(max_examples=40, deadline=None)
@given(PARTS, st.integers(0, 10**6), st.integers(1, 7))
def test_neither_order_nor_blocks_change_a_bit(parts, seed, splits):
    # Whole numbers, whose norms are exact: only sums are in question.
    values = [
        tuple(v if v.dtype == torch.int64 else v.clamp(-50, 50).round() for v in each) for each in told(parts, 60, seed)
    ]
    present = torch.rand(60, generator=torch.Generator().manual_seed(seed)) < 0.7
    order = torch.randperm(60, generator=torch.Generator().manual_seed(seed + 1))
    turned = [tuple(v[order] for v in each) for each in values]
    assert torch.equal(summed(parts, values, present), summed(parts, turned, present[order]))
    assert torch.equal(summed(parts, values, present), summed(parts, values, present, splits=splits))


@pytest.mark.parametrize("shape", [(1, 1), (3, 2), (30, 9), (257, 64), (8, 4)])
@pytest.mark.parametrize("rows", [1, 7, 61])
def test_compiled_integers_are_those_that_are_written_down(rows, shape, way):
    if way == "torch":
        pytest.skip("float32 norms")
    parts = [Product(*shape, True), Explicit(97), Product(shape[1], shape[0], False), Explicit(16)]
    values = told(parts, rows, rows)
    present = torch.rand(rows, generator=torch.Generator().manual_seed(rows)) < 0.7
    kept, clip, bits = np.flatnonzero(present), 0.8, tap_sum._BITS
    found = TapSum(parts, clip, compiled=True)
    found.add(values, present)
    each = [[v.double().numpy()[kept] for v in part] for part in values]
    each[0][0] = np.concatenate([each[0][0], np.ones((len(kept), 1))], 1)
    sizes = [np.linalg.norm(part[0], axis=1) for part in each]
    norms = np.sqrt(sum(np.prod([np.linalg.norm(v, axis=1) ** 2 for v in part], 0) for part in each))
    factors = np.minimum(1 / norms, 1 / clip)
    for part, size, total, below in zip(each, sizes, found.result(), found._below, strict=True):
        if len(part) == 1:
            assert np.array_equal(np.rint(part[0] * (factors * G)[:, None]).sum(0), total)
            continue
        u = np.rint(part[0] * (2.0 ** bits[0] / size)[:, None])
        v = np.rint(part[1] * (factors * size * 2.0 ** bits[1])[:, None])
        assert np.array_equal(v.T @ u, below)


def test_what_does_not_lie_as_compiled_code_reads_it_is_left_to_torch_or_refused():
    part, sums = torch.zeros(4, 6), [torch.zeros(6, dtype=torch.int64)]
    assert lie_in_rows([(part,)]) == (library() is not None)
    for other in (part.double(), part.t(), part.view(4, 2, 3), part[:, ::2]):
        assert not lie_in_rows([(other,)])
    if library() is None:
        return
    here = np.arange(4)
    with pytest.raises(ValueError, match="place"):
        add_rows([(part,)], [False], here + 1, sums, 1.0, (G, 1.0, 1.0), first=True)
    with pytest.raises(ValueError, match="sum"):
        add_rows([(part[:, :5],)], [False], here, sums, 1.0, (G, 1.0, 1.0), first=True)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", range(3))
@pytest.mark.parametrize("last", [Table(4, 2), Explicit(9)])
def test_a_row_that_is_not_finite_counts_as_nothing(bad, where, last):
    parts = [Product(5, 4, True), Explicit(6), last]
    values = told(parts, 8, 4)
    present = torch.ones(8, dtype=torch.bool)
    left_out = present.clone()
    left_out[3] = False
    expected = summed(parts, values, left_out)
    values[where][-1][3, 1] = bad
    assert torch.equal(summed(parts, values, present), expected)


def test_rows_without_a_gradient_and_empty_lots_add_nothing():
    parts = [Product(5, 4, False), Explicit(6), Table(4, 2)]
    nothing = [tuple(v * 0 for v in each) for each in told(parts, 3, 0)]
    assert not summed(parts, nothing, torch.ones(3, dtype=torch.bool)).any()
    assert not summed(parts, told(parts, 3, 0), torch.zeros(3, dtype=torch.bool)).any()


def test_full_blocks_of_equal_rows_are_added_exactly_for_as_long_as_one_likes(monkeypatch):
    """Rows of one coordinate that fills the clip: nothing rounds, and integers must not run over."""
    monkeypatch.setattr(tap_sum, "_FOLD", 3 * MOST_PLACES)
    total = TapSum([Product(1, 1, False)], 1.0, compiled=True)
    values = [(torch.full((MOST_PLACES, 1), 3.0), torch.full((MOST_PLACES, 1), -5.0))]
    for _ in range(50):
        total.add(values, torch.ones(MOST_PLACES, dtype=torch.bool))
    assert total.result()[0].item() == -50 * MOST_PLACES * G


def test_below_the_fold_partial_sums_stay_within_int64():
    bits = sum(tap_sum._BITS)
    assert (tap_sum._FOLD + MOST_PLACES) * 2.0**bits * 1.01 < 2.0**63
    assert MOST_PLACES * 2.0**bits * 1.001 < 2.0**53


def test_what_has_too_few_bits_or_too_many_rows_is_not_admitted():
    assert fits([Explicit(10**6)]) and not fits([Product(200_000, 200_000, True)])
    with pytest.raises(ValueError, match="257 places"):
        TapSum([Explicit(1)], 1.0, compiled=True).add([(torch.ones(257, 1),)], torch.ones(257, dtype=torch.bool))
