"""Rows with consent, and whose they are: what every reading at a deployed site goes through."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedkit.config.experiment import DataConfig
from fedkit.data.consent import ConsentFilter
from fedkit.data.declared import declared_columns
from fedkit.data.source import read_table
from fedkit.data.spellings import folded
from fedkit.data.table import Table, name_text
from fedkit.data.units import NO_ID


@dataclass(frozen=True)
class Consented:
    """A table that was read through a filter.

    Attributes:
        table: the declared columns and no other.
        ids: of each row its unit's, as `fedkit.data.table.name_text` writes it; None where no column holds them.
    """

    table: Table
    ids: tuple[str, ...] | None


def read_consented(config: DataConfig, where: ConsentFilter | None) -> Consented:
    """Read the declared columns of the rows that a filter lets in.

    Args:
        where: None lets all rows in.

    Raises:
        DataError: as `read_table`, of the table and of the register; FK208, a database that cannot be filtered.

    Guarantee: a row that the filter leaves out is no part of what the source answers; whatever makes a filter, its
    register or an id unreadable leaves rows out. No value of the register, nor of a column that is not declared, is
    in the table.
    """
    return with_ids(config, read_table(config, where), where)


def with_ids(config: DataConfig, table: Table, where: ConsentFilter | None) -> Consented:
    """A table that was read through a filter, without whoever should not be in it, and whose rows it holds."""
    column = config.unit_column if where is None or where.unit is None else where.unit
    if column is None:
        return Consented(table, None)
    names = table.columns[column].map(name_text, object)
    if where is not None and where.unit is not None:
        # The engine has left them out already; of an id that it writes in another way, these are its last words.
        gone = frozenset(map(folded, where.withdrawn))
        kept = np.array([name.lower() not in NO_ID and folded(name) not in gone for name in names], dtype=np.bool_)
        table, names = table.take(np.flatnonzero(kept)), names[kept]
    declared = {name: table.columns[name] for name in declared_columns(config)}
    return Consented(Table(declared, table.numbers, table.locate), tuple(names.tolist()))
