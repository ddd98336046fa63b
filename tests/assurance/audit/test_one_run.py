import math
from itertools import product

import numpy as np
import pytest
from scipy import stats

from fedkit.assurance.audit.one_run import epsilon_bound, log_likelihood_ratio, one_run, p_value

# _one_run_p_value of jax_privacy 2.0.0 (Google DeepMind), which is another implementation of the same theorem:
# canaries, guesses, right guesses, epsilon, delta -> chance.
REFERENCE = [
    ((1000, 100, 80, 1.0, 1e-05), 0.07300911594917776),
    ((1000, 100, 80, 1.0, 0.0), 0.07155624680483674),
    ((4000, 248, 202, 0.9, 1e-05), 0.0022167689604774723),
    ((4000, 500, 500, 6.0, 1e-06), 0.2928846623416923),
    ((100, 10, 9, 0.5, 0.01), 0.47937412223100023),
    ((50, 50, 25, 0.0, 1e-05), 0.5562455432263962),
    ((2000, 31, 31, 2.5, 0.0001), 0.18510080701328024),
    ((2000, 1000, 620, 0.4, 1e-05), 0.09023628355563545),
]
# Its _epsilon_one_run at significance .05: canaries, guesses, right guesses, delta -> epsilon.
BOUNDS = [
    ((1000, 100, 80, 1e-05), 0.9553185001776855),
    ((4000, 248, 202, 1e-05), 1.1979077326617387),
    ((4000, 500, 500, 1e-06), 5.103690193338022),
    ((100, 10, 9, 0.001), 0.1002672610498522),
    ((2000, 1000, 620, 1e-05), 0.38009308453609914),
    ((2000, 31, 31, 0.0001), 1.543664845926766),
]


@pytest.mark.parametrize(("case", "expected"), REFERENCE)
def test_chances_agree_with_another_implementation(case, expected):
    assert p_value(*case) == pytest.approx(expected, rel=1e-9, abs=1e-15)


@pytest.mark.parametrize(("case", "expected"), BOUNDS)
def test_bounds_agree_with_another_implementation(case, expected):
    assert epsilon_bound(*case, 0.05) == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize(("guesses", "right"), [(1, 1), (7, 5), (12, 12), (12, 0)])
@pytest.mark.parametrize("epsilon", [0.0, 0.5, 2.0])
def test_without_delta_the_chance_is_that_of_independent_guesses_counted_out(guesses, right, epsilon):
    one = math.exp(epsilon) / (1 + math.exp(epsilon))
    counted = sum(
        math.prod(one if bit else 1 - one for bit in bits)
        for bits in product((0, 1), repeat=guesses)
        if sum(bits) >= right
    )
    assert p_value(50, guesses, right, epsilon, 0.0) == pytest.approx(counted, rel=1e-12)


def test_delta_only_makes_a_refutation_harder():
    for delta in (1e-9, 1e-6, 1e-4, 1e-2):
        assert p_value(1000, 50, 45, 1.0, delta) >= p_value(1000, 50, 45, 1.0, 0.0)
    assert epsilon_bound(1000, 50, 45, 1e-3, 0.05) < epsilon_bound(1000, 50, 45, 0.0, 0.05)


def randomised_response(rng, m, epsilon):
    """What the theorem is tight for: a score that is its coin's with chance e^epsilon / (1 + e^epsilon)."""
    coins = rng.random(m) < 0.5
    kept = rng.random(m) < 1 / (1 + math.exp(-epsilon))
    return np.where(kept, coins, ~coins) + 1e-6 * rng.random(m), coins


@pytest.mark.slow
def test_the_bound_exceeds_the_truth_no_more_often_than_stated():
    rng = np.random.default_rng(5)
    above = sum(one_run(*randomised_response(rng, 400, 1.0), 0.0).epsilon > 1.0 for _ in range(300))
    # At most 5 % of 300; 27 or more have a chance below 1 %.
    assert above < 27


def test_the_bound_comes_near_the_truth_of_the_mechanism_it_is_tight_for():
    found = one_run(*randomised_response(np.random.default_rng(6), 4000, 1.0), 1e-5)
    assert 0.8 < found.epsilon < 1.0
    assert found.guesses >= 2000


def test_guessing_at_coins_that_nothing_depends_on_shows_nothing():
    rng = np.random.default_rng(7)
    bounds = [one_run(rng.random(500), rng.random(500) < 0.5, 1e-5).epsilon for _ in range(40)]
    assert sum(bound > 0 for bound in bounds) <= 7  # 5 % of 40; 8 or more have a chance below .1 %
    assert max(bounds) < 1.0


@pytest.mark.slow
def test_the_bound_of_a_gaussian_mechanism_stays_below_its_epsilon():
    # One release of sigma 1: epsilon 4.377 at delta 1e-5, in closed form.
    rng = np.random.default_rng(8)
    for _ in range(10):
        coins = rng.random(3000) < 0.5
        found = one_run(coins + rng.normal(size=3000), coins, 1e-5)
        assert 0.8 < found.epsilon < 4.377


def test_the_ratio_is_that_of_the_mixture():
    readings = np.array([[-1.0, 0.3, 2.5], [0.4, 4.0, 1.0]])
    q, sigma, steps = 0.3, 0.8, 2
    inside = sum(
        stats.binom.pmf(k, steps, q) * stats.norm.pdf(readings, k, sigma * math.sqrt(steps)) for k in range(steps + 1)
    )
    outside = stats.norm.pdf(readings, 0, sigma * math.sqrt(steps))
    assert log_likelihood_ratio(readings, q, sigma, steps) == pytest.approx(np.log(inside / outside).sum(axis=0))


def test_the_ratio_without_sampling_grows_with_the_reading():
    ratio = log_likelihood_ratio(np.array([[-1.0, 0.0, 3.0]]), 1.0, 2.0, 3)
    assert ratio == pytest.approx((3 * np.array([-1.0, 0.0, 3.0]) - 4.5) / 12)
