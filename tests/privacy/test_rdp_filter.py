import dataclasses
import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedkit.errors import PrivacyError
from fedkit.privacy import rdp_filter
from fedkit.privacy.accounting import GaussianEvent, epsilon_of, rdp_epsilon
from fedkit.privacy.rdp_filter import (
    ORDERS,
    UNIT,
    Charge,
    best_order,
    capacity,
    conversion,
    cost,
    merged,
    rounded,
    step_cost,
)
from fedkit.privacy.rdp_filter import (
    epsilon_of as filter_epsilon,
)

LONG = np.longdouble
rates = st.integers(1, 10**9)
sigmas = st.integers(500_000, 20_000_000)
charges = st.builds(Charge, rates, sigmas, st.integers(1, 5000))


def exact_log_moment(q, sigma, order):
    """log E[(P/Q)^order] by quadrature in 80 bits; no code shared with what it checks."""
    q, sigma, order = LONG(q), LONG(sigma), LONG(order)
    step = sigma / 60
    x = np.arange(-14 * sigma, order + 14 * sigma, step, dtype=LONG)
    u = q * np.expm1((2 * x - 1) / (2 * sigma**2))
    density = -x * x / (2 * sigma**2) - np.log(sigma * np.sqrt(2 * LONG(np.pi)))
    # E[u] = 0 is taken out, or a tiny cost would drown in the 1 that it is added to.
    small = abs(u) < 1e-3
    v = np.where(small, u, 0)
    term, series = order * v, np.zeros_like(v)
    for k in range(2, 9):
        term = term * (order - k + 1) / k * v
        series = series + term
    large = np.where(small, -np.inf, density + order * np.log1p(np.where(small, 0, u)))
    top = max(LONG(0), large.max())
    rest = np.where(small, series, -(1 + order * u)) * np.exp(density - top)
    total = np.sum(np.exp(large - top) + rest) * step
    return float(np.log1p(total * np.exp(top)) if top < 100 else top + np.log(total))


@pytest.mark.parametrize(("limit", "order"), [(3.0, 7.5), (8.0, 3.9)])
def test_the_default_order_is_the_published_one(limit, order):
    assert best_order(limit, 1e-5) == order
    values = {a: (limit - math.log1p(-1 / a) + (math.log(1e-5) + math.log(a)) / (a - 1)) / a for a in ORDERS}
    assert max(values, key=values.get) == order
    assert (min(ORDERS), max(ORDERS), len(ORDERS)) == (1.1, 64.0, 630)


def test_a_budget_of_8_admits_35_jobs_or_more_of_about_epsilon_1():
    # The sum of epsilons admits 8 of them, PLD (no valid filter) 40.
    job = rounded(GaussianEvent(1 / 19, 4.0, 380))
    assert capacity(8.0, 1e-5, best_order(8.0, 1e-5)) // cost([job], 3.9) in (35, 36)


@pytest.mark.parametrize("sigma", [0.1, 0.3, 0.5, 1.2, 4, 20, 1000, 1e4])
def test_a_steps_cost_is_never_below_quadrature_over_the_validated_range(sigma):
    for q, order in itertools.product(
        (1e-9, 1e-6, 0.001, 1 / 19, 0.3, 0.5, 0.9, 0.999999), (1.1, 1.7, 2.5, 3.9, 7.5, 64)
    ):
        charge = rounded(GaussianEvent(q, sigma, 1))
        exact = exact_log_moment(charge.rate_e9 / 1e9, charge.sigma_e6 / 1e6, order) / (order - 1)
        found = step_cost(charge.rate_e9, charge.sigma_e6, order) / UNIT
        assert found >= exact
        if order >= 2:
            assert found <= exact * 1.08 + 1e-11


@pytest.mark.parametrize(("q", "order"), [(1 / 19, 1.1), (0.5, 1.5), (0.5, 2.1)])
def test_a_series_that_does_not_converge_is_bounded_by_the_chord(q, order):
    sigma = 100.0 if order > 2 else 0.5
    assert rdp_filter._series(q, sigma, [order])[order] == math.inf
    exact = exact_log_moment(q, sigma, order) / (order - 1)
    found = step_cost(math.ceil(q * 1e9), int(sigma * 1e6), order) / UNIT
    assert exact <= found < math.inf


def test_a_full_lot_costs_the_closed_form():
    assert step_cost(10**9, 2_000_000, 7.5) / UNIT == pytest.approx(7.5 / 8, rel=1e-11)
    assert step_cost(10**9, 2_000_000, 7.5) / UNIT >= 7.5 / 8


@pytest.mark.parametrize("order", [1.3, 3.9, 7.5, 20.0])
def test_the_filters_epsilon_is_never_below_the_other_accountants(order):
    events = [GaussianEvent(0.05, 1.0, 100), GaussianEvent(0.1, 1.5, 30), GaussianEvent(1.0, 8.0, 2)]
    found = filter_epsilon(cost([rounded(event) for event in events], order), order, 1e-5)
    assert found >= epsilon_of(events, 1e-5) - 1e-4
    if order >= 2:
        assert found >= rdp_epsilon(events, 1e-5) - 1e-9


