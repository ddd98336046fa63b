import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedkit.privacy.lattice import G, slack
from fedkit.privacy.tap_block import Grid, bits_of, block_sum
from fedkit.privacy.tap_sum import MOST_PLACES, Explicit, Product, Table, TapSum
from tests.privacy.test_tap_sum import PARTS, told

GPU = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU here"))
everywhere = pytest.mark.parametrize("device", ["cpu", GPU])


def dense(parts, values, present, clip=1.0, device="cpu", splits=1):
    """By blocks whose sums are added before they are rounded."""
    grid = Grid(bits_of(parts).to(device))
    where = torch.arange(len(present)).chunk(splits)
    blocks = (
        block_sum(parts, [tuple(v[at].to(device) for v in each) for each in values], present[at].to(device), clip)
        for at in where
    )
    return grid.rounded(blocks, len(where)).cpu()


def packed(part, sums):
    """As a model is packed: a bias, the last column of a product, behind all weights."""
    columns = [sums[:, : part.inputs], sums[:, part.inputs :]] if isinstance(part, Product) else [sums]
    return [each.reshape(-1) for each in columns]


@everywhere
@settings(max_examples=80, deadline=None)
@given(PARTS, st.integers(1, 40), st.integers(0, 10**6), st.integers(1, 3))
def test_sums_are_those_that_leave_out_rows_that_do_not_count(device, parts, rows, seed, splits):
    values = told(parts, rows, seed)
    present = torch.rand(rows, generator=torch.Generator().manual_seed(seed)) < 0.7
    total = TapSum(parts, 0.8, compiled=False)
    total.add(values, present)
    expected = torch.cat(
        [each for part, sums in zip(parts, total.result(), strict=True) for each in packed(part, sums)]
    )
    apart = (dense(parts, values, present, 0.8, device, splits) - expected).double().norm()
    # A norm that is added up in another order is off by a unit in its last place.
    assert apart <= 1e-6 * G * math.sqrt(rows)


@everywhere
@settings(max_examples=80, deadline=None)
@given(PARTS, st.integers(2, 60), st.integers(0, 10**6), st.floats(0.0, 8.0))
def test_a_row_that_joins_moves_the_sum_by_its_own_term_and_within_what_noise_is_scaled_for(
    device, parts, rows, seed, spread
):
    values = told(parts, rows, seed, spread)
    present = torch.ones(rows, dtype=torch.bool)
    without, alone = present.clone(), ~present
    without[seed % rows], alone[seed % rows] = False, True
    whole, others, own = (dense(parts, values, who, device=device) for who in (present, without, alone))
    assert (whole - others).double().norm() <= slack(len(own)) * G
    # Its own term, but that every sum is rounded to the lattice.
    assert (whole - others - own).abs().max() <= 1


@everywhere
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", range(3))
def test_a_row_that_is_not_finite_counts_as_nothing(bad, where, device):
    parts = [Product(5, 4, True), Explicit(6), Table(4, 2)]
    values = told(parts, 8, 4)
    present = torch.ones(8, dtype=torch.bool)
    left_out = present.clone()
    left_out[3] = False
    expected = dense(parts, values, left_out, device=device)
    assert expected.any()
    values[where][-1][3, 1] = bad
    assert torch.equal(dense(parts, values, present, device=device), expected)


def test_what_stands_in_a_place_of_nobody_adds_nothing_whatever_it_is():
    parts = [Product(5, 4, True), Explicit(6), Table(4, 2)]
    values = told(parts, 8, 4)
    for each in values:
        each[-1][2] = math.nan
    assert not dense(parts, values, torch.zeros(8, dtype=torch.bool)).any()


def test_neither_room_nor_memory_that_is_used_again_loses_a_bit(monkeypatch):
    parts, held = [Product(5, 4, True), Explicit(6)], torch.zeros(30, dtype=torch.int64)
    blocks = [block_sum(parts, told(parts, 20, seed), torch.ones(20, dtype=torch.bool), 1.0) for seed in range(12)]
    monkeypatch.setattr("fedkit.privacy.tap_block.MOST_BLOCKS", 3)
    grid = Grid(bits_of(parts))
    found = grid.rounded((held.copy_(block) for block in blocks), 12)
    assert torch.equal(found, grid.rounded([torch.stack(blocks).sum(0)], 1))
    with pytest.raises(ValueError, match="a block at least"):
        grid.rounded([], 0)


def test_more_places_than_sums_are_exact_for_are_refused():
    parts, rows = [Explicit(2)], MOST_PLACES + 1
    with pytest.raises(ValueError, match="at most 256"):
        block_sum(parts, [(torch.ones(rows, 2),)], torch.ones(rows, dtype=torch.bool), 1.0)
