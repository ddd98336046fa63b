"""The composed distributions, held to those of dp-accounting and to bounds that do not share their algorithm."""

import math
import random

import mpmath
import numpy as np
import pytest
from dp_accounting.pld import privacy_loss_distribution as oracle

from fedkit.privacy import accounting, pld
from fedkit.privacy.accounting import GaussianEvent, epsilon_of
from fedkit.privacy.rough import rough_epsilon

# (q, sigma, steps) of each kind, delta, discretisation
CASES = [
    (((0.05, 1.0, 1000),), 1e-5, 1e-3),
    (((1 / 19, 1.2, 1900),), 1e-6, 1e-3),
    (((1 / 19, 4.0, 380),), 1e-5, 1e-4),
    (((256 / 60000, 1.1, 14040),), 1e-5, 1e-3),
    (((0.01, 4.0, 10000),), 1e-5, 1e-4),
    (((0.2, 1.0, 250),), 1e-5, 1e-3),
    (((0.1, 0.1, 5),), 1e-5, 1e-2),
    (((0.999, 3.0, 100),), 1e-6, 1e-3),
    (((1e-4, 0.6, 1000),), 1e-8, 1e-3),
    (((0.05, 1.0, 1),), 1e-5, 1e-4),
    (((1.0, 5.0, 1),), 1e-5, 1e-4),
    (((0.05, 1.0, 400), (0.1, 1.5, 300), (0.01, 0.8, 2000)), 1e-5, 1e-3),
    (((0.1, 1.4, 150), (1.0, 9.0, 1)), 1e-5, 1e-4),
]


def theirs(kinds, interval, **more):
    total = None
    for q, sigma, steps in kinds:
        one = oracle.from_gaussian_mechanism(
            sigma, sampling_prob=q, value_discretization_interval=interval, **more
        ).self_compose(steps)
        total = one if total is None else total.compose(one)
    return total


@pytest.mark.parametrize(("kinds", "delta", "interval"), CASES)
def test_epsilon_is_that_of_dp_accounting(kinds, delta, interval):
    agrees(kinds, delta, interval)


def agrees(kinds, delta, interval):
    """Both are rounded otherwise; less than half of what is set aside for that must do."""
    found, reference = pld.epsilon_at(pld.composed(kinds, interval), delta), theirs(kinds, interval)
    assert found == pytest.approx(reference.get_epsilon_for_delta(delta), rel=2e-5, abs=1e-9), (kinds, delta)
    apart = 0.4e-15 * sum(steps for *_, steps in kinds) + 1e-8 * delta
    assert abs(reference.get_delta_for_epsilon(found) - delta) <= apart, (kinds, delta)


@pytest.mark.slow
def test_epsilon_is_that_of_dp_accounting_wherever_people_train():
    draw = random.Random(5)
    for _ in range(60):
        kinds = ((10 ** draw.uniform(-3, -0.01), 10 ** draw.uniform(-0.3, 1), round(10 ** draw.uniform(0, 3.5))),)
        if draw.random() < 0.5:
            kinds = (*kinds, (1.0, 10 ** draw.uniform(0.5, 2), 1))
        delta = 10 ** draw.uniform(-7, -3)
        interval = pld.interval_of(kinds, rough_epsilon(kinds, delta), 10 * pld.FINE)
        agrees(kinds, delta, interval)


@pytest.mark.parametrize(
    ("kinds", "delta"),
    [(((0.05, 1.0, 300),), 1e-5), (((0.2, 2.0, 40), (1.0, 12.0, 1)), 1e-5), (((0.01, 0.7, 500),), 1e-6)],
)
def test_epsilon_is_above_a_lower_bound_that_rounds_losses_down(kinds, delta):
    below = theirs(kinds, 1e-4, pessimistic_estimate=False, use_connect_dots=False).get_epsilon_for_delta(delta)
    found = pld.epsilon_at(pld.composed(kinds, 1e-4), delta)
    assert below < found < below + 0.12


