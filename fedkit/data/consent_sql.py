"""A consent filter as a condition of a query, in the engines whose comparison of texts is known to the letter.

Each engine compares as Python does: no collation that takes ``a`` for ``A``, no number that is rounded. Whatever an
engine cannot write as that text becomes NULL, and NULL never consents.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from fedkit.data.consent import ColumnRule, ConsentFilter, Register
from fedkit.data.spellings import spellings
from fedkit.data.table import name_text
from fedkit.data.units import NO_ID

_BLANKS = "".join(map(chr, (*range(9, 14), *range(28, 33), 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029,
                            0x202F, 0x205F, 0x3000)))  # fmt: skip
"""What ``str.strip`` takes away."""

_LEAP = "([0-9]{2}(0[48]|[2468][048]|[13579][26])|([02468][048]|[13579][26])00)-02-29"
_DATE = (
    "([0-9]{4}-((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)"
    f"|02-(0[1-9]|1[0-9]|2[0-8]))|{_LEAP})"
)
_WHOLE = "-?(0|[1-9][0-9]*)[.]0+"
_MIDNIGHT = ("00:00", "00:00:00", "00:00:00.000", "00:00:00.000000")
_BEHIND = ("", *(f"{gap}{time}" for gap in " T" for time in _MIDNIGHT))
"""What may stand behind a day."""

_MARK = "\x00"


@dataclass
class Bound:
    """Values that travel beside a statement; each is a mark in its text until the statement is written."""

    values: list[Any] = field(default_factory=list)

    def __call__(self, value: Any) -> str:
        """The mark that stands for a value."""
        known = next((number for number, other in enumerate(self.values) if other is value), len(self.values))
        if known == len(self.values):
            self.values.append(value)
        return f"{_MARK}{known}{_MARK}"

    def written(self, text: str, style: str) -> tuple[str, tuple[Any, ...] | dict[str, Any]]:
        """A statement and its parameters as a driver takes them.

        Args:
            style: ``qmark``, ``format`` or ``pyformat``, of which the last two want every other ``%`` doubled.

        Raises:
            ValueError: another style.

        >>> bound = Bound()
        >>> bound.written(f"SELECT '50 %' WHERE a = {bound('x')}", "pyformat")
        ("SELECT '50 %%' WHERE a = %(p0)s", {'p0': 'x'})
        """
        parts = text.split(_MARK)
        plain, marks = parts[::2], [int(number) for number in parts[1::2]]
        if style == "qmark":
            return _joined(plain, ["?"] * len(marks)), tuple(self.values[mark] for mark in marks)
        plain = [part.replace("%", "%%") for part in plain]
        if style == "format":
            return _joined(plain, ["%s"] * len(marks)), tuple(self.values[mark] for mark in marks)
        if style == "pyformat":
            named = {f"p{mark}": self.values[mark] for mark in marks}
            return _joined(plain, [f"%(p{mark})s" for mark in marks]), named
        raise ValueError(f"no way to bind values of the style {style}")


def _joined(plain: Sequence[str], marks: Sequence[str]) -> str:
    return "".join(text for pair in zip(plain, (*marks, ""), strict=True) for text in pair)


@dataclass(frozen=True)
class Dialect:
    """How an engine says what a filter needs; each takes and gives SQL.

    Attributes:
        text: a value as text, NULL where it cannot be written as Python writes it.
        stripped: a text without the characters of another one at its ends.
        whole: a stripped text, 3.0 as 3.
        is_date: whether ten characters are a day of the calendar.
        listed: a query of the texts of a bound list.
        packed: a list of texts as it is bound.
    """

    text: Callable[[str], str]
    stripped: Callable[[str, str], str]
    whole: Callable[[str], str]
    is_date: Callable[[str], str]
    listed: Callable[[str], str]
    packed: Callable[[list[str]], Any]


def _sqlite_text(value: str) -> str:
    # Of a REAL, SQLite writes 15 digits: two ids could become one text. A BLOB is no text at all.
    whole = f"{value} = CAST({value} AS INTEGER) AND abs({value}) < 9007199254740992.0"
    return (
        f"CASE typeof({value}) WHEN 'text' THEN CASE WHEN instr({value}, char(0)) = 0 THEN {value} END"
        f" WHEN 'integer' THEN CAST({value} AS TEXT)"
        f" WHEN 'real' THEN CASE WHEN {whole} THEN CAST(CAST({value} AS INTEGER) AS TEXT) END END"
    )


def _sqlite_whole(text: str) -> str:
    cut = f"rtrim({text}, '0')"
    body = f"substr({cut}, 1, length({cut}) - 1)"
    digits = f"CASE WHEN substr({body}, 1, 1) = '-' THEN substr({body}, 2) ELSE {body} END"
    number = f"({digits}) = '0' OR ({digits}) GLOB '[1-9]*' AND ({digits}) NOT GLOB '*[^0-9]*'"
    return f"CASE WHEN {text} GLOB '*.0*' AND {cut} GLOB '*.' AND ({number}) THEN {body} ELSE {text} END"


DUCKDB = Dialect(
    text=lambda value: f"CAST({value} AS VARCHAR)",
    stripped=lambda text, blanks: f"trim({text}, CAST({blanks} AS VARCHAR))",
    whole=lambda text: (
        f"CASE WHEN regexp_full_match({text}, '{_WHOLE}') THEN split_part({text}, '.', 1) ELSE {text} END"
    ),
    is_date=lambda text: f"regexp_full_match({text}, '{_DATE}')",
    listed=lambda value: f"SELECT unnest(CAST({value} AS VARCHAR[]))",
    packed=lambda texts: texts,
)

DIALECTS = {
    "sqlite": Dialect(
        text=_sqlite_text,
        stripped=lambda text, blanks: f"trim({text}, {blanks})",
        whole=_sqlite_whole,
        is_date=lambda text: (
            f"{text} GLOB '[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9]' AND date({text}, '+0 days') = {text}"
        ),
        listed=lambda value: f"SELECT value FROM json_each({value})",  # noqa: S608
        packed=json.dumps,
    ),
    "postgresql": Dialect(
        text=lambda value: f'CAST({value} AS TEXT) COLLATE "C"',
        stripped=lambda text, blanks: f"btrim({text}, CAST({blanks} AS TEXT))",
        whole=lambda text: f"CASE WHEN {text} ~ '^{_WHOLE}$' THEN split_part({text}, '.', 1) ELSE {text} END",
        is_date=lambda text: f"{text} ~ '^{_DATE}$'",
        listed=lambda value: f"SELECT json_array_elements_text(CAST({value} AS json))",
        # JSON there has no character 0, and neither has any text of the database.
        packed=lambda texts: json.dumps([text for text in texts if "\x00" not in text]),
    ),
}
"""SQL databases by SQLAlchemy's name; of others the collation may take two ids for one."""


