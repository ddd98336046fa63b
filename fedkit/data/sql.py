"""Any SQL database through SQLAlchemy: the user's query as a subquery, of which only declared columns are selected."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from fedkit.config.experiment import DataConfig
from fedkit.data.consent import ConsentFilter, Register, columns_asked, columns_read
from fedkit.data.consent_sql import DIALECTS, Bound, Dialect, condition, consenting_query
from fedkit.data.database_url import parsed_url, refuse_password, secrets_of, url_text
from fedkit.data.declared import check_columns, require_rows
from fedkit.data.register import listed_ids
from fedkit.data.table import Table, column_of, text_of
from fedkit.errors import DataError

if TYPE_CHECKING:
    from sqlalchemy import URL, Connection, CursorResult, Engine

_ALIAS = "fedkit_source"
_HIDDEN = "***"


def read_sql(config: DataConfig, where: ConsentFilter | None = None) -> Table:
    """Read the declared columns of a query's result.

    Returns:
        The declared columns as texts; rows sorted by their texts, since a database promises no order.

    Raises:
        DataError: FK201 source incomplete, FK202, FK205, FK206, FK208 whatever the database says, without the URL,
            its password, or the content of a row, FK223 it cannot be reached.

    Guarantee: the database is asked for declared columns only, and for rows that the filter lets in; no error holds a
    credential.
    """
    names = columns_read(config, where)
    with _asking(config) as asking:
        asking.check(config, columns_asked(config, where), "the query's result")
        statement, bound = wrapped(query_of(config), quoted_columns(asking.engine, names)), Bound()
        if where is None:
            result = asking.read(statement)
        else:
            # Nothing of the register is read while this one is: an error of it is told by its own words.
            consenting = _consenting(config, where, asking, bound)
            column = partial(quoted_column, asking.engine)
            statement += f" WHERE {condition(where, asking.dialect(), column, bound, consenting)}"
            result = asking.read(statement, bound)
        rows = sorted((tuple(map(text_of, row)) for row in result), key=_sort_key)
    require_rows(len(rows), "the query's result")
    columns = {name: column_of(row[index] for row in rows) for index, name in enumerate(names)}
    return Table(columns, np.arange(len(rows)), lambda record: f"row {record + 1} in sorted order")


def register_ids(own: DataConfig, where: ConsentFilter, register: Register) -> list[str]:
    """The ids that a register in a database lets in; nothing else of it is read.

    Args:
        own: its source is the register's.

    Raises:
        DataError: as `read_sql`.
    """
    with _asking(own) as asking:
        asking.check(own, register.columns, "the register")
        bound = Bound()
        statement = _register_query(own, where, register, asking, bound)
        return [str(row[0]) for row in asking.read(statement, bound)]


def _consenting(config: DataConfig, where: ConsentFilter, asking: _Asking, bound: Bound) -> str | None:
    """A query of the ids that the register lets in: the register's own where it lies in the same database."""
    register = where.register
    if register is None or register.source.kind != "sql":
        return listed_ids(config, where, asking.dialect(), bound)
    own = replace(config, source=register.source)
    if url_text(own) != url_text(config):
        return listed_ids(config, where, asking.dialect(), bound)
    asking.check(own, register.columns, "the register")
    return _register_query(own, where, register, asking, bound)


def _register_query(own: DataConfig, where: ConsentFilter, register: Register, asking: _Asking, bound: Bound) -> str:
    column = partial(quoted_column, asking.engine)
    origin = as_source(query_of(own))
    return consenting_query(register, where.purpose, where.day, asking.dialect(), origin, column, bound)


@dataclass
class _Asking:
    """A connection, and how far the asking is: what an error may tell depends on it."""

    engine: Engine
    connection: Connection
    stage: str = "asked"

    def check(self, config: DataConfig, wanted: Sequence[str], what: str) -> None:
        """Refuse a query whose result lacks a column."""
        self.stage = "asked"
        empty = self._ask(wrapped(query_of(config), ["*"]) + " WHERE 1 = 0")
        check_columns(config, empty.keys(), what, wanted)

    def read(self, statement: str, bound: Bound | None = None) -> CursorResult[Any]:
        """The rows of a statement, with the values that are bound beside it."""
        self.stage = "read"
        if bound is None or not bound.values:
            return self._ask(statement)
        text, values = bound.written(statement, self.engine.dialect.paramstyle)
        return self.connection.exec_driver_sql(text, values)

    def dialect(self) -> Dialect:
        """How the database says what a filter needs.

        Raises:
            DataError: FK208, it is another one than those whose comparisons are known, or its driver binds no values.
        """
        known, style = DIALECTS.get(self.engine.dialect.name), self.engine.dialect.paramstyle
        if known is None or style not in ("qmark", "format", "pyformat"):
            raise DataError(
                f"consent and withdrawal cannot be asked of a database of the kind {self.engine.dialect.name} with"
                f" values bound as {style}; known are {' and '.join(DIALECTS)}",
                code="FK208",
                remedy="copy the table to Parquet or CSV, or to one of those",
            )
        return known

    def _ask(self, statement: str) -> CursorResult[Any]:
        # `no_parameters`: a % or : of the user's query is the user's, not a placeholder.
        return self.connection.execution_options(no_parameters=True).exec_driver_sql(statement)