@pytest.mark.parametrize(("q", "sigma"), [(0.05, 1.0), (0.3, 0.5), (0.9, 3.0), (1.0, 2.0), (1e-3, 0.7)])
@pytest.mark.parametrize("interval", [1e-3, 0.03])
def test_divergences_of_one_step_are_exact_on_the_grid_and_above_between(q, sigma, interval):
    removed, *rest = pld.one_step(q, sigma, interval)
    for losses, add in [(removed, False), *((each, True) for each in rest)]:
        edge = -math.log1p(-q) if add else 3.0
        for at in np.linspace(0.0, min(edge, 3.0), 12)[:-1]:
            exact = true_delta(q, sigma, float(at), add)
            here = divergence(losses, float(at))
            assert here >= exact - 1e-15
            assert here <= exact + 2 * interval  # the dots are connected, so that no more than one interval is lost
        whole = round(0.1 / interval) * interval
        if whole < edge:
            assert divergence(losses, whole) == pytest.approx(float(true_delta(q, sigma, whole, add)), abs=1e-14)


def divergence(losses, epsilon):
    at = (losses.first + np.arange(len(losses.masses))) * losses.interval
    above = at > epsilon
    return losses.infinite + float(losses.masses[above] @ -np.expm1(epsilon - at[above]))


def true_delta(q, sigma, epsilon, add):
    """Hockey-stick divergence of one sampled step, by the root of its privacy loss in 40 digits."""
    with mpmath.workdps(40):
        q, sigma, epsilon = mpmath.mpf(q), mpmath.mpf(sigma), mpmath.mpf(epsilon)

        def mixed(x, at):
            return (1 - q) * mpmath.ncdf(x / sigma) + q * mpmath.ncdf((x - at) / sigma)

        if add:
            x = mpmath.mpf(0.5) + sigma**2 * mpmath.log1p(mpmath.expm1(-epsilon) / q)
            return mpmath.ncdf(x / sigma) - mpmath.exp(epsilon) * mixed(x, 1)
        x = -mpmath.mpf(0.5) - sigma**2 * mpmath.log1p(mpmath.expm1(epsilon) / q)
        return mixed(x, -1) - mpmath.exp(epsilon) * mpmath.ncdf(x / sigma)


def test_adding_a_unit_is_never_dearer_than_the_pair_says():
    removed, added = pld.composed(((0.3, 2.0, 20),), 1e-3)
    both = pld.epsilon_at((removed, added), 1e-5)
    assert both == max(pld.epsilon_at((removed,), 1e-5), pld.epsilon_at((added,), 1e-5))
    reference = theirs(((0.3, 2.0, 20),), 1e-3)
    assert pld.epsilon_at((added,), 1e-5) == pytest.approx(reference._pmf_add.get_epsilon_for_delta(1e-5), rel=1e-8)


def test_mass_is_kept_and_what_is_cut_off_counts_as_infinite():
    assert all((losses.masses >= 0).all() for losses in pld.one_step(0.1, 1.0, 1e-3))
    for losses in pld.composed(((0.1, 1.0, 500),), 1e-3):
        assert 1 - 1e-13 < losses.masses.sum() + losses.infinite < 1 + 1e-6  # what rounds below 0 is taken as 0
        assert losses.infinite >= pld.TAIL


@pytest.mark.parametrize(
    ("q", "sigma", "interval"), [(0.5, 0.71, 6.5e-4), (0.5, 0.636, 7.86e-4), (0.3, 1.0, 2e-4), (0.3, 1.0, 1.3e-4)]
)
def test_rounding_takes_no_mass_from_one_step(q, sigma, interval):
    for losses in pld.one_step(q, sigma, interval):
        # Times a million steps: far below what is set aside for it.
        assert math.fsum([*losses.masses, losses.infinite, -1.0]) >= -1e-16


@pytest.mark.parametrize("shift", [33.0, 37.4, 39.0, 42.0])
def test_divergences_where_doubles_end_are_never_too_low(shift):
    interval = 0.25
    first, deltas = pld._removed(1.0, 1 / shift, interval)
    for loss in range(640, 760):
        place = round(loss / interval) - first
        exact = true_delta(1.0, 1 / shift, loss, False)
        assert deltas[place] >= exact - 5e-15
        assert np.minimum.accumulate(deltas)[place] >= exact - 5e-15


