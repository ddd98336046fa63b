"""PLD figures against the closed form of unsampled steps, up to the edge of what is composed: never too low.

Steps of all but every unit are composed as any others, though their cost is that of the closed form.
"""

import math

import mpmath
import pytest

from fedkit.privacy import accounting

ALL_BUT = 1 - 1e-12
EDGE = 10**13
"""Steps over delta up to which PLDs are composed; beyond it the Renyi bound answers."""


def true_delta(mu, epsilon):
    """Of a Gaussian mechanism with sensitivity mu and unit noise (Balle and Wang 2018), in 50 digits."""
    with mpmath.workdps(50):
        mu, epsilon = mpmath.mpf(mu), mpmath.mpf(epsilon)
        return mpmath.ncdf(mu / 2 - epsilon / mu) - mpmath.exp(epsilon) * mpmath.ncdf(-mu / 2 - epsilon / mu)


@pytest.mark.parametrize("mu", [0.3, 1.0, 5.0, 10.0])
@pytest.mark.parametrize("share", [1.0, 0.3])
@pytest.mark.parametrize("delta", [1e-12, 2e-11, 1e-10, 1e-9])
def test_the_figure_is_an_upper_bound_at_the_edge_of_precision(delta, share, mu):
    steps = max(1, math.floor(delta * EDGE * share * (1 + 1e-9)))
    sigma = math.sqrt(steps) / mu
    if not accounting.MIN_SIGMA <= sigma <= accounting.MAX_SIGMA:
        pytest.skip("no such noise is admitted")
    epsilon = accounting.epsilon(ALL_BUT, sigma, steps, delta)
    assert true_delta(math.sqrt(steps) / sigma, epsilon) <= delta


@pytest.mark.parametrize(("delta", "steps"), [(2e-11, 200_000), (1e-11, 99_900), (1e-10, 999_000), (1e-9, 10_001)])
@pytest.mark.parametrize("mu", [0.45, 2.0])
def test_beyond_it_another_bound_answers(delta, steps, mu):
    epsilon = accounting.epsilon(ALL_BUT, math.sqrt(steps) / mu, steps, delta)
    assert true_delta(mu, epsilon) <= delta
    assert accounting.epsilon_curve(ALL_BUT, math.sqrt(steps) / mu, [steps], delta) == [epsilon]


def test_where_delta_is_ordinary_the_figure_stays_tight():
    epsilon = accounting.epsilon(ALL_BUT, 100.0, 10_000, 1e-5)
    assert epsilon == pytest.approx(4.37718, abs=2e-4)
    assert 0.999 * 1e-5 < true_delta(1.0, epsilon) <= 1e-5


@pytest.mark.parametrize(("delta", "steps"), [(0.319, 1), (0.319, 2), (1e-5, 3)])
def test_the_sums_from_which_delta_is_read_have_a_share_of_it(delta, steps):
    left = accounting._exact_part(delta, steps)
    # 2e5 additions, each off by half of the last bit at most.
    assert left <= delta - steps * 1e-15 - 2e5 * 2**-53 * delta
    assert left >= delta * (1 - 1e-8)


@pytest.mark.parametrize("q", [ALL_BUT, 0.1, 1e-6])
def test_where_no_interval_has_an_exponential_another_bound_answers(q):
    steps = 10**6
    by_curve = accounting.epsilon_curve(q, 0.1, [steps // 2, steps], 1e-5, coarse=True)
    coarse = accounting.epsilon_of([accounting.GaussianEvent(q, 0.1, steps)], 1e-5, 1e-3)
    assert by_curve[-1] == coarse == pytest.approx(accounting._rdp(((q, 0.1, steps),), 1e-5))
    assert by_curve[0] <= by_curve[1]


def test_training_beside_releases_that_protect_nobody_has_a_figure():
    events = [accounting.GaussianEvent(0.1, 1.0, 10), accounting.GaussianEvent(1.0, 0.1, 10**8)]
    assert accounting.epsilon_of(events, 1e-5) >= accounting.epsilon(1.0, 0.1, 10**8, 1e-5)
