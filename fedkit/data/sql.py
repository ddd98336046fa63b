"""Any SQL database through SQLAlchemy: the user's query as a subquery, of which only declared columns are selected."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, quote_plus

import numpy as np

from fedkit.config.experiment import DataConfig
from fedkit.data.declared import check_columns, declared_columns, require_rows
from fedkit.data.table import Table, column_of, text_of
from fedkit.errors import DataError

if TYPE_CHECKING:
    from sqlalchemy import URL, Engine

_ALIAS = "fedkit_source"
_HIDDEN = "***"


def read_sql(config: DataConfig) -> Table:
    """Read the declared columns of a query's result.

    Returns:
        The declared columns as texts; rows sorted by their texts, since a database promises no order.

    Raises:
        DataError: FK201 source incomplete, FK202, FK205, FK206, FK208 whatever the database says, without the URL,
            its password, or the content of a row.

    Guarantee: the database is asked for declared columns only, and no error holds a credential.
    """
    import sqlalchemy as sa

    if not config.source.query:
        raise DataError("source.kind is sql and source.query is not set", code="FK201", remedy="set source.query")
    if config.source.url:
        refuse_password(config.source.url)
    url = _parse(_url(config))
    names = declared_columns(config)
    stage = "reached"
    try:
        engine = sa.create_engine(url, poolclass=sa.pool.NullPool, hide_parameters=True)
        # `no_parameters`: a % or : of the user's query is the user's, not a placeholder.
        with engine.connect().execution_options(no_parameters=True) as connection:
            stage = "asked"
            empty = connection.exec_driver_sql(wrapped(config.source.query, ["*"]) + " WHERE 1 = 0")
            check_columns(config, empty.keys(), "the query's result")
            stage = "read"
            result = connection.exec_driver_sql(wrapped(config.source.query, quoted_columns(engine, names)))
            rows = sorted((tuple(map(text_of, row)) for row in result), key=_sort_key)
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
        raise _database_error(error, url, stage) from None
    require_rows(len(rows), "the query's result")
    columns = {name: column_of(row[index] for row in rows) for index, name in enumerate(names)}
    return Table(columns, np.arange(len(rows)), lambda record: f"row {record + 1} in sorted order")


def wrapped(query: str, columns: Sequence[str]) -> str:
    """The user's query as a subquery; the line end keeps a closing comment of theirs from eating the bracket.

    >>> wrapped("SELECT * FROM icu;", ["*"])
    'SELECT * FROM (SELECT * FROM icu\\n) fedkit_source'
    """
    return f"SELECT {', '.join(columns)} FROM ({query.strip().rstrip(';').rstrip()}\n) {_ALIAS}"  # noqa: S608


def quoted_columns(engine: Engine, names: Sequence[str]) -> list[str]:
    """Declared columns in the database's own quotes, with the subquery's name in front.

    Without that name SQLite would take a quoted column that does not exist for a text.
    """
    quoting = engine.dialect.identifier_preparer
    # A % is doubled for drivers with that placeholder; here none is replaced.
    return [f"{_ALIAS}.{quoting.quote_identifier(name).replace('%%', '%')}" for name in names]


def _sort_key(row: tuple[str | None, ...]) -> tuple[tuple[bool, str], ...]:
    return tuple((cell is not None, cell or "") for cell in row)


def _url(config: DataConfig) -> str:
    # Sensitive: may hold a password; only `_parse` sees it.
    source = config.source
    given = [key for key in ("url", "url_env", "url_file") if getattr(source, key)]
    if len(given) != 1:
        raise DataError(
            f"source.kind is sql with {' and '.join(given) or 'no URL'}; exactly one is needed",
            code="FK208",
            remedy="set source.url_env to the name of an environment variable that holds the URL",
        )
    if source.url:
        return source.url
    if source.url_env:
        value = os.environ.get(source.url_env, "").strip()
        if not value:
            raise DataError(
                f"the environment variable {source.url_env} is not set", code="FK208", remedy="export it with the URL"
            )
        return value
    path = Path(source.url_file or "")
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeError):
        raise DataError(
            f"source.url_file {path} cannot be read", code="FK208", remedy="write the database's URL into it"
        ) from None


def _parse(text: str) -> URL:
    from sqlalchemy.engine import make_url

    try:
        url = make_url(text)
    except Exception:
        # SQLAlchemy's message may hold the URL.
        raise DataError(
            "the database's URL cannot be parsed",
            code="FK208",
            remedy="write it as dialect+driver://user:password@host:port/database",
        ) from None
    if url.drivername.split("+")[0] == "sqlite" and url.database and url.database != ":memory:":
        # SQLite would make an empty database of a misspelt name.
        path = url.database.removeprefix("file:").partition("?")[0]
        if not Path(path).is_file():
            raise DataError(f"there is no SQLite file {path}", code="FK201", remedy="mend the URL's path")
    return url


def refuse_password(url: str) -> None:
    """Refuse ``source.url`` with a password in it: that key is printed in configs and manifests.

    Raises:
        DataError: FK208, without the URL.
    """
    parsed = _parse(url)
    if parsed.username is not None or parsed.password is not None or parsed.query:
        raise DataError(
            "source.url holds a user, a password or options, and configs and manifests are printed",
            code="FK208",
            remedy="set source.url_env or source.url_file instead",
        )


def _database_error(error: Exception, url: URL, stage: str) -> DataError:
    """Our error for a driver's: its first line, no secrets; while rows are read only its kind, for it quotes cells."""
    kind = type(getattr(error, "orig", None) or error).__name__
    told = ""
    if stage != "read":
        told = ": " + (str(getattr(error, "orig", None) or error).splitlines() or [""])[0]
        for secret in sorted(_secrets(url), key=len, reverse=True):
            told = told.replace(secret, _HIDDEN)
    what = {
        "reached": "the database cannot be reached",
        "asked": "the database refuses the query",
        "read": "the database stopped while it was read",
    }
    return DataError(
        f"{what[stage]} ({kind}{told})",
        code="FK208",
        remedy="check the URL, the driver's settings and source.query",
    )


def _secrets(url: URL) -> set[str]:
    """Every spelling of what must not be shown."""
    parts: list[Any] = [url.password, url.username]
    for value in url.query.values():
        parts += [value] if isinstance(value, str) else list(value)
    plain = {str(part) for part in parts if part}
    whole = {url.render_as_string(hide_password=False), url.render_as_string(hide_password=True)}
    return whole | plain | {quote(part, safe="") for part in plain} | {quote_plus(part) for part in plain}
