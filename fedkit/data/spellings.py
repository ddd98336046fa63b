"""An id in other characters: whoever withdraws is left out however a keyboard or a database has written them.

Unicode has several texts of one word (an accent as a character of its own, a digit in full width), and characters
that nobody sees. Consent compares texts to the letter, since a wrong yes lets somebody in; a withdrawal does not, since
a wrong no only leaves somebody out.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from typing import Literal

from fedkit.data.table import name_text

_FORMS: tuple[Literal["NFC", "NFD", "NFKC", "NFKD"], ...] = ("NFC", "NFD", "NFKC", "NFKD")


def folded(unit: str) -> str:
    """The one text that stands for all spellings of an id.

    >>> folded("7\\u200b") == folded("\\uff17") == "7", folded("e\\u0301") == folded("\\u00e9")
    (True, True)
    """
    if unit.isascii():
        return unit
    seen = "".join(each for each in unit if unicodedata.category(each) != "Cf")
    return name_text(unicodedata.normalize("NFKC", seen))


def spellings(units: Iterable[str]) -> frozenset[str]:
    """Ids with the other texts that each may have in a table, as far as they can be listed; see `folded` for the rest.

    >>> sorted(spellings(["7", "\\uff18"]))
    ['7', '8', '８']
    """
    found = set()
    for unit in units:
        found.add(unit)
        if not unit.isascii():
            found |= {name_text(unicodedata.normalize(form, unit)) for form in _FORMS} | {folded(unit)}
    return frozenset(found)
