import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedkit.errors import FederationError
from fedkit.federation.admission import MAX_ENTRY, check_update
from fedkit.federation.packed import all_finite
from fedkit.types import ClientUpdate

MODEL = np.array([0.0, 2.0], np.float32)


@settings(max_examples=50)
@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=2, max_size=2))
def test_an_update_is_admitted_by_its_largest_entry(values):
    update = ClientUpdate("a", np.array(values, np.float32), 1.0)
    if max(map(abs, values)) > MAX_ENTRY:
        with pytest.raises(FederationError, match="too large"):
            check_update(update, MODEL)
    elif max(map(abs, values)) < MAX_ENTRY / 2:
        check_update(update, MODEL)


def test_what_is_admitted_cannot_make_a_finite_model_infinite():
    model = np.full(2, np.finfo(np.float32).max, np.float32)
    update = ClientUpdate("a", np.full(2, MAX_ENTRY, np.float32), 1.0)
    check_update(update, model)
    assert np.isfinite(model + update.delta).all()


def test_the_norm_is_bounded_by_the_models():
    wide = ClientUpdate("a", np.full(100, 5e5, np.float32), 1.0)
    with pytest.raises(FederationError, match="norm 5e"):
        check_update(wide, np.zeros(100, np.float32))
    check_update(wide, np.ones(100, np.float32))


def test_a_weight_may_differ_by_rounding_only():
    update = ClientUpdate("a", MODEL, 303.0)
    check_update(update, MODEL, weight=303.0 * (1 + 1e-7))
    check_update(update, MODEL)
    with pytest.raises(FederationError, match="weight 303 is not the planned 302") as caught:
        check_update(update, MODEL, weight=302.0)
    assert caught.value.code == "FK519"


@pytest.mark.parametrize("size", [1, 17, 70_000])
@pytest.mark.parametrize("value", [0.0, 1.0, 1e30, 3.4e38, np.inf, -np.inf, np.nan])
def test_finite_is_found_whatever_a_sum_of_squares_comes_to(size, value):
    for others in (0.0, 1e30):
        values = np.full(size, others, np.float32)
        values[size // 2] = value
        assert all_finite(values) == np.isfinite(values).all()


@pytest.mark.parametrize("size", [1, 3, 70_000])
def test_the_largest_entry_is_refused_at_its_bound_and_not_below(size):
    for value, refused in ((MAX_ENTRY / 4, False), (MAX_ENTRY, False), (1.01 * MAX_ENTRY, True)):
        delta = np.zeros(size, np.float32)
        delta[-1] = value
        if refused:
            with pytest.raises(FederationError):
                check_update(ClientUpdate("north", delta, 1.0), delta)
        else:
            check_update(ClientUpdate("north", delta, 1.0), delta)
