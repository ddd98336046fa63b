"""CSV exactly as declared: one delimiter, one encoding, one number of cells a row; nothing is guessed."""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from fedkit.config.experiment import DataConfig
from fedkit.data.consent import ConsentFilter, columns_asked, columns_read
from fedkit.data.consent_sql import Bound
from fedkit.data.declared import check_columns, declared_columns, require_rows
from fedkit.data.source import connect, literal_path, of_rows, texts
from fedkit.data.table import Table, column_of
from fedkit.errors import DataError

# Python's name to DuckDB's: only those that DuckDB reads without an extension from the network.
ENCODINGS = {"utf-8": "utf-8", "utf-8-sig": "utf-8", "latin-1": "latin-1", "utf-16": "utf-16"}
_ALIASES = {"utf8": "utf-8", "utf_8": "utf-8", "iso-8859-1": "latin-1", "latin1": "latin-1", "utf16": "utf-16"}
_DELIMITERS = (",", ";", "\t", "|")
_LONGEST_HEADER = 1 << 20


def read_csv(config: DataConfig, path: Path, where: ConsentFilter | None = None) -> Table:
    """Read the declared columns of a CSV file with a header line.

    Returns:
        The declared columns as texts; an empty cell is None.

    Raises:
        DataError: FK202 empty, FK203 encoding, FK204 delimiter, FK205 and FK206 columns, FK207 malformed rows; the
            message holds the line's number and never its content. Of a register also FK208.
    """
    import duckdb

    from fedkit.data.register import file_condition

    encoding = csv_encoding(config)
    header = read_header(config, path, encoding)
    check_columns(config, header, path.name, columns_asked(config, where))
    names, bound = columns_read(config, where), Bound()
    selected = ", ".join(csv_column(header, name) for name in names)
    query = f"SELECT {selected} FROM {csv_origin(config, path, encoding, header, bound)}"  # noqa: S608
    if where is not None:
        query += f" WHERE {file_condition(config, where, partial(csv_column, header), bound)}"
    try:
        with connect() as connection:
            cells = connection.execute(*bound.written(query, "qmark")).fetchnumpy()
    except duckdb.Error as error:
        raise malformed(str(error), path.name, encoding) from None
    columns = {name: column_of(texts(cells[csv_column(header, name)])) for name in names}
    rows = len(next(iter(columns.values())).codes)
    require_rows(rows, path.name)
    if where is not None:
        return Table(columns, np.arange(rows), lambda record: f"row {record + 1}{of_rows(where)}")
    return Table(columns, np.arange(rows), lambda record: f"line {line_of(path, record, len(header))}")


def csv_origin(config: DataConfig, path: Path, encoding: str, header: Sequence[str], bound: Bound) -> str:
    """A CSV file as it stands behind FROM: columns are texts, and named by position, for DuckDB's names know no upper
    and lower case.
    """
    types = ", ".join(f"'c{index}': 'VARCHAR'" for index in range(len(header)))
    return (
        f"read_csv({bound(literal_path(path))}, auto_detect=false, header=true, delim={bound(config.source.delimiter)},"
        f" quote='\"', escape='\"', encoding={bound(ENCODINGS[encoding])}, columns={{{types}}}, strict_mode=true,"
        " null_padding=false, ignore_errors=false)"
    )


def csv_column(header: Sequence[str], name: str) -> str:
    """A column of a CSV file as a query writes it."""
    return f"c{list(header).index(name)}"


def csv_encoding(config: DataConfig) -> str:
    """The declared encoding, by the name in `ENCODINGS`.

    Raises:
        DataError: FK203, FK204.
    """
    declared = config.source.encoding.lower().replace("_", "-")
    encoding = _ALIASES.get(declared, declared)
    if encoding not in ENCODINGS:
        raise DataError(
            f"source.encoding {config.source.encoding!r} is not one of {', '.join(ENCODINGS)}",
            code="FK203",
            remedy="convert the file to utf-8",
        )
    if len(config.source.delimiter) != 1:
        raise DataError(f"source.delimiter {config.source.delimiter!r} is not one character", code="FK204")
    return encoding