def condition(
    where: ConsentFilter, dialect: Dialect, column: Callable[[str], str], bound: Bound, consenting: str | None
) -> str:
    """What stands behind WHERE.

    Args:
        column: a column's name as the query writes it.
        consenting: a query of the ids that the register lets in (`consenting_query` or ``dialect.listed``); needed
            where the filter has a register.

    Raises:
        ValueError: a register without ``consenting``, or without a column of ids.
    """
    parts = []
    if where.column is not None:
        parts += _own_columns(where, where.column, dialect, column, bound)
    if where.unit is not None:
        unit = _same(dialect, column(where.unit), bound)
        parts.append(f"{unit} IS NOT NULL AND lower({unit}) NOT IN ({_list(dialect, sorted(NO_ID), bound)})")
        if where.withdrawn:
            parts.append(f"{unit} NOT IN ({_list(dialect, sorted(spellings(where.withdrawn)), bound)})")
    if where.register is not None:
        if where.unit is None or consenting is None:
            raise ValueError("a register needs a column of ids and a query of its own")
        parts.append(f"{_same(dialect, column(where.unit), bound)} IN ({consenting})")
    return " AND ".join(f"({part})" for part in parts) or "1 = 1"


def consenting_query(
    register: Register,
    purpose: str,
    day: datetime.date,
    dialect: Dialect,
    origin: str,
    column: Callable[[str], str],
    bound: Bound,
) -> str:
    """A query of the ids of all units that a register lets in for a purpose on a day; see `fedkit.data.consent`.

    Args:
        origin: what stands behind FROM.
    """
    unit = _same(dialect, column(register.unit), bound)
    asked = f"{_same(dialect, column(register.purpose), bound)} = {_text(dialect, name_text(purpose), bound)}"
    start, until = column(register.start), column(register.until)
    begun, going = _begun(dialect, start, day, bound), _going(dialect, until, day, bound)
    # 2 is valid, 1 is over or has not begun, 0 cannot be read. Each CASE takes NULL for a no.
    endless = _endless(dialect, until, bound)
    state = (
        f"CASE WHEN {_readable(dialect, start, bound)} THEN"
        f" CASE WHEN {endless} THEN CASE WHEN {begun} THEN 2 ELSE 1 END"
        f" WHEN {_readable(dialect, until, bound)} THEN CASE WHEN {begun} AND {going} THEN 2 ELSE 1 END"
        " ELSE 0 END ELSE 0 END"
    )
    rows = (
        f"SELECT {unit} AS fedkit_unit, {_day(dialect, start, bound)} AS fedkit_start, {state} AS fedkit_state"  # noqa: S608
        f" FROM {origin} WHERE {asked}"
    )
    named = f"fedkit_unit IS NOT NULL AND lower(fedkit_unit) NOT IN ({_list(dialect, sorted(NO_ID), bound)})"
    starts = (
        f"SELECT fedkit_unit, MIN(fedkit_state) AS fedkit_least FROM ({rows}) fedkit_rows WHERE {named}"  # noqa: S608
        " GROUP BY fedkit_unit, fedkit_start"
    )
    return (
        f"SELECT fedkit_unit FROM ({starts}) fedkit_starts GROUP BY fedkit_unit"  # noqa: S608
        " HAVING MIN(fedkit_least) > 0 AND MAX(fedkit_least) = 2"
    )


