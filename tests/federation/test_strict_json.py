import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedkit.errors import FederationError
from fedkit.federation.strict_json import MOST_BYTES, MOST_DEPTH, fields, read, write
from tests.work import calls

plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**62), 2**62)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=("Cs",), exclude_characters="$")),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=("Cs",), exclude_characters="$")), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(plain)
def test_what_is_written_is_read(value):
    assert read(write(value), "it") == value


@given(st.text() | st.binary(max_size=60).map(lambda raw: raw.decode("latin-1")))
def test_any_other_text_is_refused_with_one_code(text):
    code = "FK540"
    try:
        read(text, "it")
    except FederationError as error:
        code = error.code
    assert code == "FK540"


@pytest.mark.parametrize(
    "text",
    [
        '{"a": 1, "a": 1}', '[{"b": {"a": 1, "a": 2}}]', "NaN", "[Infinity]", "-Infinity", "1e999", "[-1e400]",
        "9223372036854775808", "1" * 5000, '"${oc.env:HOME}"', '{"${a}": 1}', '"\\ud800"', '"\ud800"', "", "[1,]",
        "{'a': 1}", '"a', "\x00", '{"a":1}x',
    ],
)  # fmt: skip
def test_what_has_no_one_meaning_is_refused(text):
    with pytest.raises(FederationError) as caught:
        read(text, "it")
    assert caught.value.code == "FK540"


@pytest.mark.parametrize(
    "text",
    [
        "[" * 1_000_000, '{"a":' * 200_000, "[" * (MOST_DEPTH + 1) + "]" * (MOST_DEPTH + 1), "[" + "1," * MOST_BYTES,
        '"' + "a" * MOST_BYTES + '"', "é" * (MOST_BYTES // 2 + 1), '"' + "\\" * 1_000_000, '"[' * 500_000,
    ],
)  # fmt: skip
def test_what_is_huge_or_deep_is_refused_in_a_handful_of_calls(text):
    # None for each character or level; what the calls do takes a time in proportion (test_strict_json_time.py).
    def refused():
        with pytest.raises(FederationError) as caught:
            read(text, "it")
        assert caught.value.code == "FK540"

    assert calls(refused) < 100


def test_the_deepest_that_is_read():
    assert read("[" * MOST_DEPTH + "]" * MOST_DEPTH, "it") == json.loads("[" * MOST_DEPTH + "]" * MOST_DEPTH)
    assert read(write("[[[[" * 100), "it") == "[[[[" * 100


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ([], "no mapping"), ({}, "lacks a, b"), ({"a": 1, "b": "x", "c": 1}, "unknown field 'c'"),
        ({"a": "1", "b": "x"}, "a of another type"), ({"a": True, "b": "x"}, "a of another type"),
        ({"a": 1, "b": None}, "b of another type"),
    ],
)  # fmt: skip
def test_fields_are_exactly_the_known_ones_of_their_types(value, why):
    with pytest.raises(FederationError, match=why):
        fields(value, {"a": int, "b": str}, "it")
    assert fields({"a": 1, "b": "x"}, {"a": int, "b": str}, "it") == {"a": 1, "b": "x"}
