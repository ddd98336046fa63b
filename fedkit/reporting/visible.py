r"""A text as a page shows it: whatever is not seen, or turns or covers what stands around it, is written as its escape.

What others have sent may hold characters that let a line read as another one: marks of direction, blanks of no width,
letters that are blank, marks heaped on a letter, codes of a terminal. HTML's escaping leaves all of them as they are.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from typing import Any

_BLANK = frozenset("\u115f\u1160\u2800\u3164\uffa0\u034f\u17b4\u17b5" + "".join(map(chr, range(0xFE00, 0xFE10))))
"""Letters, symbols and marks that are drawn as nothing."""

_MOST_MARKS = 2
"""On one letter: no writing that is in use needs more."""


def visible(text: str, most: int | None = None, keep: str = "") -> str:
    r"""The text with nothing hidden in it.

    Args:
        most: characters of it that are shown; None for all.
        keep: letters that stay, such as the line breaks of a text that has lines.

    >>> visible("a\u202eb\x1b[31m\u3164"), visible("Zürich, 東京"), visible("a" * 9, 3)
    ('a\\u202eb\\x1b[31m\\u3164', 'Zürich, 東京', 'aaa ... (6 characters more)')
    """
    more = 0 if most is None else len(text) - most
    if more > 0:
        text = text[:most]
    if not (text.isascii() and text.isprintable()):
        text = _escaped(text, keep)
    return f"{text} ... ({more:,} characters more)" if more > 0 else text


def plain(value: object) -> str:
    r"""What others have chosen a name for, where a letter that looks like another one would deceive: ASCII alone.

    >>> plain("heart-dis\u0435ase")
    'heart-dis\\u0435ase'
    """
    return str(value).encode("ascii", "backslashreplace").decode("ascii")


def shower(most: int | None = None, keep: str = "") -> Callable[[Any], Any]:
    """What a template's environment makes of each value that it fills in, before it is escaped: see :func:`visible`."""
    from jinja2 import Undefined
    from markupsafe import Markup

    def shown(value: Any) -> Any:
        if value is None or isinstance(value, (bool, int, float, Markup, Undefined)):
            return value
        return visible(str(value), most, keep)

    return shown


def _escaped(text: str, keep: str) -> str:
    found, marks = list[str](), 0
    for each in text:
        marks = marks + 1 if unicodedata.category(each) in ("Mn", "Me") else 0
        if each in keep or (each.isprintable() and each not in _BLANK and marks <= _MOST_MARKS):
            found.append(each)
        else:
            found.append(each.encode("unicode_escape").decode("ascii"))
    return "".join(found)
