import math

import pytest
from scipy import optimize, stats

from fedkit.assurance.audit.accountant import epsilon_at_least
from fedkit.privacy.accounting import GaussianEvent, epsilon_of

# Certified intervals of the true epsilon at delta 1e-5 (PLD from both sides, Opacus' PRV), and golden PLD values.
CASES = [
    (((0.05, 1.0, 1000),), 10.976, 10.9867),
    (((1 / 19, 1.2, 190),), 3.48, 3.4870),
    (((1 / 19, 4.0, 380),), 0.985, 0.99177),
    (((256 / 60000, 1.1, 14040),), 2.369, 2.3796),
    (((0.05, 0.6, 200),), 15.455, 15.4618),
    (((0.05, 1.0, 400), (0.1, 1.5, 300), (0.01, 0.8, 2000)), 10.643, 10.653),
]


@pytest.mark.slow
@pytest.mark.parametrize(("events", "certified", "upper"), CASES)
def test_the_bound_is_below_the_truth_and_near_it(events, certified, upper):
    found = epsilon_at_least(events, 1e-5)
    assert found <= upper
    assert found > certified - 0.002 - 0.03 * certified


@pytest.mark.parametrize(
    ("sigma", "steps", "delta"), [(1.0, 1, 1e-5), (10.0, 100, 1e-5), (3.0, 20, 1e-8), (0.5, 1, 1e-6)]
)
def test_without_sampling_it_is_the_closed_form_of_a_gaussian(sigma, steps, delta):
    mu = math.sqrt(steps) / sigma

    def excess(epsilon):  # Balle and Wang 2018
        return (
            stats.norm.cdf(mu / 2 - epsilon / mu) - math.exp(epsilon) * stats.norm.cdf(-mu / 2 - epsilon / mu) - delta
        )

    exact = optimize.brentq(excess, 0, 60)
    assert exact - 0.02 < epsilon_at_least(((1.0, sigma, steps),), delta) <= exact


@pytest.mark.slow
@pytest.mark.parametrize("q", [0.01, 0.2, 0.9, 1.0])
@pytest.mark.parametrize("sigma", [0.3, 1.0, 6.0])
def test_it_never_exceeds_what_the_first_accountant_charges(q, sigma):
    charged = epsilon_of((GaussianEvent(q, sigma, 30),), 1e-5)
    found = epsilon_at_least(((q, sigma, 30),), 1e-5)
    assert 0.95 * charged - 0.02 < found <= charged


def test_more_steps_more_sampling_and_less_noise_cost_more():
    costs = [epsilon_at_least(((0.1, 2.0, steps),), 1e-5) for steps in (10, 40, 160)]
    assert costs == sorted(costs)
    costs = [epsilon_at_least(((q, 2.0, 40),), 1e-5) for q in (0.05, 0.1, 0.3)]
    assert costs == sorted(costs)
    costs = [epsilon_at_least(((0.1, sigma, 40),), 1e-5) for sigma in (4.0, 2.0, 1.0)]
    assert costs == sorted(costs)


@pytest.mark.parametrize("events", [(), ((0.0, 1.0, 10),), ((0.1, 1.0, 0),)])
def test_nothing_released_costs_nothing(events):
    assert epsilon_at_least(events, 1e-5) == 0.0


@pytest.mark.parametrize("event", [(0.1, 1e-3, 5), (1.0, 0.05, 100), (0.5, 2.0, 10**7), (1e-6, 50.0, 3)])
def test_extremes_give_a_finite_bound(event):
    assert 0 <= epsilon_at_least((event,), 1e-5) <= 700
