"""Nothing of a text that a page shows is hidden, turned or laid over what stands beside it."""

import unicodedata

import pytest

from fedkit.reporting.visible import visible

TURNS = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u061c"
UNSEEN = "\u200b\u200c\u200d\u2060\ufeff\u00ad\u180e\u115f\u1160\u3164\uffa0\u2800\u034f\ufe0f\u00a0\u2003\U000e0041"
CODES = "\x00\x07\x08\x1b\x7f\x85\x9b\r\n\t\u2028\u2029"


@pytest.mark.parametrize("letter", [*TURNS, *UNSEEN, *CODES, "\ud800", "\ue000"])
def test_what_is_not_seen_is_an_escape(letter):
    shown = visible(f"a{letter}b")
    assert shown.isascii() and shown.startswith("a\\") and shown.endswith("b") and len(shown) > 3


@pytest.mark.parametrize("text", ["", "run-1", "Größe, 東京, Ελλάδα, עברית", "a–b “c”", "nação", "👩 ok"])
def test_what_people_write_stays(text):
    assert visible(text) == text


def test_marks_that_are_heaped_on_a_letter_cover_no_neighbour():
    heap = "x" + "\u0300" * 500
    shown = visible(heap)
    assert sum(1 for each in shown if unicodedata.category(each) == "Mn") == 2 and "\\u0300" in shown


def test_a_text_without_an_end_has_one():
    shown = visible("\u202e" * 10_000_000, 1000)
    assert len(shown) < 7000 and shown.endswith("(9,999,000 characters more)")
