"""Reads JSON that a stranger sent: bounded in size and depth, one meaning only, every field checked.

::

    FK540  anything that is not exactly what was expected
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any, NoReturn

from fedkit.errors import FederationError

MOST_BYTES = 2**20
MOST_DEPTH = 32
_MOST_INTEGER = 2**63
# Possessive, and an unclosed string goes to the end (no parser gets past it): never is a character looked at twice.
_STRING = re.compile(r'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)', re.DOTALL)
_BRACKETS = re.compile(r"[^\[\]{}]+")
_SHOWN = 40
NUMBER = (int, float)


def unreadable(what: str, why: str) -> FederationError:
    """The error of something that arrived and cannot be read; its content is not repeated."""
    return FederationError(f"{what} {why}", code="FK540", remedy="send what this version of fedkit writes")


def write(value: Any) -> str:
    """The one text of plain JSON values: no blanks, keys in the order given.

    Raises:
        ValueError: NaN or infinity.
    """
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def read(text: str, what: str, most_bytes: int = MOST_BYTES) -> Any:
    """Parse a text that was sent.

    Args:
        what: how messages call it, such as ``the job``.

    Raises:
        FederationError: FK540, too large, too deep, no JSON, a key twice, NaN or infinity, a whole number beyond 64
            bits, a text with ``${`` or with half a character.

    Guarantee: takes time proportional to the text, and no text makes it raise anything else.

    >>> read('{"a": [1]}', "it")
    {'a': [1]}
    """
    # A str has at least a byte a character: this bounds what is encoded next.
    if len(text) > most_bytes or len(_utf8(text, what)) > most_bytes:
        raise unreadable(what, f"is larger than {most_bytes:,} bytes")
    if _deeper_than(text, MOST_DEPTH):
        raise unreadable(what, f"is nested more than {MOST_DEPTH} deep")

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise unreadable(what, "has a key twice")
        return found

    def refuse(constant: str) -> NoReturn:
        raise unreadable(what, f"holds {constant}, which is no JSON")

    def finite(digits: str) -> float:
        number = float(digits)
        return number if math.isfinite(number) else refuse("a number without end")

    def whole(digits: str) -> int:
        number = int(digits) if len(digits) <= 20 else _MOST_INTEGER
        return number if abs(number) < _MOST_INTEGER else refuse("a whole number beyond 64 bits")

    try:
        value = json.loads(text, object_pairs_hook=once, parse_constant=refuse, parse_float=finite, parse_int=whole)
    except (ValueError, RecursionError):
        raise unreadable(what, "is no JSON") from None
    _refuse_texts(value, what)
    return value


def fields(value: Any, types: Mapping[str, type | tuple[type, ...]], what: str) -> dict[str, Any]:
    """The value as a mapping with exactly these fields of these types; true and false are no numbers.

    Raises:
        FederationError: FK540, naming the fields.
    """
    if not isinstance(value, dict):
        raise unreadable(what, "is no mapping of fields")
    if missing := [name for name in types if name not in value]:
        raise unreadable(what, f"lacks {', '.join(missing)}")
    if unknown := [name for name in value if name not in types]:
        raise unreadable(what, f"has the unknown field {unknown[0][:_SHOWN]!r}")
    for name, wanted in types.items():
        given = value[name]
        if not isinstance(given, wanted) or (isinstance(given, bool) and wanted is not bool):
            raise unreadable(what, f"has a {name} of another type")
    return value


def _utf8(text: str, what: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise unreadable(what, "holds half a character") from None


def _deeper_than(text: str, most: int) -> bool:
    # Before parsing: a parser that recurses must not be given an abyss. Strings may hold brackets.
    depth = 0
    for bracket in _BRACKETS.sub("", _STRING.sub("", text)):
        depth += 1 if bracket in "[{" else -1
        if depth > most:
            return True
    return False


def _refuse_texts(value: Any, what: str) -> None:
    if isinstance(value, dict):
        for name, inner in value.items():
            _refuse_texts(name, what)
            _refuse_texts(inner, what)
    elif isinstance(value, list):
        for inner in value:
            _refuse_texts(inner, what)
    elif isinstance(value, str):
        _utf8(value, what)
        if "${" in value:
            raise unreadable(what, "holds ${...}, which nothing here evaluates")
