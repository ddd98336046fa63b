"""Numbers as people write them on a command line."""

from __future__ import annotations

import re

_PLAIN = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?\Z")
_NAMED = frozenset({"nan", "inf", "+inf", "-inf"})


def plain_number(text: str) -> float:
    """The number that a text says.

    Raises:
        ValueError: it says none. Python's own ``float`` would also take 1_0 and digits of other scripts, which are more
            often a slip than a number.

    >>> plain_number(" 1e-5")
    1e-05
    """
    stripped = text.strip()
    if not _PLAIN.match(stripped) and stripped.lower() not in _NAMED:
        raise ValueError(f"{stripped[:40]!r} is not a number")
    return float(stripped)