@settings(max_examples=30, deadline=None)
@given(st.lists(charges, min_size=1, max_size=4), st.sampled_from([2.4, 3.9, 7.5]), st.randoms())
def test_split_and_merged_charges_cost_the_same_to_the_last_unit(found, order, shuffle):
    single = [dataclasses.replace(each, steps=1) for each in found[:1]] * found[0].steps
    split = single + found[1:]
    shuffle.shuffle(split)
    assert cost(split, order) == cost(merged(split), order) == cost(found, order)
    assert merged(split) == merged(found)


@settings(max_examples=40, deadline=None)
@given(charges, st.sampled_from([2.4, 3.9, 7.5]), st.integers(0, 10**8), st.integers(0, 10**6), st.integers(0, 50))
def test_cost_never_falls_with_more_sampling_less_noise_or_more_steps(charge, order, more_q, less_sigma, more_steps):
    dearer = Charge(
        min(10**9, charge.rate_e9 + more_q), max(100_000, charge.sigma_e6 - less_sigma), charge.steps + more_steps
    )
    # Where two bounds meet the smaller is taken: a real order's upper bound may fall by its own slack, not by more.
    assert cost([dearer], order) >= cost([charge], order) * 0.92
    assert cost([dataclasses.replace(charge, steps=charge.steps + more_steps)], order) >= cost([charge], order)


@settings(max_examples=50, deadline=None)
@given(st.floats(1e-8, 1.0), st.floats(0.1, 1e4), st.floats(0.5, 1e6))
def test_rounding_goes_against_the_spender(q, sigma, steps):
    charge = rounded(GaussianEvent(q, sigma, steps))
    assert charge.rate_e9 / 1e9 >= q * (1 - 1e-15)
    assert charge.sigma_e6 / 1e6 <= sigma * (1 + 1e-15)
    assert charge.steps >= steps
    assert rounded(charge.event) == charge


def test_capacity_and_epsilon_turn_into_each_other_from_below():
    for limit, delta in itertools.product((0.5, 3.0, 8.0, 30.0), (1e-8, 1e-5, 1e-3)):
        order = best_order(limit, delta)
        units = capacity(limit, delta, order)
        assert limit - 1e-9 < filter_epsilon(units, order, delta) <= limit
        assert filter_epsilon(0, order, delta) == 0.0


@pytest.mark.parametrize(
    ("event", "code"),
    [
        (GaussianEvent(0.0, 1.0, 1), "FK304"),
        (GaussianEvent(1.5, 1.0, 1), "FK304"),
        (GaussianEvent(math.nan, 1.0, 1), "FK304"),
        (GaussianEvent(-0.1, 1.0, 1), "FK304"),
        (GaussianEvent(0.1, 0.0, 1), "FK303"),
        (GaussianEvent(0.1, -1.0, 1), "FK303"),
        (GaussianEvent(0.1, math.nan, 1), "FK303"),
        (GaussianEvent(0.1, math.inf, 1), "FK303"),
        (GaussianEvent(0.1, 1.0, 0), "FK305"),
        (GaussianEvent(0.1, 1.0, -3), "FK305"),
        (GaussianEvent(0.1, 1.0, math.nan), "FK305"),
        (GaussianEvent(0.1, 0.05, 1), "FK344"),
        (GaussianEvent(0.1, 2e4, 1), "FK344"),
    ],
)
def test_impossible_and_unvalidated_events_are_refused(event, code):
    with pytest.raises(PrivacyError) as caught:
        rounded(event)
    assert caught.value.code == code


@pytest.mark.parametrize(
    ("limit", "delta", "order", "code"),
    [
        (0.0, 1e-5, 7.5, "FK301"),
        (-1.0, 1e-5, 7.5, "FK301"),
        (math.nan, 1e-5, 7.5, "FK301"),
        (math.inf, 1e-5, 7.5, "FK301"),
        (3.0, 0.0, 7.5, "FK302"),
        (3.0, 1.0, 7.5, "FK302"),
        (3.0, math.nan, 7.5, "FK302"),
        (3.0, 1e-5, 1.0, "FK343"),
        (3.0, 1e-5, 7.55, "FK343"),
        (3.0, 1e-5, 65.0, "FK343"),
        (1.0, 1e-5, 7.5, "FK343"),
    ],
)
def test_impossible_budgets_are_refused(limit, delta, order, code):
    with pytest.raises(PrivacyError) as caught:
        capacity(limit, delta, order)
    assert caught.value.code == code


def test_a_limit_that_no_order_enforces_names_the_smallest_that_one_does():
    with pytest.raises(PrivacyError, match=r"limits above 0\.101") as caught:
        best_order(0.1, 1e-5)
    assert caught.value.code == "FK343"
    assert best_order(0.11, 1e-5) == 64.0
    assert conversion(64.0, 1e-5) == pytest.approx(0.101, abs=1e-3)
