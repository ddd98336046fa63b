import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedkit.errors import FederationError
from fedkit.federation.admission import MAX_ENTRY, check_update
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
