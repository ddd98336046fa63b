import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fedkit.errors import FederationError
from fedkit.federation.envelope import read, seal
from fedkit.federation.order import check_parameters, make_order, open_order, parameters_digest
from fedkit.governance.statistics import Statistics
from tests.federation.signers import COORDINATOR, NOW, OPERATOR, ROOT, job

JOB = job()
MODEL = np.arange(14, dtype=np.float32)
EMPTY = np.zeros(0, np.float32)
TEXT = make_order(JOB, "train", 3, MODEL, COORDINATOR, NOW, lifetime=60, proximal_mu=0.5).text
PAYLOAD = json.loads(read(TEXT).payload)


def opened(text, made=JOB, now=NOW):
    return open_order(text, COORDINATOR.public, made, now)


def refused(text, made=JOB, now=NOW):
    with pytest.raises(FederationError) as caught:
        opened(text, made, now)
    return caught.value.code


def signed(key=COORDINATOR, **changes):
    return seal("order", {**{name: value for name, value in PAYLOAD.items() if name != "wire"}, **changes}, key).text


def test_an_order_is_opened_as_it_was_made():
    found = opened(TEXT)
    assert (found.run, found.job, found.kind, found.round) == ("run-1", JOB.digest, "train", 3)
    assert (found.proximal_mu, found.size, found.expires_at) == (0.5, 14, int(NOW) + 60)
    check_parameters(found, MODEL)
    assert opened(make_order(JOB, "end", 0, EMPTY, COORDINATOR, NOW, lifetime=60).text).kind == "end"


@pytest.mark.parametrize("key", [OPERATOR, ROOT])
def test_only_the_coordinator_orders(key):
    assert refused(signed(key)) == "FK541"


@given(st.sampled_from(sorted(PAYLOAD)), st.none() | st.integers() | st.text(max_size=5))
@settings(max_examples=60)
def test_any_changed_field_breaks_the_signature(field, value):
    changed = {**PAYLOAD, field: value}
    if changed != PAYLOAD:
        text = replace(read(TEXT), payload=json.dumps(changed, separators=(",", ":"), ensure_ascii=False)).text
        with pytest.raises(FederationError) as caught:
            opened(text)
        assert caught.value.code in ("FK540", "FK541")


def test_an_order_is_for_one_job():
    assert refused(TEXT, job(run="run-2")) == "FK542"
    assert refused(TEXT, job(study="other")) == "FK542"
    assert refused(signed(run="run-2")) == "FK542"


def test_an_order_has_its_time_and_does_not_outlive_its_job():
    assert refused(TEXT, now=NOW + 60) == "FK543"
    assert refused(TEXT, now=NOW - 302) == "FK543"
    long = make_order(JOB, "train", 1, MODEL, COORDINATOR, NOW, lifetime=1e6)
    assert opened(long.text).expires_at == JOB.expires_at


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"round": 0}, "FK542"), ({"round": 16}, "FK542"), ({"round": -1}, "FK542"), ({"round": 1.0}, "FK540"),
        ({"kind": "query"}, "FK540"), ({"kind": "end"}, "FK540"), ({"size": 0}, "FK540"), ({"size": -1}, "FK540"),
        ({"proximal_mu": -0.1}, "FK540"), ({"proximal_mu": 1e5}, "FK540"), ({"parameters": "ab"}, "FK540"),
        ({"extra": 1}, "FK540"), ({"wire": 0}, "FK547"),
    ],
)  # fmt: skip
def test_what_the_coordinator_signs_must_still_be_an_order(changes, code):
    assert refused(signed(**changes)) == code


@given(arrays(np.float32, st.integers(0, 20), elements=st.floats(width=32)))
def test_parameters_are_those_that_were_signed(parameters):
    same = parameters.tobytes() == MODEL.tobytes()
    if not same:
        with pytest.raises(FederationError) as caught:
            check_parameters(opened(TEXT), parameters)
        assert caught.value.code == "FK545"


@pytest.mark.parametrize(
    ("kind", "number", "model"), [("train", 0, MODEL), ("train", 16, MODEL), ("end", 1, MODEL), ("train", 1, EMPTY)]
)
def test_an_order_that_would_be_refused_is_not_signed(kind, number, model):
    with pytest.raises(FederationError):
        make_order(JOB, kind, number, model, COORDINATOR, NOW, lifetime=60)


def test_a_digest_that_is_not_the_parameters_own_is_found_at_the_site():
    told = make_order(JOB, "train", 3, MODEL, COORDINATOR, NOW, lifetime=60, digest=parameters_digest(MODEL))
    assert told.text == make_order(JOB, "train", 3, MODEL, COORDINATOR, NOW, lifetime=60).text
    wrong = make_order(JOB, "train", 3, MODEL, COORDINATOR, NOW, lifetime=60, digest=parameters_digest(MODEL + 1))
    with pytest.raises(FederationError) as caught:
        check_parameters(opened(wrong.text), MODEL)
    assert caught.value.code == "FK545"


ASKED = job(statistics=Statistics(("age",), 10, 8.0, 1e-5))


def test_a_question_is_ordered_by_its_own_kind_and_a_run_never_is():
    text = make_order(ASKED, "statistics", 0, EMPTY, COORDINATOR, NOW, lifetime=60).text
    assert (opened(text, ASKED).kind, opened(text, ASKED).round) == ("statistics", 0)
    for made, kind, number, content in (
        (ASKED, "train", 1, MODEL), (ASKED, "evaluate", 1, MODEL), (JOB, "statistics", 0, EMPTY),
        (ASKED, "statistics", 1, EMPTY),
    ):  # fmt: skip
        with pytest.raises(FederationError, match="FK542"):
            make_order(made, kind, number, content, COORDINATOR, NOW, lifetime=60)
    with pytest.raises(FederationError, match="FK540"):
        make_order(ASKED, "statistics", 0, MODEL, COORDINATOR, NOW, lifetime=60)
    assert opened(make_order(ASKED, "end", 0, EMPTY, COORDINATOR, NOW, lifetime=60).text, ASKED).kind == "end"
