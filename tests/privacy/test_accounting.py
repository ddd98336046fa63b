import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedkit.errors import PrivacyError
from fedkit.privacy import accounting
from fedkit.privacy.accounting import GaussianEvent, epsilon, epsilon_curve, epsilon_of
from fedkit.privacy.calibration import noise_multiplier_for

# (q, sigma, steps, delta) -> epsilon, agreed on by two PLD implementations and inside certified intervals
GOLDEN = [
    (0.05, 1, 1000, 1e-5, 10.9867),
    (0.05, 1, 1000, 1e-6, 12.2380),
    (1 / 19, 1.2, 1900, 1e-5, 12.1696),
    (1 / 19, 1.2, 1900, 1e-6, 13.4399),
    (1 / 19, 1.2, 190, 1e-5, 3.4870),
    (1 / 19, 4, 380, 1e-5, 0.99177),
    (256 / 60000, 1.1, 14040, 1e-5, 2.3796),
    (0.05, 0.6, 200, 1e-5, 15.4618),
    (0.01, 4, 10000, 1e-5, 0.9470),
    (0.04, 1.5, 2250, 1e-5, 6.7688),
    (1, 10, 100, 1e-5, 4.37718),
]


@pytest.mark.parametrize(("q", "sigma", "steps", "delta", "expected"), GOLDEN)
def test_golden_values(q, sigma, steps, delta, expected):
    assert expected - 1e-4 <= epsilon(q, sigma, steps, delta) <= expected + 0.01


def test_three_events_together_match_the_golden_value():
    events = [GaussianEvent(0.05, 1, 400), GaussianEvent(0.1, 1.5, 300), GaussianEvent(0.01, 0.8, 2000)]
    assert 10.643 <= epsilon_of(events, 1e-5) <= 10.663
    assert epsilon_of(events[::-1], 1e-5) == epsilon_of(events, 1e-5)


def test_full_participation_equals_the_closed_form_of_one_gaussian():
    # q = 1: T steps of sigma are one Gaussian of sigma / sqrt(T); Balle and Wang 2018, theorem 8.
    def phi(x):
        return 0.5 * math.erfc(-x / math.sqrt(2))

    found, mu = epsilon(1.0, 20.0, 100, 1e-5), math.sqrt(100) / 20.0
    delta = phi(mu / 2 - found / mu) - math.exp(found) * phi(-mu / 2 - found / mu)
    assert delta == pytest.approx(1e-5, rel=2e-3)
    assert delta <= 1e-5


def test_rdp_is_never_below_pld():
    for q, sigma, steps, delta, pld in GOLDEN:
        assert accounting.rdp_epsilon([GaussianEvent(q, sigma, steps)], delta) >= pld


@pytest.mark.filterwarnings("ignore:Optimal order is the smallest alpha")
def test_rdp_of_dp_accounting_agrees_with_opacus_at_whole_orders():
    from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent, rdp
    from opacus.accountants.analysis.rdp import compute_rdp, get_privacy_spent

    orders = list(range(2, 64))
    for q, sigma, steps, delta, _ in GOLDEN:
        ours = rdp.RdpAccountant(orders)
        ours.compose(PoissonSampledDpEvent(q, GaussianDpEvent(sigma)), steps)
        theirs = compute_rdp(q=q, noise_multiplier=sigma, steps=steps, orders=orders)
        assert ours.get_epsilon(delta) == pytest.approx(
            get_privacy_spent(orders=orders, rdp=theirs, delta=delta)[0], rel=1e-6
        )


@pytest.mark.slow
@settings(max_examples=8, deadline=None)
@given(
    q=st.floats(0.01, 0.3),
    sigma=st.floats(1.5, 6.0),
    steps=st.integers(1, 300),
    more=st.integers(1, 200),
)
def test_epsilon_grows_with_steps_and_rate_and_falls_with_noise(q, sigma, steps, more):
    base = epsilon(q, sigma, steps, 1e-5)
    assert epsilon(q, sigma, steps + more, 1e-5) >= base - 1e-6
    assert epsilon(min(1.0, q * 1.5), sigma, steps, 1e-5) >= base - 1e-6
    assert epsilon(q, sigma * 1.2, steps, 1e-5) <= base + 1e-6


def test_split_and_merged_events_cost_the_same():
    whole = epsilon_of([GaussianEvent(0.05, 1.1, 100)], 1e-5)
    assert epsilon_of([GaussianEvent(0.05, 1.1, 37), GaussianEvent(0.05, 1.1, 63)], 1e-5) == whole


def test_nothing_done_costs_nothing():
    assert epsilon(0.05, 1.0, 0, 1e-5) == 0.0
    assert epsilon_of([], 1e-5) == 0.0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "steps", "expected"),
    [(1, 1900, 8.643), (3, 1900, 3.301), (8, 1900, 1.561), (1, 190, 2.908), (3, 190, 1.311)],
)
def test_calibration_matches_the_golden_values_and_never_exceeds_the_target(target, steps, expected):
    sigma = noise_multiplier_for(target, 1e-5, 1 / 19, steps)
    assert sigma == pytest.approx(expected, rel=3e-3)
    assert sigma == round(sigma, 4)
    assert epsilon(1 / 19, sigma, steps, 1e-5) <= target
    assert epsilon(1 / 19, sigma - 3e-3, steps, 1e-5) > target


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "delta", "q", "steps"), [(0.05, 1e-4, 0.1, 1500), (30.0, 1e-5, 0.05, 300), (1.0, 1e-5, 1.0, 100)]
)
def test_calibration_holds_at_the_edges(target, delta, q, steps):
    sigma = noise_multiplier_for(target, delta, q, steps)
    assert 0.98 * target <= epsilon(q, sigma, steps, delta) <= target


