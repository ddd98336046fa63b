"""A table in memory: declared columns only, each as its distinct texts and a code a row."""

from __future__ import annotations

import datetime
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedkit.types import Int64

# [0-9] and not \d, which also means digits of other scripts.
_INTEGER = re.compile(r"[+-]?(0|[1-9][0-9]*)\Z")
_DECIMAL = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?\Z")
_LEADING_ZERO = re.compile(r"[+-]?0[0-9]")
_WHOLE = re.compile(r"(-?(?:0|[1-9][0-9]*))\.0+\Z")
_NOT_FINITE = {"nan": "nan", "inf": "inf", "infinity": "inf", "-inf": "-inf", "-infinity": "-inf", "+inf": "inf"}
_BOOLEAN = {"true": "1", "false": "0"}
# Above it a float no longer tells neighbouring whole numbers apart, and two ids would become one.
_EXACT = 2**53


@dataclass(frozen=True)
class Column:
    """One column of texts.

    Attributes:
        values: distinct texts as they came from the source; None is the source's own NULL.
        codes: int64 [n], index into ``values`` of each row.
    """

    values: tuple[str | None, ...]
    codes: Int64

    def map(self, function: Callable[[str | None], Any], dtype: Any) -> NDArray[Any]:
        """Apply a function once per distinct text and spread the result over the rows: [n] of ``dtype``."""
        results = np.empty(len(self.values), dtype=dtype)
        for index, value in enumerate(self.values):
            results[index] = function(value)
        return results[self.codes]

    def take(self, rows: Int64) -> Column:
        """The same column with only the given rows."""
        return Column(self.values, self.codes[rows])


@dataclass(frozen=True)
class Table:
    """Declared columns of a source.

    Attributes:
        columns: column name to texts, all of one length.
        numbers: int64 [n], the record number (from 0) that each row has in its source.
        locate: tells where a record number is found, such as ``line 7`` of a CSV file.
    """

    columns: Mapping[str, Column]
    numbers: Int64
    locate: Callable[[int], str]

    def __len__(self) -> int:
        return len(self.numbers)

    def where(self, rows: NDArray[np.bool_]) -> str:
        """Where the first marked row is found in the source."""
        return self.locate(int(self.numbers[rows].min()))

    def take(self, rows: Int64) -> Table:
        """The same table with only the given rows."""
        columns = {name: column.take(rows) for name, column in self.columns.items()}
        return Table(columns, self.numbers[rows], self.locate)


def column_of(values: Iterable[Any]) -> Column:
    """Code a sequence of values of any kind by their texts (`text_of`).

    >>> column_of(["b", None, "b"]).codes.tolist()
    [0, 1, 0]
    """
    index: dict[str | None, int] = {}
    codes = [index.setdefault(value if type(value) is str else text_of(value), len(index)) for value in values]
    return Column(tuple(index), np.array(codes, dtype=np.int64))


def text_of(value: Any) -> str | None:
    """A database's or an array's value as text; None stays None.

    >>> text_of(True), text_of(1.0), text_of(None)
    ('true', '1.0', None)
    """
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool | np.bool_):
        return "true" if value else "false"
    if isinstance(value, float | np.floating):
        return repr(float(value)) if not isinstance(value, np.float32) else str(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value).hex()
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    return str(value)


def canonical(value: Any) -> str:
    """The text by which values are compared: 1, 1.0, "1", " 1 " and true are one, "01" is another.

    Args:
        value: a cell's text or a value from a declaration; None reads as the empty text.

    Returns:
        The stripped text; whole numbers without a point, other numbers as the shortest decimal that means them.

    >>> canonical("1.0"), canonical(1), canonical(True), canonical("01"), canonical(" Female "), canonical(None)
    ('1', '1', '1', '01', 'Female', '')
    """
    text = (text_of(value) or "").strip()
    lowered = text.lower()
    if lowered in _BOOLEAN:
        return _BOOLEAN[lowered]
    if lowered in _NOT_FINITE:
        return _NOT_FINITE[lowered]
    if _INTEGER.match(text):
        return str(int(text)) if len(text) < 18 else (text.lstrip("+"))
    if _DECIMAL.match(text) and not _LEADING_ZERO.match(text):
        number = float(text)
        if number.is_integer() and abs(number) < _EXACT:
            return str(int(number))
        return repr(number) if np.isfinite(number) else text
    return text


def name_text(value: Any) -> str:
    """The text of a site's name or a unit's id: stripped; 3.0 (whole numbers beside NULLs in a database) is 3.

    >>> name_text("north "), name_text(3.0), name_text("1.10"), name_text("007")
    ('north', '3', '1.10', '007')
    """
    text = (text_of(value) or "").strip()
    whole = _WHOLE.match(text)
    return whole[1] if whole else text


def number(text: str) -> float | None:
    """The number that a text is, None if it is none; true and false are 1 and 0, nan and inf are themselves.

    >>> number("1e3"), number(" TRUE"), number("n/a")
    (1000.0, 1.0, None)
    """
    known = canonical(text)
    if known in ("nan", "inf", "-inf"):
        return float(known)
    # Python's own float() would also take "1_000" and digits of other scripts.
    return float(known) if _DECIMAL.match(known) else None
