"""What a person approves is what they were shown: no difference is too far behind, or looks like none."""

import pytest
from fedkit_client.deciding import differences

LONG = "x" * 500
PAIRS = {
    "far behind": (f"{LONG}1", f"{LONG}2"), "a line break for a blank": ("a\nb", "a b"),
    "behind what looks like a secret": ("token=1", "token=2"), "a text for a number": ("1", 1), "1 for true": (1, True),
    "a whole number for another": (1, 1.0), "unseen": ("ab", "a\u200bb"), "nothing for no value": ({}, None),
    "a list's order": ([1, 2], [2, 1]), "a text for what is absent": ("(absent)", {}),
}  # fmt: skip


@pytest.mark.parametrize("name", PAIRS)
def test_two_values_that_differ_are_told_as_two(name):
    before, after = PAIRS[name]
    for old, new in ((before, after), (after, before)):
        found = differences({"same": 1, "model": {"x": old}}, {"same": 1, "model": {"x": new}})
        assert list(found) == ["model.x"] and found["model.x"][0] != found["model.x"][1]
        assert differences({"x": old}, {"x": old}) == {}


def test_a_name_with_a_dot_is_no_path():
    assert len(differences({"a.b": 1}, {"a": {"b": 1}})) == 2
