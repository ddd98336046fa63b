"""What a site may be called: its name becomes part of file names, node names and tables elsewhere."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

from fedkit.data.table import name_text
from fedkit.errors import DataError

_LONGEST = 100
# A file name holds 255 bytes, and what is made of a site's name adds some.
_MOST_BYTES = 200
# Control characters, halves of characters that cannot be encoded, line and paragraph separators.
_UNPRINTABLE = ("Cc", "Cs", "Zl", "Zp")
_SHOWN = 40


def require_site_names(names: Iterable[object], *, listed: bool = False) -> None:
    """Refuse names that cannot be the name of a file or a node; spaces, quotes, umlauts and emoji can.

    Args:
        listed: the names of a federation, of which commands take several with a comma between.

    Raises:
        DataError: FK213, with every such name, escaped, and what is wrong with it.

    >>> require_site_names(["Universitätsklinikum <Köln>", "ward 🏥", "Leeds, St James's"])
    >>> require_site_names(["Leeds, St James's"], listed=True)
    Traceback (most recent call last):
    fedkit.errors.DataError: FK213: the site name "Leeds, St James's" holds a comma. Remedy: ...
    """
    problems = []
    for name in dict.fromkeys(map(name_text, names)):
        if problem := _problem(name) or ("holds a comma" if listed and "," in name else ""):
            problems.append(f"the site name {_escaped(name)} {problem}")
    if problems:
        raise DataError(
            "; ".join(problems),
            code="FK213",
            remedy=f"rename the site: 1 to {_LONGEST} characters on one line, without / and \\, no dot in front"
            + (" and no comma" if listed else ""),
        )


def _problem(name: str) -> str:
    if not name:
        return "is empty"
    if len(name) > _LONGEST:
        return f"has {len(name)} characters; at most {_LONGEST} are allowed"
    if any(unicodedata.category(letter) in _UNPRINTABLE for letter in name):
        return "holds a control character"
    if len(name.encode()) > _MOST_BYTES:
        return f"takes {len(name.encode())} bytes in UTF-8; at most {_MOST_BYTES} are allowed"
    if "/" in name or "\\" in name:
        return "holds a slash or backslash"
    return "begins with a dot" if name.startswith(".") else ""


def _escaped(name: str) -> str:
    return repr(name if len(name) <= _SHOWN else name[:_SHOWN] + "...")