def test_losses_whose_exponential_vanishes_have_an_epsilon_without_overflow():
    with np.errstate(all="raise", under="ignore"):
        (found,) = accounting.epsilon_curve(0.1, 0.1, [1000], 1e-5, coarse=True)
    assert epsilon_of([GaussianEvent(0.1, 0.1, 1000)], 1e-5) < found < 7200  # a Renyi bound says 95405


def test_an_infinite_loss_beyond_delta_has_no_epsilon():
    certain = pld.Losses(0.1, 0, np.array([0.5]), 0.5)
    assert pld.epsilon_at((certain,), 0.4) == math.inf
    assert pld.epsilon_at((certain,), 0.5) == 0.0


@pytest.mark.parametrize("epsilon", [0.0, 0.4, 1.0, 1.7])
def test_epsilon_is_where_the_divergence_is_delta_infinite_losses_included(epsilon):
    losses = pld.Losses(1.0, -1, np.array([0.1, 0.1, 0.3, 0.2]), 0.3)
    assert pld.epsilon_at((losses,), divergence(losses, epsilon)) == pytest.approx(epsilon, abs=1e-12)


def test_divergences_become_the_masses_that_have_them_the_last_an_infinite_loss():
    deltas = np.array([0.5, 0.3, 0.2])
    losses = pld._connected(0.5, 0, deltas)
    assert losses.infinite == 0.2
    assert losses.masses.sum() + losses.infinite == pytest.approx(1.0)
    assert [divergence(losses, at) for at in (0.0, 0.5, 1.0)] == pytest.approx(deltas.tolist())


@pytest.mark.parametrize("least", [1, 2, 7, 1021, 65537, 516_677])
def test_sizes_of_transforms_are_smooth_and_hardly_larger(least):
    size = pld._fast_size(least)
    assert least <= size <= max(least * 1.1, least + 1)
    for factor in (2, 3, 5):
        while size % factor == 0:
            size //= factor
    assert size == 1


def test_rough_bound_is_above_and_near():
    for kinds, delta, _ in CASES:
        exact = epsilon_of([GaussianEvent(*kind) for kind in kinds], delta)
        by_all_orders = accounting.rdp_epsilon([GaussianEvent(*kind) for kind in kinds], delta)
        found = rough_epsilon(kinds, delta)
        assert found >= exact
        if math.isfinite(by_all_orders):
            assert by_all_orders * (1 - 1e-9) <= found <= by_all_orders * 1.25 + 1e-6


@pytest.mark.parametrize(
    ("kinds", "delta", "interval"),
    [
        (((0.0114, 1.855, 2), (1.0, 91.3 / math.sqrt(3), 1)), 3.9e-5, 2e-5),
        (((0.0369, 3.816, 5), (1.0, 4.9112, 1)), 4.1e-8, 1e-4),
        (((0.0102, 2.704, 9), (1.0, 24.327 / math.sqrt(30), 1)), 3.4e-4, 1e-4),
        (((0.1, 1.2, 100),), 1e-5, 1e-3),
    ],
)
def test_epsilon_comes_down_to_the_truth_as_the_grid_becomes_finer(kinds, delta, interval):
    coarse, fine, finest = (pld.epsilon_at(pld.composed(kinds, interval / by), delta) for by in (4, 2, 1)[::-1])
    assert coarse > fine > finest
    # A quarter of the error for half the interval: what is left is below a third of the last step.
    assert (fine - finest) < 0.4 * (coarse - fine)


def test_unsampled_releases_beside_training_cost_what_they_do_one_by_one():
    apart = pld.epsilon_at(pld.composed(((0.1, 2.0, 100), (1.0, 10.0, 6)), 1e-4), 1e-5)
    as_one = epsilon_of([GaussianEvent(0.1, 2.0, 100), GaussianEvent(1.0, 10.0, 6)], 1e-5)
    assert as_one <= apart <= as_one + 1e-4
