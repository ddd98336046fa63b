from __future__ import annotations

import pytest

from fedkit.data.names import require_site_names
from fedkit.errors import DataError


@pytest.mark.parametrize("name", ["Köln (Süd)", "ward 🏥", 'O\'Hara "x" <y> & z', "a.b", "n" * 100, "ü" * 100, 3.0])
def test_names_of_hospitals_are_admitted(name):
    require_site_names([name])


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("", "'' is empty"),
        (" \t", "'' is empty"),
        ("n" * 101, "has 101 characters"),
        ("🏥" * 60, "takes 240 bytes"),
        ("a\x00b", "'a.x00b' holds a control"),
        ("a\nb", "'a.nb' holds a control"),
        ("a\tb", "'a.tb' holds a control"),
        ("a\u2028b", "holds a control"),
        ("a\ud800b", "holds a control"),
        ("../up", "holds a slash"),
        ("a\\b", "holds a slash or backslash"),
        (".hidden", "begins with a dot"),
        ("..", "begins with a dot"),
    ],
)
def test_name_that_can_be_no_file_or_node_is_refused_and_escaped(name, told):
    with pytest.raises(DataError, match=told) as caught:
        require_site_names(["north", name])
    assert caught.value.code == "FK213"
    assert str(caught.value).isprintable()
    assert "rename the site" in caught.value.remedy


def test_all_bad_names_are_told_at_once():
    with pytest.raises(DataError, match=r"'a/b' holds a slash.*; the site name '.c' begins"):
        require_site_names(["a/b", "fine", ".c"])
