import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedkit.privacy.lattice import LARGE, G, LatticeSum, slack
from fedkit.privacy.product_sum import MOST_ROWS, clipped_sums, excess, fits, product_bits

SIZES = st.integers(1, 9)


def factors(sites, rows, layers, seed, spread=1.0):
    draw = torch.Generator().manual_seed(seed)
    scale = 10 ** (spread * torch.randn(sites, rows, 1, generator=draw))
    inputs = [torch.randn(sites, rows, m, generator=draw) * scale for m, _ in layers]
    errors = [torch.randn(sites, rows, o, generator=draw) * scale for _, o in layers]
    return inputs, errors


def empty(sites, layers):
    return [torch.full((sites, o, m), math.nan, dtype=torch.float64) for m, o in layers]


def sums(inputs, errors, present, clip, layers):
    found = empty(len(present), layers)
    clipped_sums(inputs, errors, present, clip, found)
    return found


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(SIZES, SIZES), min_size=1, max_size=3), st.integers(1, 40), st.integers(0, 10**6))
def test_sums_are_those_of_clipped_rows_on_the_lattice(layers, rows, seed):
    inputs, errors = factors(2, rows, layers, seed)
    present = torch.rand(2, rows, generator=torch.Generator().manual_seed(seed)) < 0.7
    found = sums(inputs, errors, present, 0.8, layers)
    for site in range(2):
        one_by_one = LatticeSum(sum(m * o for m, o in layers), 0.8)
        parts = [e[site, :, :, None] * a[site, :, None, :] for a, e in zip(inputs, errors, strict=True)]
        one_by_one.add(parts, present[site])
        mine = torch.cat([part[site].reshape(-1) for part in found])
        assert torch.equal(mine, mine.round())
        assert (mine - one_by_one.result()).norm() <= 1e-6 * G * math.sqrt(rows) + 2 * math.sqrt(len(mine))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(SIZES, SIZES), min_size=1, max_size=3),
    st.integers(2, 60),
    st.integers(0, 10**6),
    st.floats(0.0, 12.0),
)
def test_a_row_that_joins_moves_the_sum_by_no_more_than_the_noise_is_scaled_for(layers, rows, seed, spread):
    inputs, errors = factors(1, rows, layers, seed, spread)
    present = torch.ones(1, rows, dtype=torch.bool)
    without = present.clone()
    without[0, seed % rows] = False
    difference = [
        a - b
        for a, b in zip(
            sums(inputs, errors, present, 1.0, layers), sums(inputs, errors, without, 1.0, layers), strict=True
        )
    ]
    assert fits(layers, rows)
    moved = torch.cat([part.reshape(-1) for part in difference])
    assert moved.norm() <= slack(len(moved)) * G


def test_a_row_of_a_large_model_moves_the_sum_by_no_more_than_the_noise_is_scaled_for():
    """More parameters than bits would do for, were they bounded as those of a small one; with the fewest bits."""
    layers, rows = [(1500, 1400), (1401, 20)], MOST_ROWS
    inputs, errors = factors(1, rows, layers, 0, 0.0)
    present = torch.zeros(1, rows, dtype=torch.bool)
    present[0, :7] = True
    without = present.clone()
    without[0, 3] = False
    one, other = (sums(inputs, errors, rows_there, 1e-3, layers) for rows_there in (present, without))
    moved = torch.cat([(a - b).reshape(-1) for a, b in zip(one, other, strict=True)])
    assert len(moved) > LARGE and fits(layers, rows)
    assert 0.999 * G < moved.norm() <= slack(len(moved)) * G


def test_the_order_of_rows_changes_no_bit():
    layers = [(30, 17), (17, 3)]
    inputs, errors = factors(3, 200, layers, 1, 3.0)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(2))
    present = torch.ones(3, 200, dtype=torch.bool)
    there = sums(inputs, errors, present, 1.0, layers)
    back = sums([a[:, order] for a in inputs], [e[:, order] for e in errors], present, 1.0, layers)
    assert all(torch.equal(a, b) for a, b in zip(there, back, strict=True))


def test_what_another_row_holds_changes_nothing_but_its_own_term():
    """Huge rows beside tiny ones: a float sum would lose the tiny ones' last bits."""
    layers = [(6, 4)]
    inputs, errors = factors(1, 32, layers, 3)
    only = torch.zeros(1, 32, dtype=torch.bool)
    only[0, 0] = True
    rest = ~only
    alone = sums(inputs, errors, only, 1.0, layers)[0]
    others = sums(inputs, errors, rest, 1.0, layers)[0]
    together = sums(inputs, errors, only | rest, 1.0, layers)[0]
    # Each of the three is rounded to the lattice once.
    assert (together - alone - others).abs().max() <= 1.5


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["input", "error"])
def test_a_row_that_is_not_finite_counts_as_nothing(bad, where):
    layers = [(5, 4), (4, 2)]
    inputs, errors = factors(2, 8, layers, 4)
    present = torch.ones(2, 8, dtype=torch.bool)
    left_out = present.clone()
    left_out[1, 3] = False
    expected = sums(inputs, errors, left_out, 1.0, layers)
    (inputs if where == "input" else errors)[1][1, 3, 1] = bad
    found = sums(inputs, errors, present, 1.0, layers)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_rows_without_a_gradient_and_empty_lots_add_nothing():
    layers = [(5, 4)]
    inputs, errors = [torch.zeros(2, 3, 5)], [torch.zeros(2, 3, 4)]
    assert not sums(inputs, errors, torch.ones(2, 3, dtype=torch.bool), 1.0, layers)[0].any()
    inputs, errors = factors(2, 3, layers, 0)
    assert not sums(inputs, errors, torch.zeros(2, 3, dtype=torch.bool), 1.0, layers)[0].any()


@pytest.mark.parametrize("rows", [1, 2, 3, 255, 256, 257, MOST_ROWS])
def test_partial_sums_of_so_many_rows_stay_below_what_float64_holds(rows):
    b, c = product_bits(rows)
    assert rows * 2.0 ** (b + c) * (1 + excess([(1000, 1000)], rows)) < 2.0**53


def test_full_lots_of_equal_rows_are_added_exactly():
    rows = 256
    inputs, errors = [torch.full((1, rows, 1), 3.0)], [torch.full((1, rows, 1), 5.0)]
    assert sums(inputs, errors, torch.ones(1, rows, dtype=torch.bool), 1.0, [(1, 1)])[0].item() == rows * G


def test_what_has_too_few_bits_is_not_admitted():
    assert not fits([(10, 10)], MOST_ROWS + 1)
    assert not fits([(60_000, 60_000)], MOST_ROWS)