@pytest.mark.slow
def test_calibration_leaves_room_for_what_is_released_besides():
    others = (GaussianEvent(1.0, 5.0, 2),)
    sigma = noise_multiplier_for(3.0, 1e-5, 0.1, 150, others)
    assert sigma > noise_multiplier_for(3.0, 1e-5, 0.1, 150)
    assert 2.98 <= epsilon_of((*others, GaussianEvent(0.1, sigma, 150)), 1e-5) <= 3.0
    assert epsilon_of((*others, GaussianEvent(0.1, sigma - 3e-3, 150)), 1e-5) > 3.0


def test_other_releases_that_use_up_the_target_are_refused():
    with pytest.raises(PrivacyError, match="nothing is left") as caught:
        noise_multiplier_for(0.5, 1e-5, 0.1, 150, (GaussianEvent(1.0, 2.0, 1),))
    assert caught.value.code == "FK321"


def test_a_target_out_of_reach_is_refused():
    with pytest.raises(PrivacyError, match="cannot be reached") as caught:
        noise_multiplier_for(1e-4, 1e-12, 1.0, 10**8)
    assert caught.value.code == "FK309"


def test_a_curve_ascends_bounds_the_truth_and_ends_on_it():
    counts = [0, 19, 190, 950, 1900]
    curve = epsilon_curve(1 / 19, 1.2, counts, 1e-5)
    exact = [epsilon(1 / 19, 1.2, steps, 1e-5) for steps in counts]
    assert curve == sorted(curve)
    assert curve[0] == 0.0 and curve[-1] == exact[-1]
    assert all(e - 1e-4 <= c <= e + 0.02 for c, e in zip(curve, exact, strict=True))
    coarse = epsilon_curve(1 / 19, 1.2, counts, 1e-5, coarse=True)
    assert coarse[:-1] == curve[:-1]
    assert exact[-1] < coarse[-1] <= exact[-1] + 0.02
    with pytest.raises(PrivacyError):
        epsilon_curve(0.1, 1.0, [3, 2], 1e-5)


def test_absurd_noise_stays_computable_and_bounded_by_rdp():
    for q, sigma, steps in [(0.05, 0.1, 1000), (0.05, 1e4, 100000), (1e-6, 1.0, 1000)]:
        assert 0 < epsilon(q, sigma, steps, 1e-5) <= accounting.rdp_epsilon([GaussianEvent(q, sigma, steps)], 1e-5)


@pytest.mark.parametrize("delta", [0, 1, -1, 2, math.nan, 1e-16])
def test_bad_delta_is_refused(delta):
    with pytest.raises(PrivacyError) as caught:
        epsilon(0.1, 1.0, 1, delta)
    assert caught.value.code == "FK302"


@pytest.mark.parametrize(
    ("q", "sigma", "steps", "code"),
    [
        (0, 1, 1, "FK304"),
        (1.01, 1, 1, "FK304"),
        (math.nan, 1, 1, "FK304"),
        (0.1, 0, 1, "FK303"),
        (0.1, math.nan, 1, "FK303"),
        (0.1, math.inf, 1, "FK303"),
        (0.1, 1, -1, "FK305"),
        (0.1, 1, 1.5, "FK305"),
        (0.1, 1, math.nan, "FK305"),
        (0.1, 1, math.inf, "FK305"),
        (0.1, 1, 10**29, "FK305"),
        (0.1, 1e7, 1, "FK303"),
        (1e-9, 1, 10**6, "FK304"),
    ],
)
def test_bad_events_are_refused(q, sigma, steps, code):
    with pytest.raises(PrivacyError) as caught:
        epsilon(q, sigma, steps, 1e-5)
    assert caught.value.code == code


@pytest.mark.parametrize("target", [0, -1, math.nan, math.inf, 1000, 1e-9])
def test_bad_targets_are_refused(target):
    with pytest.raises(PrivacyError) as caught:
        noise_multiplier_for(target, 1e-5, 0.1, 10)
    assert caught.value.code == "FK301"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "delta", "q", "steps"),
    [
        (100.0, 1e-5, 0.1, 1),  # far below sigma = 1
        (1.0, 1e-5, 1e-6, 10),  # met by any noise: delta is above the chance to be drawn at all
        (1.0, 1e-5, 1e-6, 10**8),  # beyond what a PLD can hold
        (100.0, 1e-12, 0.5, 10**6),
    ],
)
def test_calibration_answers_at_the_corners_of_what_is_admitted(target, delta, q, steps):
    sigma = noise_multiplier_for(target, delta, q, steps)
    assert sigma >= accounting.MIN_SIGMA
    assert epsilon(q, sigma, steps, delta) <= target


@pytest.mark.parametrize(("q", "sigma", "steps"), [(1e-6, 0.1, 10**7), (1e-6, 0.1, 10**8)])
def test_losses_without_an_exponential_are_bounded_by_rdp(q, sigma, steps):
    assert epsilon(q, sigma, steps, 1e-5) == accounting.rdp_epsilon([GaussianEvent(q, sigma, steps)], 1e-5)


def test_the_zero_of_an_unstable_rdp_is_not_believed():
    assert accounting.rdp_epsilon([GaussianEvent(1e-6, 1e4, 10**8)], 1e-5) == 0.0
    assert epsilon(1e-6, 1e4, 10**8, 1e-5) == epsilon(1.0, 1.0, 1, 1e-5) > 0.0


def test_a_curve_over_very_many_rounds_is_an_upper_bound():
    counts = range(5001)
    curve = epsilon_curve(0.01, 1.0, counts, 1e-5)
    assert curve == sorted(curve) and len(curve) == 5001
    for count in (1, 777, 5000):
        assert curve[count] >= epsilon(0.01, 1.0, count, 1e-5) - 1e-9
