"""Who consents, from a register that is not where the records are: ids first, then bound beside the records' query."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from fedkit.config.experiment import DataConfig
from fedkit.data.consent import ConsentFilter, Register
from fedkit.data.consent_sql import DUCKDB, Bound, Dialect, condition, consenting_query
from fedkit.data.declared import check_columns
from fedkit.errors import DataError


def file_condition(config: DataConfig, where: ConsentFilter, column: Callable[[str], str], bound: Bound) -> str:
    """A filter as it stands behind WHERE in a query of a file.

    Raises:
        DataError: the register cannot be read.
    """
    return condition(where, DUCKDB, column, bound, listed_ids(config, where, DUCKDB, bound))


def listed_ids(config: DataConfig, where: ConsentFilter, dialect: Dialect, bound: Bound) -> str | None:
    """A query of the ids that a filter's register lets in, read from it and bound; None without a register."""
    if where.register is None:
        return None
    return dialect.listed(bound(dialect.packed(consenting_ids(config, where, where.register))))


def consenting_ids(config: DataConfig, where: ConsentFilter, register: Register) -> list[str]:
    """The ids of all units that a register lets in; nothing else of it is read.

    Raises:
        DataError: FK201 to FK208, as of any table: a register that cannot be read lets nobody in.
    """
    from fedkit.data.source import existing_file

    own = replace(config, source=register.source)
    if register.source.kind == "sql":
        from fedkit.data.sql import register_ids

        return register_ids(own, where, register)
    if register.source.kind == "csv":
        return _csv_ids(own, where, register)
    if register.source.kind == "parquet":
        from fedkit.data.source import literal_path, parquet_column

        path, bound = existing_file(own), Bound()
        origin = f"read_parquet({bound(literal_path(path))})"
        return _ids(own, where, register, path.name, origin, parquet_column, bound)
    raise DataError(
        f"a register of kind {register.source.kind!r} cannot be read", code="FK201", remedy="use csv, parquet or sql"
    )


def _csv_ids(own: DataConfig, where: ConsentFilter, register: Register) -> list[str]:
    import duckdb

    from fedkit.data.delimited import csv_column, csv_encoding, csv_origin, malformed, read_header
    from fedkit.data.source import existing_file

    path, bound, encoding = existing_file(own), Bound(), csv_encoding(own)
    header = read_header(own, path, encoding)
    origin = csv_origin(own, path, encoding, header, bound)
    check_columns(own, header, path.name, register.columns)
    try:
        return _ids(own, where, register, path.name, origin, partial(csv_column, header), bound)
    except duckdb.Error as error:
        raise malformed(str(error), path.name, encoding) from None


def _ids(
    own: DataConfig,
    where: ConsentFilter,
    register: Register,
    name: str,
    origin: str,
    column: Callable[[str], str],
    bound: Bound,
) -> list[str]:
    import duckdb

    from fedkit.data.source import connect

    query = consenting_query(register, where.purpose, where.day, DUCKDB, origin, column, bound)
    try:
        with connect() as connection:
            if register.source.kind == "parquet":
                described = connection.execute(*bound.written(f"DESCRIBE SELECT * FROM {origin}", "qmark")).fetchall()  # noqa: S608
                check_columns(own, (str(row[0]) for row in described), name, register.columns)
            return [str(row[0]) for row in connection.execute(*bound.written(query, "qmark")).fetchall()]
    except duckdb.Error:
        if register.source.kind == "csv":
            raise
        raise DataError(f"{name} is not a Parquet file that can be read", code="FK207") from None
