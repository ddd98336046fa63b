"""Sizes as a person writes them."""

from __future__ import annotations

import re

_AMOUNT = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([KMGT]i?)?B?")
_FACTORS: dict[str | None, int] = {None: 1}
_FACTORS |= {f"{unit}i": 1024**power for power, unit in enumerate("KMGT", 1)}
_FACTORS |= {unit: 1000**power for power, unit in enumerate("KMGT", 1)}


def number_of_bytes(text: object) -> int | None:
    """The bytes that a text such as ``2GiB`` means; None for what is no size of at least 1 byte.

    >>> number_of_bytes("2GiB"), number_of_bytes("1.5 MB"), number_of_bytes(512), number_of_bytes("2 apples")
    (2147483648, 1500000, 512, None)
    """
    found = None if isinstance(text, bool) else _AMOUNT.fullmatch(str(text))
    if found is None or len(found[1]) > 20:
        return None
    return int(float(found[1]) * _FACTORS[found[2]]) or None