def read_header(config: DataConfig, path: Path, encoding: str) -> list[str]:
    """The column names on the first line; no other line is read.

    Raises:
        DataError: FK202, FK203 or FK204 with the key to set.
    """
    try:
        with path.open("rb") as file:
            start = file.read(4)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}", code="FK201") from None
    if path.stat().st_size <= len(start) and not start.strip(b"\xef\xbb\xbf\xff\xfe\r\n \t"):
        raise DataError(f"{path.name} is empty", code="FK202", remedy="give a table with a header line and rows")
    if start.startswith(b"\xef\xbb\xbf") and encoding != "utf-8-sig":
        raise DataError(
            f"{path.name} begins with a byte-order mark and source.encoding is {encoding}",
            code="FK203",
            remedy="set source.encoding: utf-8-sig",
        )
    if start.startswith((b"\xff\xfe", b"\xfe\xff")) and encoding != "utf-16":
        raise DataError(
            f"{path.name} is UTF-16 text and source.encoding is {encoding}",
            code="FK203",
            remedy="set source.encoding: utf-16",
        )
    try:
        reader = csv.reader([_first_line(path, encoding)], delimiter=config.source.delimiter)
        header = [name.strip() for name in next(reader, [])]
    except UnicodeError:
        raise _not_decodable(path.name, encoding, "line 1") from None
    except csv.Error:
        raise DataError(f"the header of {path.name} is malformed", code="FK207") from None
    if not any(header):
        raise DataError(f"{path.name} has no header line", code="FK202", remedy="write the column names on line 1")
    _check_delimiter(config, header, path.name)
    return header


def _first_line(path: Path, encoding: str) -> str:
    """The first line's text; what follows it is not decoded, for it holds undeclared columns."""
    width = 2 if encoding == "utf-16" else 1
    decoder = codecs.getincrementaldecoder(encoding)()
    line = ""
    with path.open("rb") as file:
        while len(line) < _LONGEST_HEADER and (code := file.read(width)):
            line += decoder.decode(code)
            if line.endswith(("\r", "\n")):
                break
    return line.rstrip("\r\n")


def _check_delimiter(config: DataConfig, header: list[str], name: str) -> None:
    declared = set(declared_columns(config))
    if len(header) > 1 or declared <= set(header):
        return
    for other in _DELIMITERS:
        parts = {part.strip().strip('"') for part in header[0].split(other)}
        if other != config.source.delimiter and len(parts) > 1:
            shown = "\\t" if other == "\t" else other
            raise DataError(
                f"the header of {name} is parted by {shown!r} and source.delimiter is {config.source.delimiter!r}",
                code="FK204",
                remedy=f'set source.delimiter: "{shown}"',
            )


def _not_decodable(name: str, encoding: str, where: str) -> DataError:
    other = "utf-8" if encoding == "latin-1" else "latin-1"
    return DataError(
        f"{name} is not {encoding} text ({where})", code="FK203", remedy=f"set source.encoding: {other} if it is that"
    )


def malformed(message: str, name: str, encoding: str) -> DataError:
    """Our error for DuckDB's message, of which only numbers are kept: it quotes whole records."""
    line = re.search(r"CSV Error on Line: (\d+)", message)
    where = f"line {line[1]}" if line else "its place is unknown"
    if re.search(r"invalid unicode|not utf-8 encoded|byte sequence mismatch|not utf-16", message, re.IGNORECASE):
        return _not_decodable(name, encoding, where)
    cells = re.search(r"Expected Number of Columns: (\d+) Found: (\d+)", message)
    if cells:
        return DataError(
            f"{name} has {cells[2]} cells in {where}, expected {cells[1]}",
            code="FK207",
            remedy="repair that line, or set source.delimiter",
        )
    if "unterminated quote" in message or "quote" in message.split("Possible", maxsplit=1)[0].lower():
        return DataError(f"{name} has a quote that is not closed in {where}", code="FK207", remedy="repair that line")
    return DataError(f"{name} cannot be read as CSV ({where})", code="FK207", remedy="repair that line")


def line_of(path: Path, record: int, columns: int) -> int:
    """Line on which a record (from 0) begins: blank lines are no records, quoted line ends part none.

    Args:
        columns: cells a record; a blank line of a one-column file is a record.
    """
    open_quote, current, number = False, -2, 0
    with path.open("rb") as file:
        for line in file:
            number += 1
            if not open_quote:
                if columns > 1 and not line.strip(b"\r\n\x00"):
                    continue
                current += 1
                if current == record:
                    break
            open_quote ^= line.count(b'"') % 2 == 1
    return number
