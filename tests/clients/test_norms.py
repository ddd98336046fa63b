"""The bounds of a private update's norm, held against the real mechanism and against closed forms."""

import math
from dataclasses import replace

import numpy as np
import pytest
from fedkit_client.norms import norm_bounds, released_norm
from scipy.stats import chi

from fedkit.federation import wire
from fedkit.types import ClientUpdate, LocalPlan, PrivacyPlan

PLAN = PrivacyPlan(
    "north", "record", "add_remove", 0.1, 1.0, 1.0, 10.0, 4, 2, 3.0, 1e-5, "rdp", 100, True, "secure", 40
)
LOCAL = LocalPlan(4, 10, 0.1, "sgd", PLAN)


@pytest.mark.parametrize("size", [1, 10, 100, 1000, 100_000])
def test_the_noise_alone_of_one_step_is_outside_as_rarely_as_is_said(size):
    local = replace(LOCAL, steps=1, privacy=replace(PLAN, steps=1, max_lot=0))
    least, most = norm_bounds(local, size)
    # The norm of size Gaussian entries, exactly.
    one = 0.1 * 1.0 / 10.0
    assert chi.cdf(least / one, size) <= 1.1e-9
    assert chi.sf(most / one, size) <= 1.1e-9
    # And they are no further away than they must be.
    assert most / one < 1.02 * (math.sqrt(size) + 7)
    assert least == 0 if size < 83 else least / one > math.sqrt(size) - 7 or size < 1000


@pytest.mark.parametrize("size", [100, 5000])
def test_an_update_of_as_large_gradients_as_can_be_is_within(size):
    random = np.random.default_rng(5)
    least, most = norm_bounds(LOCAL, size)
    for _ in range(200):
        total = np.zeros(size)
        for _ in range(LOCAL.steps):
            # Every place of a lot holds the same gradient of the norm that clipping leaves.
            gradient = np.zeros(size)
            gradient[0] = PLAN.max_lot * PLAN.max_grad_norm
            total -= 0.1 * (gradient + random.normal(0, PLAN.noise_multiplier, size)) / PLAN.lot_size
        assert least <= np.linalg.norm(total) <= most


def test_an_update_without_its_noise_and_one_without_its_clip_are_outside():
    size = 5000
    least, most = norm_bounds(LOCAL, size)
    # A lot's ordinary sum without noise, and one record that was not clipped.
    assert np.linalg.norm(np.full(size, 0.1 * 4 * 10 / 10 / math.sqrt(size))) < least
    assert 0.1 * 1000 * PLAN.lot_size / PLAN.lot_size > most


def test_a_pull_that_pushes_and_adam_leave_what_can_be_said():
    assert norm_bounds(LOCAL, 100, 20.0)[1] is not None and norm_bounds(LOCAL, 100, 20.1)[1] is None
    least, most = norm_bounds(replace(LOCAL, optimizer="adam"), 100)
    assert least == 0.0 and most == pytest.approx(7.3 * 0.1 * 4 * 10, rel=0.01)
    assert norm_bounds(replace(LOCAL, privacy=None), 100) == (0.0, None)


def test_no_step_of_adam_is_longer_than_its_bound():
    import torch

    from fedkit.training.updates import updater

    flat = torch.zeros(1)
    step, furthest = updater(flat, "adam", 1.0, 0.0), 0.0
    for number in range(3000):
        before = flat.clone()
        # The worst that Cauchy and Schwarz allow: gradients that grow as the ratio of the moments' decays.
        step(torch.full((1,), (0.999 / 0.9) ** min(number, 600)))
        furthest = max(furthest, float((flat - before).abs()))
    assert 3 < furthest <= 7.3


def test_the_norm_is_that_of_the_array_in_the_reply():
    values = np.linspace(-1, 1, 300_001, dtype=np.float32)
    content = wire.pack_update(ClientUpdate("north", values, 5.0))
    assert released_norm(content) == pytest.approx(np.linalg.norm(values.astype(np.float64)), rel=1e-12)
    assert released_norm(wire.pack_update(ClientUpdate("north", np.full(3, np.nan, np.float32), 5.0))) is None
    assert released_norm(wire.pack_histograms(np.ones(3))) is None
