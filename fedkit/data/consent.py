"""Whose records a run may use: for one purpose, on one day, by a column of the table or a register beside it.

What a filter means:

- texts (ids, purposes, a column's values) are compared as ids of units are (`fedkit.data.table.name_text`): stripped,
  and 3.0 is 3;
- a register's row, or a record's columns, are valid from the first day on and before the last one; an empty last day
  has no end, an empty first day cannot be read;
- a row of the records whose own columns say so consents by itself: a value that means consent, for the purpose, within
  its days; a day of it that cannot be read denies the row;
- one valid row of a register for the unit and purpose suffices, beside others that are over or have not begun;
- a row with a day that cannot be read, or two rows of one first day of which one is valid and the other is not, deny:
  nobody can tell which of them was meant;
- a row without an id of its unit, and every row of a unit that has withdrawn, in whatever characters its id is written
  (`fedkit.data.spellings`), is left out.

A day is ``2026-01-31``, or that with midnight behind it, as databases write a day. Any other text cannot be read.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass

from fedkit.config.experiment import DataConfig, SourceConfig
from fedkit.data.declared import declared_columns


@dataclass(frozen=True)
class ColumnRule:
    """A column of the table itself, and the values that mean consent.

    Attributes:
        purpose, start, until: further columns of the table that say what the row's consent is for, and from and until
            when; None where it holds for every purpose, and without a first or last day.
    """

    name: str
    values: tuple[str, ...]
    purpose: str | None = None
    start: str | None = None
    until: str | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that are looked at."""
        return tuple(each for each in (self.name, self.purpose, self.start, self.until) if each is not None)


@dataclass(frozen=True)
class Register:
    """A table of consents beside the records.

    Attributes:
        source: csv, parquet or sql; not that of the records.
        unit, purpose, start, until: its columns.
    """

    source: SourceConfig
    unit: str
    purpose: str
    start: str
    until: str

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that are looked at."""
        return (self.unit, self.purpose, self.start, self.until)


@dataclass(frozen=True)
class ConsentFilter:
    """Which rows may be read.

    Attributes:
        day: of the round, by the site's calendar.
        unit: the column of the ids by which the register and those who withdrew are known; None where neither is used.
        withdrawn: ids as `fedkit.data.table.name_text` writes them.
    """

    purpose: str
    day: datetime.date
    column: ColumnRule | None = None
    register: Register | None = None
    unit: str | None = None
    withdrawn: frozenset[str] = frozenset()


def columns_read(config: DataConfig, where: ConsentFilter | None) -> tuple[str, ...]:
    """The columns whose values leave the source: those that are declared, and the ids that a filter goes by."""
    extra = (where.unit,) if where is not None and where.unit is not None else ()
    return tuple(dict.fromkeys((*declared_columns(config), *extra)))


def columns_asked(config: DataConfig, where: ConsentFilter | None) -> Sequence[str]:
    """The columns that the source must have: what is read, and what decides."""
    extra = where.column.columns if where is not None and where.column is not None else ()
    return tuple(dict.fromkeys((*columns_read(config, where), *extra)))