@contextmanager
def _asking(config: DataConfig) -> Iterator[_Asking]:
    """A connection to a source's database; whatever goes wrong while it is open is told without its secrets."""
    import sqlalchemy as sa

    query_of(config)
    if config.source.url:
        refuse_password(config.source.url)
    url = parsed_url(url_text(config))
    asking: _Asking | None = None
    try:
        engine = sa.create_engine(url, poolclass=sa.pool.NullPool, hide_parameters=True)
        with engine.connect() as connection:
            asking = _Asking(engine, connection)
            yield asking
    except sa.exc.NoSuchModuleError:
        raise DataError(
            f"SQLAlchemy knows no database {url.drivername!r}",
            code="FK208",
            remedy="install its dialect, or mend the URL",
        ) from None
    except ImportError as error:
        raise DataError(
            f"the driver {error.name or 'of the database'} is not installed", code="FK208", remedy="pip install it"
        ) from None
    except DataError:
        raise
    except Exception as error:
        raise _database_error(error, url, asking.stage if asking else "reached") from None


def query_of(config: DataConfig) -> str:
    """A source's query.

    Raises:
        DataError: FK201, it has none, or one that no database can take.
    """
    if not config.source.query:
        raise DataError("source.kind is sql and source.query is not set", code="FK201", remedy="set source.query")
    if "\x00" in config.source.query:
        raise DataError("source.query holds the character 0", code="FK201", remedy="take it out")
    return config.source.query


def wrapped(query: str, columns: Sequence[str]) -> str:
    """The user's query as a subquery; the line end keeps a closing comment of theirs from eating the bracket.

    >>> wrapped("SELECT * FROM icu;", ["*"])
    'SELECT * FROM (SELECT * FROM icu\\n) fedkit_source'
    """
    return f"SELECT {', '.join(columns)} FROM {as_source(query)}"  # noqa: S608


def as_source(query: str) -> str:
    """The user's query as it stands behind FROM."""
    return f"({query.strip().rstrip(';').rstrip()}\n) {_ALIAS}"


def quoted_columns(engine: Engine, names: Sequence[str]) -> list[str]:
    """Declared columns in the database's own quotes, with the subquery's name in front.

    Without that name SQLite would take a quoted column that does not exist for a text.
    """
    return [quoted_column(engine, name) for name in names]


def quoted_column(engine: Engine, name: str) -> str:
    """One column as `quoted_columns` writes it."""
    quoted = engine.dialect.identifier_preparer.quote_identifier(name)
    # A % is doubled for drivers with that placeholder; whoever binds values does so for the whole statement.
    return f"{_ALIAS}.{quoted.replace('%%', '%')}"


def _sort_key(row: tuple[str | None, ...]) -> tuple[tuple[bool, str], ...]:
    return tuple((cell is not None, cell or "") for cell in row)


def _database_error(error: Exception, url: URL, stage: str) -> DataError:
    """Our error for a driver's: its first line, no secrets; while rows are read only its kind, for it quotes cells."""
    kind = type(getattr(error, "orig", None) or error).__name__
    told = ""
    if stage != "read":
        told = ": " + (str(getattr(error, "orig", None) or error).splitlines() or [""])[0]
        for secret in sorted(secrets_of(url), key=len, reverse=True):
            told = told.replace(secret, _HIDDEN)
    what = {
        "reached": "the database cannot be reached",
        "asked": "the database refuses the query",
        "read": "the database stopped while it was read",
    }
    return DataError(
        f"{what[stage]} ({kind}{told})",
        code="FK223" if stage == "reached" or getattr(error, "connection_invalidated", False) else "FK208",
        remedy="check the URL, the driver's settings and source.query",
    )