def _own_columns(
    where: ConsentFilter, rule: ColumnRule, dialect: Dialect, column: Callable[[str], str], bound: Bound
) -> list[str]:
    """What a record's own columns must be; whatever is NULL or cannot be read makes none of them true."""
    parts = [f"{_same(dialect, column(rule.name), bound)} IN ({_list(dialect, rule.values, bound)})"]
    if rule.purpose is not None:
        asked = _text(dialect, name_text(where.purpose), bound)
        parts.append(f"{_same(dialect, column(rule.purpose), bound)} = {asked}")
    if rule.start is not None:
        start = column(rule.start)
        parts.append(f"{_readable(dialect, start, bound)} AND {_begun(dialect, start, where.day, bound)}")
    if rule.until is not None:
        until = column(rule.until)
        within = f"{_readable(dialect, until, bound)} AND {_going(dialect, until, where.day, bound)}"
        parts.append(f"CASE WHEN {_endless(dialect, until, bound)} THEN 1 WHEN {within} THEN 1 ELSE 0 END = 1")
    return parts


def _begun(dialect: Dialect, start: str, day: datetime.date, bound: Bound) -> str:
    return f"{_day(dialect, start, bound)} <= {_text(dialect, day.isoformat(), bound)}"


def _going(dialect: Dialect, until: str, day: datetime.date, bound: Bound) -> str:
    return f"{_text(dialect, day.isoformat(), bound)} < {_day(dialect, until, bound)}"


def _endless(dialect: Dialect, until: str, bound: Bound) -> str:
    return f"{until} IS NULL OR {_stripped(dialect, until, bound)} = ''"


def _stripped(dialect: Dialect, value: str, bound: Bound) -> str:
    return dialect.stripped(dialect.text(value), bound(_BLANKS))


def _same(dialect: Dialect, value: str, bound: Bound) -> str:
    """A value as `name_text` writes it."""
    return f"({dialect.whole(_stripped(dialect, value, bound))})"


def _text(dialect: Dialect, value: str, bound: Bound) -> str:
    return dialect.text(bound(value))


def _list(dialect: Dialect, values: Sequence[str], bound: Bound) -> str:
    return dialect.listed(bound(dialect.packed([name_text(value) for value in values])))


def _day(dialect: Dialect, value: str, bound: Bound) -> str:
    return f"substr({_stripped(dialect, value, bound)}, 1, 10)"


def _readable(dialect: Dialect, value: str, bound: Bound) -> str:
    behind, day = ", ".join(f"'{text}'" for text in _BEHIND), _day(dialect, value, bound)
    rest = f"substr({_stripped(dialect, value, bound)}, 11)"
    return f"{dialect.is_date(day)} AND {day} >= '0001' AND {rest} IN ({behind})"
