"""What one site's private run makes of cells that a simulation refuses: they count as missing, and nobody else learns.

A refusal that a coordinator sees tells whether a record with such a cell is there. At a deployed site every table
that can be read as a table therefore gives data, and its warnings stay on the site.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedkit.config.experiment import DataConfig
from fedkit.data.declared import declared_columns
from fedkit.data.encode import UNDECLARED, class_codes, read_numbers
from fedkit.data.table import Column, Table
from fedkit.data.units import without_id


def empty_table(config: DataConfig) -> Table:
    """The declared columns without a row."""
    nothing = Column((), np.zeros(0, dtype=np.int64))
    return Table(
        dict.fromkeys(declared_columns(config), nothing), np.zeros(0, dtype=np.int64), lambda record: f"row {record}"
    )


def readable(config: DataConfig, table: Table) -> tuple[Table, tuple[str, ...]]:
    """The table without what could stop a run: unreadable cells are missing, rows without a unit's id are left out.

    Returns:
        The table, and one warning for each column or reason, with counts.

    Guarantee: what becomes of a row follows from that row and the declaration alone.
    """
    warnings = []
    columns = dict(table.columns)
    for name in (*config.features.numeric, config.target.column):
        bad = _unreadable(config, columns[name], name)
        cells = int(bad[columns[name].codes].sum()) if len(bad) else 0
        if cells:
            columns[name] = _without(columns[name], bad)
            what = (
                "1 cell that cannot be read as declared counts"
                if cells == 1
                else (f"{cells} cells that cannot be read as declared count")
            )
            warnings.append(f"{name}: {what} as missing")
    cleaned = Table(columns, table.numbers, table.locate)
    nameless = without_id(config, cleaned)
    if nameless.any():
        cleaned = cleaned.take(np.flatnonzero(~nameless))
        warnings.append(f"{int(nameless.sum())} rows have no {config.unit_column} and are left out")
    return cleaned, tuple(warnings)


def _unreadable(config: DataConfig, column: Column, name: str) -> NDArray[np.bool_]:
    """Marks the distinct texts that an encoding refuses: bool [values]."""
    distinct = Column(column.values, np.arange(len(column.values)))
    if name == config.target.column and config.target.kind != "regression":
        marked: NDArray[np.bool_] = class_codes(config, distinct) == UNDECLARED
        return marked
    return read_numbers(config, distinct, name)[1]


def _without(column: Column, bad: NDArray[np.bool_]) -> Column:
    values = tuple(None if marked else text for text, marked in zip(column.values, bad, strict=True))
    return Column(values, column.codes)
