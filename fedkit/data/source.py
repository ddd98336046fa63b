"""Read the declared columns of a source, and nothing else of it."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedkit.config.experiment import DataConfig
from fedkit.data.builtin import verified_path
from fedkit.data.consent import ConsentFilter, columns_asked, columns_read
from fedkit.data.consent_sql import Bound
from fedkit.data.declared import check_columns, declared_columns, require_rows
from fedkit.data.table import Table, column_of
from fedkit.errors import DataError

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection


def read_table(config: DataConfig, where: ConsentFilter | None = None) -> Table:
    """Read a declaration's table.

    Args:
        config: says where the rows are and which columns are declared.
        where: which rows may be read; `fedkit.data.consented.read_consented` is for whoever has one.

    Returns:
        The declared columns as texts, in the source's order of rows (from a database: in a sorted order); with a
        filter also its column of ids.

    Raises:
        DataError: the source is missing, each site's own, empty, of another encoding or delimiter, lacks a column, ...

    Guarantee: the value of a column that is not declared is never taken out of the source: projection is pushed down
    to the readers of CSV and Parquet and into the database's query. So is the filter: a row that it leaves out is no
    part of what the reader or the database answers.
    """
    from fedkit.data.delimited import read_csv
    from fedkit.data.sql import read_sql

    readers: dict[str, Callable[[DataConfig], Table]] = {
        "builtin": lambda c: read_csv(c, verified_path(c.source.path or ""), where),
        "csv": lambda c: read_csv(c, existing_file(c), where),
        "parquet": lambda c: read_parquet(c, existing_file(c), where),
        "sql": lambda c: read_sql(c, where),
    }
    kind = config.source.kind
    if kind == "site":
        raise DataError(
            "source.kind site means that each site reads its own table, which nobody else can",
            code="FK201",
            remedy="submit the run to a federation, or set data.source to a table of your own",
        )
    if kind not in readers:
        raise DataError(f"source.kind {kind!r} cannot be read", code="FK201", remedy=f"use {', '.join(readers)}")
    return readers[kind](config)


def existing_file(config: DataConfig) -> Path:
    """The declared path, if it is a file that may be read.

    Raises:
        DataError: FK201 where it is absent, a folder or not readable.
    """
    path = Path(config.source.path or "")
    if not config.source.path:
        raise DataError(
            f"source.kind is {config.source.kind} and source.path is not set", code="FK201", remedy="set source.path"
        )
    if path.is_dir():
        raise DataError(f"{path} is a folder, not a file", code="FK201", remedy="set source.path to one file")
    if not path.is_file():
        raise DataError(
            f"there is no file {path}", code="FK201", remedy="set source.path; it is relative to the declaration's file"
        )
    if not os.access(path, os.R_OK):
        raise DataError(f"{path} may not be read by this user", code="FK201", remedy="change its permissions")
    return path


def connect() -> DuckDBPyConnection:
    """A DuckDB in memory that never fetches or loads an extension and keeps the order of rows."""
    import duckdb

    settings: dict[str, str | bool | int | float | list[str]] = {
        "autoinstall_known_extensions": "false",
        "autoload_known_extensions": "false",
        "preserve_insertion_order": "true",
        "threads": "1",
        # Where memory does not suffice it would write rows to .tmp of the folder that it was started in.
        "temp_directory": "",
    }
    return duckdb.connect(":memory:", config=settings)


def literal_path(path: Path) -> str:
    """A path as DuckDB takes it: there ``*``, ``?`` and ``[`` would name other files too."""
    return glob.escape(str(path.absolute()))


def texts(values: Any) -> list[str | None]:
    """A column of DuckDB's ``fetchnumpy`` as texts, NULL as None."""
    masked = np.ma.asarray(values)
    cells: list[str | None] = np.asarray(masked.data, dtype=object).tolist()
    if masked.mask is not np.ma.nomask:
        for row in np.flatnonzero(masked.mask):
            cells[row] = None
    return cells


def parquet_column(name: str) -> str:
    """A column of a Parquet file as a query writes it."""
    return '"' + name.replace('"', '""') + '"'


def parquet_query(config: DataConfig) -> str:
    """The query that reads the declared columns of the Parquet file given as its parameter."""
    return _parquet_query(declared_columns(config), "?")


def _parquet_query(names: Sequence[str], path: str) -> str:
    selected = ", ".join(f"CAST({parquet_column(name)} AS VARCHAR) AS c{index}" for index, name in enumerate(names))
    return f"SELECT {selected} FROM read_parquet({path})"  # noqa: S608 - names are quoted, the path is a parameter


def read_parquet(config: DataConfig, path: Path, where: ConsentFilter | None = None) -> Table:
    """Read the declared columns of a Parquet file.

    Raises:
        DataError: FK202, FK205, FK206 or FK207; of a register also FK208.
    """
    import duckdb

    from fedkit.data.register import file_condition

    names, bound = columns_read(config, where), Bound()
    query = _parquet_query(names, bound(literal_path(path)))
    if where is not None:
        query += f" WHERE {file_condition(config, where, parquet_column, bound)}"
    try:
        with connect() as connection:
            described = connection.execute("DESCRIBE SELECT * FROM read_parquet(?)", [literal_path(path)]).fetchall()
            check_columns(config, (str(row[0]) for row in described), path.name, columns_asked(config, where))
            cells = connection.execute(*bound.written(query, "qmark")).fetchnumpy()
    except duckdb.Error:
        # DuckDB's message may hold cells.
        raise DataError(f"{path.name} is not a Parquet file that can be read", code="FK207") from None
    columns = {name: column_of(texts(cells[f"c{index}"])) for index, name in enumerate(names)}
    rows = len(next(iter(columns.values())).codes)
    require_rows(rows, path.name)
    return Table(columns, np.arange(rows), lambda record: f"row {record + 1}{of_rows(where)}")


def of_rows(where: ConsentFilter | None) -> str:
    """What stands behind a row's number where others were left out."""
    return "" if where is None else " of those with consent"
