import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedkit.config.experiment import ModelConfig
from fedkit.models import build
from fedkit.privacy.dp_sgd import lot_gradients
from fedkit.privacy.lattice import MOVED, G, clipped_sum, integer_noise, slack, unit_norms
from fedkit.privacy.randomness import Secure, Seeded, generator


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


def test_seeded_noise_keeps_the_bits_that_recorded_runs_repeat():
    plain = generator(3, "noise").standard_normal(500)
    expected = np.rint(plain * (1.3 * (1.0 + 2.0**-14 + 500**0.5 / (2 * G)) * G)).astype(np.int64)
    assert np.array_equal(integer_noise(Seeded(3, "noise"), 500, 1.3), expected)


def test_noise_grows_with_the_bound_on_the_lot():
    assert slack(14) == slack(14, 0) < slack(14, 1) < slack(14, 512) < 1.04
    plain, wider = (integer_noise(Seeded(1), 1000, 2.0, lot) for lot in (0, 1_000_000))
    assert wider.std() / plain.std() == pytest.approx(slack(1000, 1_000_000) / slack(1000), rel=1e-5)


def binary(outputs, y):
    return torch.nn.functional.binary_cross_entropy_with_logits(outputs.squeeze(1), y, reduction="sum")


def multiclass(outputs, y):
    return torch.nn.functional.cross_entropy(outputs, y.long(), reduction="sum")


def clipped(gradients, clip):
    """Each unit's gradient as ``clipped_sum`` rounds it, and as real numbers; float64 [units, d] both."""
    flat = [part.reshape(len(part), -1) for part in gradients]
    factors = torch.clamp(clip / unit_norms(flat), max=1.0)[:, None] * (G / clip)
    integers = torch.cat([(part * factors.float()).round().double() for part in flat], 1)
    return integers, torch.cat([part.double() * factors for part in flat], 1)


BATCHED = {
    "logistic": ("logistic", {}, 13, 1, binary),
    "logistic, wide": ("logistic", {}, 300, 1, binary),
    "logistic, five classes": ("logistic", {}, 30, 5, multiclass),
    "mlp": ("mlp", {}, 13, 1, binary),
    "mlp, odd widths": ("mlp", {"hidden": (7, 65)}, 30, 5, multiclass),
    "mlp, deep": ("mlp", {"hidden": (64, 64, 64)}, 30, 1, binary),
    "mlp, wide": ("mlp", {"hidden": (256,)}, 300, 1, binary),
    "mlp, a million": ("mlp", {"hidden": (1000,)}, 999, 1, binary),
}


@pytest.mark.parametrize("kind", ["random rows", "equal values", "large outputs"])
@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] if "million" in n else []) for n in BATCHED])
def test_rows_of_a_lot_move_each_other_by_no_more_than_the_slack_grants(name, kind):
    model, arguments, width, outputs, losses = BATCHED[name]
    module = build(ModelConfig(model, arguments), (width,), outputs, seed=1)
    d, clip = sum(p.numel() for p in module.parameters()), 0.1
    random = torch.Generator().manual_seed(2)
    alike, size = kind == "equal values", 1.0
    if kind == "large outputs":
        size = 4.0
        with torch.no_grad():
            for p in module.parameters():
                p.mul_(3.0)
    moves, rounded, total, share = [], 0.0, 0.0, 0.0
    with lot_gradients(module, losses) as gradients:
        for lot in (64, 300, 512) if d < 5e4 else (64,):
            x = torch.randn(lot, 1 if alike else width, generator=random).repeat(1, width if alike else 1) * size
            y = torch.randint(0, max(2, outputs), (lot,), generator=random).float()
            whole, exact = clipped(gradients._row_gradients(x, y), clip)
            for kept in (range(1, lot), range(lot - 1), range(3), range(0, lot, 2), range(1)):
                rows = torch.tensor(list(kept))
                part, part_exact = clipped(gradients._row_gradients(x[rows], y[rows]), clip)
                moves.append((exact[rows] - part_exact).norm(dim=1) / G)
                change = whole[rows] - part
                rounded = max(rounded, float(change.norm(dim=1).max()) / G)
                total = max(total, float(change.sum(0).norm()) / G)
                share = max(share, float(change.sum(0).norm()) / G / (slack(d, len(rows)) - slack(d)))
    moved = torch.cat(moves).sort(descending=True).values
    print(d, f"worst move 2**{float(moved[0].log2()):.2f}, after rounding {rounded:.2g}, whole sum {total:.2g}")
    # One row in thousands may sit on a ReLU's kink (see the module); a logistic model has none.
    switched = model != "logistic" and float(moved[0]) > MOVED
    assert float(moved[int(switched)]) < MOVED / 1.5
    assert switched or share < 0.5
