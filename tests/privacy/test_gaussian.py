"""The closed form of unsampled Gaussian releases, against 60 digits and against composed distributions."""

import math

import mpmath
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedkit.privacy import accounting, gaussian, pld
from fedkit.privacy.accounting import GaussianEvent, epsilon_of
from fedkit.privacy.calibration import noise_multiplier_for
from fedkit.privacy.rough import rough_epsilon

SHIFTS = [1e-4, 1e-3, 0.01, 0.1, 0.3, 1.0, 3.0, 10.0, 29.0]
DELTAS = [1e-12, 1e-9, 1e-6, 1e-5, 1e-3, 0.1, 0.4]


def true_delta(shift, epsilon):
    with mpmath.workdps(60):
        mu, epsilon = mpmath.mpf(shift), mpmath.mpf(epsilon)
        return mpmath.ncdf(mu / 2 - epsilon / mu) - mpmath.exp(epsilon) * mpmath.ncdf(-mu / 2 - epsilon / mu)


@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("delta", DELTAS)
def test_epsilon_is_exact_from_above(shift, delta):
    found = gaussian.epsilon_at(shift, delta)
    assert true_delta(shift, found) <= delta
    assert found == 0 or true_delta(shift, found) >= delta * (1 - 3e-8)


@pytest.mark.parametrize("shift", SHIFTS)
@pytest.mark.parametrize("delta", DELTAS)
def test_what_is_set_aside_for_rounding_is_ten_times_what_is_found(shift, delta):
    epsilon = gaussian.epsilon_at(shift, delta) or 1e-9
    assert abs(gaussian.delta_at(epsilon, shift) / true_delta(shift, epsilon) - 1) <= 1e-9


@pytest.mark.parametrize("shift", [31.0, 40.0, 100.0, 1e5])
def test_where_doubles_end_the_figure_is_an_upper_bound(shift):
    found = gaussian.epsilon_at(shift, 1e-5)
    assert true_delta(shift, found) <= 1e-5
    assert found <= shift**2 / 2 + 4.27 * shift  # of the first term of delta alone


@settings(max_examples=300, deadline=None)
@given(shift=st.floats(1e-4, 1e3), delta=st.floats(1e-12, 0.9), more=st.floats(1.0001, 10), scale=st.floats(1.0001, 10))
def test_epsilon_grows_with_the_shift_and_falls_with_delta(shift, delta, more, scale):
    found = gaussian.epsilon_at(shift, delta)
    assert gaussian.epsilon_at(shift * more, delta) >= found
    assert gaussian.epsilon_at(shift, min(0.95, delta * scale)) <= found


@pytest.mark.parametrize("delta", [1e-9, 1e-6, 1e-5, 1e-3])
@pytest.mark.parametrize("steps", [1, 3, 30, 300])
@pytest.mark.parametrize("sigma", [1.0, 3.0, 12.0, 60.0, 300.0])
def test_composed_distributions_agree_and_are_never_below(sigma, steps, delta):
    kinds = ((1.0, sigma, steps),)
    interval = pld.interval_of(kinds, rough_epsilon(kinds, delta), pld.FINE)
    composed = pld.epsilon_at(pld.composed(kinds, interval), delta - steps * 1e-15)
    exact = epsilon_of([GaussianEvent(1.0, sigma, steps)], delta)
    assert exact == pytest.approx(gaussian.epsilon_at(math.sqrt(steps) / sigma, delta), rel=1e-10)
    assert exact * (1 - 1e-7) <= composed <= exact * (1 + 2e-4) + 1e-6


def test_unsampled_releases_of_different_noise_are_one_gaussian():
    events = [GaussianEvent(1.0, 5.0, 9), GaussianEvent(1.0, 10.0, 64)]
    assert epsilon_of(events, 1e-5) == pytest.approx(gaussian.epsilon_at(1.0, 1e-5), rel=1e-12)
    # The same distributions, one after the other.
    kinds = tuple((1.0, event.noise_multiplier, event.steps) for event in events)
    composed = pld.epsilon_at(pld.composed(kinds, pld.FINE), 1e-5)
    assert gaussian.epsilon_at(1.0, 1e-5) <= composed <= gaussian.epsilon_at(1.0, 1e-5) + 1e-3


@pytest.mark.parametrize(
    ("target", "delta", "count"), [(0.3, 1e-5, 2), (0.1, 1e-6, 45), (1.0, 1e-5, 100), (8, 1e-9, 3)]
)
def test_calibration_of_unsampled_releases_is_the_least_of_four_decimals_and_composes_nothing(
    target, delta, count, monkeypatch
):
    monkeypatch.setattr(pld, "one_step", None)
    sigma = noise_multiplier_for(target, delta, 1.0, count)
    assert true_delta(math.sqrt(count) / sigma, target) <= delta
    assert true_delta(math.sqrt(count) / (sigma - 1e-4), target) > delta


def test_unsampled_steps_beyond_what_is_composed_are_exact_too():
    found = accounting.epsilon(1.0, 1e4, 10**8, 1e-12)
    assert true_delta(1.0, found) <= 1e-12 < true_delta(1.0, found * (1 - 1e-7))
