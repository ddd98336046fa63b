import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedkit.privacy.lattice import G, LatticeSum, fill_integer_noise, integer_noise, slack, unit_norms
from fedkit.privacy.randomness import Secure, Seeded


def clipped_sum(parts, clip):
    """One block's units."""
    total = LatticeSum(sum(part[0].numel() for part in parts), clip)
    total.add(parts)
    return total.result()


def gradients(units, shapes, scale, seed):
    rng = np.random.default_rng(seed)
    return [torch.tensor(rng.normal(0, scale, (units, *shape)), dtype=torch.float32) for shape in shapes]


@settings(max_examples=40, deadline=None)
@given(
    scale=st.sampled_from([1e-20, 1e-6, 0.1, 1.0, 1e3, 1e15, 1e25]),
    clip=st.sampled_from([1e-3, 1.0, 50.0]),
    d=st.integers(1, 3000),
    seed=st.integers(0, 2**20),
)
def test_clipped_unit_contribution_never_exceeds_the_sensitivity(scale, clip, d, seed):
    total = clipped_sum(gradients(1, [(d,), (2, 3)], scale, seed), clip)
    assert float(total.double().norm()) <= slack(d + 6) * G


@settings(max_examples=25, deadline=None)
@given(scale=st.sampled_from([1e-3, 1.0, 1e4]), units=st.integers(2, 40), seed=st.integers(0, 2**20))
def test_neighbouring_lots_differ_by_at_most_the_sensitivity(scale, units, seed):
    whole = gradients(units, [(1, 5), (1,)], scale, seed)
    without = [part[1:].clone() for part in whole]
    difference = clipped_sum(whole, 1.0) - clipped_sum(without, 1.0)
    assert float(difference.double().norm()) <= slack(6) * G


def test_the_sum_is_exact_in_any_order_and_however_it_is_chunked():
    whole = gradients(61, [(20_000,)], 0.01, 0)
    shuffled = [part[torch.randperm(61, generator=torch.Generator().manual_seed(1))] for part in whole]
    parts = [clipped_sum([part[a:b] for part in whole], 1.0) for a, b in ((0, 1), (1, 10), (10, 61))]
    total = clipped_sum(whole, 1.0)
    assert torch.equal(total, clipped_sum(shuffled, 1.0))
    assert torch.equal(total, parts[0] + parts[1] + parts[2])


def test_the_sum_equals_plain_clipping_in_double_precision():
    whole = gradients(30, [(3, 4), (5,)], 1.0, 3)
    flat = torch.cat([part.reshape(30, -1) for part in whole], 1).double()
    factors = torch.clamp(0.7 / flat.norm(dim=1, keepdim=True), max=1.0)
    expected = (flat * factors).sum(0)
    found = clipped_sum(whole, 0.7).double() * 0.7 / G
    assert torch.allclose(found, expected, atol=30 * 0.7 / G)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3e38])
def test_a_gradient_that_is_not_finite_counts_as_nothing(bad):
    whole = gradients(5, [(4,)], 1.0, 0)
    without = clipped_sum([part[1:].clone() for part in whole], 1.0)
    whole[0][0, 2] = bad
    assert torch.equal(clipped_sum(whole, 1.0), without)


def test_norms_agree_with_double_precision_within_the_slack():
    parts = gradients(4, [(5000,), (3, 7)], 1.0, 0)
    exact = torch.cat([part.reshape(4, -1) for part in parts], 1).double().norm(dim=1)
    assert torch.allclose(unit_norms([part.reshape(4, -1) for part in parts]), exact, rtol=2.0**-15, atol=0)


@pytest.mark.parametrize("source", [Seeded(1), Secure()], ids=["seeded", "secure"])
def test_noise_has_the_standard_deviation_of_the_plan_and_never_less(source):
    noise = integer_noise(source, 200_000, 1.7)
    assert noise.dtype == np.int64
    assert noise.std() / G == pytest.approx(1.7 * slack(200_000), rel=0.01)
    assert 1.0 < slack(14) < 1.0001


def test_noise_is_scaled_by_the_slack_to_the_last_bit():
    scale = 1.3 * (1.0 + 2.0**-14 + 500**0.5 / (2 * G)) * G
    expected = Seeded(3, "noise").rounded_gaussian(500, scale)
    assert np.array_equal(integer_noise(Seeded(3, "noise"), 500, 1.3), expected)
    filled = np.empty((2, 500))
    fill_integer_noise(filled, Seeded(3, "noise"), 1.3)
    assert np.array_equal(filled[0], expected) and not np.array_equal(filled[1], expected)
