"""No text that a stranger sends takes longer to refuse than a plain one of its length to read."""

import json
import re
import time
from contextlib import suppress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fedkit.errors import FederationError
from fedkit.federation import strict_json

_BACKTRACKING = re.compile(r'"(?:[^"\\]|\\.)*"')
_PIECES = st.lists(
    st.sampled_from(['"', "\\", '\\"', "\\\\", "[", "]", "{", "}", "a", "\n", "1", ",", ":"]), max_size=30
)


def _seconds(text):
    best = float("inf")
    for _ in range(3):
        began = time.perf_counter()
        with suppress(FederationError):
            strict_json.read(text, "it")
        best = min(best, time.perf_counter() - began)
    return best


@pytest.mark.parametrize(
    "text",
    ['"' + '\\"' * (2**19 - 2), '\\"' * (2**19 - 2), '"' * (2**20 - 2), '"' + "\\" * (2**20 - 2), '"a\\' * (2**18)],
    ids=["pairs", "pairs alone", "quotes", "backslashes", "mixed"],
)
def test_unclosed_strings_cost_no_more_than_their_length(text):
    assert len(text) > 2**19
    assert _seconds(text) < 50 * _seconds(json.dumps("a" * (2**20 - 2)))


@given(_PIECES.map("".join))
def test_closed_strings_are_left_out_as_before(text):
    closed = _BACKTRACKING.sub("", text)
    if '"' not in closed and "\n" not in text:
        assert strict_json._STRING.sub("", text) == closed


@given(_PIECES.map("".join), st.integers(28, 36))
@example('"[', 34)
@example('"\\', 34)
def test_what_is_read_is_what_a_parser_reads(text, depth):
    nested = "[" * depth + text + "]" * depth
    try:
        parsed = json.loads(nested)
    except ValueError:
        parsed = None
    deep = parsed is not None and depth + _depth(parsed, depth) > strict_json.MOST_DEPTH
    # A key may come twice, which a parser takes.
    if parsed is None or deep:
        with pytest.raises(FederationError, match=r"is no JSON|is nested|holds|has a key twice"):
            strict_json.read(nested, "it")
    elif ":" not in text:
        assert strict_json.read(nested, "it") == parsed


def _depth(value, outer):
    for _ in range(outer):
        value = value[0] if value else None

    def depth(inner):
        if isinstance(inner, dict):
            return 1 + max(map(depth, inner.values()), default=0)
        return 1 + max(map(depth, inner), default=0) if isinstance(inner, list) else 0

    return depth(value)
