"""Which site each row of a whole table belongs to."""

from __future__ import annotations

import numpy as np

from fedkit.config.experiment import DataConfig
from fedkit.data.names import require_site_names
from fedkit.data.table import Table, name_text
from fedkit.errors import DataError
from fedkit.types import Int64


def no_such_site(site: str) -> DataError:
    """The error of a table without rows of a site."""
    return DataError(
        f"the table has no rows of site {site!r}", code="FK213", remedy="name a value of the table's site column"
    )


def rows_of_site(config: DataConfig, table: Table, site: str) -> Table:
    """Only the rows of one site; all of them where the table names no sites."""
    if config.site_column is None:
        return table
    mine = table.columns[config.site_column].map(lambda text: name_text(text) == site, np.bool_)
    return table.take(np.flatnonzero(mine))


def site_of_rows(config: DataConfig, table: Table) -> tuple[tuple[str, ...], Int64]:
    """Names of the sites in their order, and each row's index into them: int64 [n].

    Raises:
        DataError: FK213, a name that no site can have, a row without one, or other sites than ``records`` declares.
    """
    require_site_names(config.records)
    if config.site_column is None:
        declared = tuple(map(name_text, config.records))
        return declared if len(declared) == 1 else ("site_1",), np.zeros(len(table), dtype=np.int64)
    column = table.columns[config.site_column]
    unnamed = column.map(lambda text: name_text(text) == "", np.bool_)
    if unnamed.any():
        raise DataError(
            f"site_column {config.site_column} is empty in {int(unnamed.sum())} rows, first in {table.where(unnamed)}",
            code="FK213",
            remedy="give each row its site",
        )
    present = {name_text(column.values[code]) for code in np.unique(column.codes)}
    require_site_names(sorted(present))
    names = _ordered(config, present)
    index = {name: position for position, name in enumerate(names)}
    # Texts of rows that were taken out stay in `values` and may name other sites.
    return names, column.map(lambda text: index.get(name_text(text), -1), np.int64)


def _ordered(config: DataConfig, present: set[str]) -> tuple[str, ...]:
    declared = {name_text(name) for name in config.records}
    if not declared:
        return tuple(sorted(present))
    if absent := sorted(declared - present):
        raise DataError(
            f"records declares {', '.join(absent)} and the table has no such site; it has {', '.join(sorted(present))}",
            code="FK213",
            remedy="correct records",
        )
    if extra := sorted(present - declared):
        raise DataError(
            f"the table has the site {', '.join(extra)}, which records does not declare",
            code="FK213",
            remedy="declare an approximate count of every site, or of none",
        )
    return tuple(name_text(name) for name in config.records)
