"""Privacy units: which rows belong to one person, under an id that no other person's rows can change."""

from __future__ import annotations

import hashlib
import hmac
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedkit.config.experiment import DataConfig
from fedkit.data.declared import declared_columns, missing_texts
from fedkit.data.table import Table, canonical, name_text
from fedkit.errors import DataError
from fedkit.types import Int64

_SEPARATOR = "\x1f"
# Texts may hold the separator too: written in two characters, of which the first is written so itself.
_ESCAPED = str.maketrans({"\x1b": "\x1b0", _SEPARATOR: "\x1b1"})
# What databases, NumPy and pandas write for "no value"; as an id it would make strangers one person.
NO_ID = frozenset({"", "nan", "none", "null", "nat", "<na>"})


@dataclass(frozen=True)
class Units:
    """The privacy units of some rows.

    Attributes:
        ids: one text a unit; the only thing of a unit that splits and partitions may look at, with its label.
        of_row: int64 [n], index into ``ids`` of each row.
    """

    ids: tuple[str, ...]
    of_row: Int64

    def __len__(self) -> int:
        return len(self.ids)

    def first_rows(self) -> Int64:
        """int64 [units], the first row of each unit."""
        first = np.full(len(self.ids), len(self.of_row), dtype=np.int64)
        np.minimum.at(first, self.of_row, np.arange(len(self.of_row)))
        return first

    def largest(self, values: NDArray[np.integer]) -> Int64:
        """int64 [units], each unit's largest value over its rows (no order of rows can change it)."""
        result = np.full(len(self.ids), -1, dtype=np.int64)
        np.maximum.at(result, self.of_row, values)
        return result

    def take(self, rows: Int64) -> Units:
        """The units that own the given rows, in order of appearance."""
        kept, of_row = in_order_of_appearance(self.of_row[rows])
        return Units(tuple(self.ids[index] for index in kept), of_row)


def in_order_of_appearance(values: Int64) -> tuple[Int64, Int64]:
    """Distinct values in the order in which they first appear, and each row's index into them.

    >>> in_order_of_appearance(np.array([7, 3, 7]))[1].tolist()
    [0, 1, 0]
    """
    numbers = np.arange(len(values), dtype=np.int64)
    if np.array_equal(values, numbers):  # rows that are units of their own
        return numbers, numbers.copy()
    distinct, first, inverse = np.unique(values, return_index=True, return_inverse=True)
    order = np.argsort(first, kind="stable")
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    return distinct[order].astype(np.int64), rank[inverse.reshape(-1)].astype(np.int64)


def units_of(config: DataConfig, table: Table) -> Units:
    """The units of a table.

    With ``unit_column``, rows of one id are one unit. Without, a row is a unit; its id is the text of its declared
    values and its number among equal rows of its site.

    Raises:
        DataError: FK214 for rows without an id.

    Guarantee: adding or removing a unit changes no other unit's id, up to exchanging units whose declared values
    are all equal; the site's name is no part of an id, so that a hospital splits its own table as the simulation did.
    """
    if config.unit_column is not None:
        absent = without_id(config, table)
        if absent.any():
            raise DataError(
                f"unit_column {config.unit_column} is empty or missing in {int(absent.sum())} rows (first in "
                f"{table.where(absent)})",
                code="FK214",
                remedy="give each row the id of its unit, or leave unit_column out (a row is then a unit)",
            )
        return rows_of_names(table.columns[config.unit_column].map(name_text, object).tolist())
    if config.site_column is None:
        scopes = [""] * len(table)
    else:
        scopes = table.columns[config.site_column].map(name_text, object).tolist()
    return rows_as_units(row_texts(config, table), scopes)


def row_texts(config: DataConfig, table: Table) -> Iterator[str]:
    """Each row's declared values as one text, the site's name apart.

    Guarantee: two rows of a table have one text exactly where each of their declared values is the same.
    """
    columns = [name for name in sorted(declared_columns(config)) if name != config.site_column]
    cells = [table.columns[name].map(_escaped, object).tolist() for name in columns]
    return (_SEPARATOR.join(row) for row in zip(*cells, strict=True))


def _escaped(value: str | None) -> str:
    return canonical(value).translate(_ESCAPED)


def without_id(config: DataConfig, table: Table) -> NDArray[np.bool_]:
    """Rows whose ``unit_column`` is missing, as declared or as any source writes it: bool [n]."""
    if config.unit_column is None:
        return np.zeros(len(table), dtype=np.bool_)
    absent = missing_texts(config, config.unit_column)
    return table.columns[config.unit_column].map(lambda text: is_no_id(text) or canonical(text) in absent, np.bool_)


def is_no_id(value: Any) -> bool:
    """Whether a value means that there is no id.

    >>> [is_no_id(value) for value in (None, float("nan"), " NULL ", 0, "007")]
    [True, True, True, False, False]
    """
    return name_text(value).lower() in NO_ID


def shared_units(sites: Iterable[Iterable[Any]]) -> tuple[str, ...]:
    """Warn of ids that occur at several sites: a budget is kept by each site, and a person may be at many.

    Args:
        sites: each site's ids, in any spelling and any number of times.

    Returns:
        One warning, or none.

    >>> shared_units([["7", "8"], [7.0]])[0][:50]
    '1 patient has records at more than one site; epsil'
    """
    counts = Counter(unit for ids in sites for unit in set(map(canonical, ids)))
    shared = sum(count > 1 for count in counts.values())
    if not shared:
        return ()
    who = "1 patient has" if shared == 1 else f"{shared} patients have"
    return (
        f"{who} records at more than one site; epsilon holds at each site, and what such a patient spends is the sum "
        "over their sites",
    )


def rows_as_units(contents: Iterable[str], scopes: Sequence[str]) -> Units:
    """Each row a unit: its content and its number among the rows of equal content within its scope."""
    seen: dict[tuple[str, str], int] = {}
    ids = []
    for content, scope in zip(contents, scopes, strict=True):
        occurrence = seen.get((scope, content), 0)
        seen[scope, content] = occurrence + 1
        ids.append(f"{content}{_SEPARATOR}{occurrence}")
    return Units(tuple(ids), np.arange(len(ids), dtype=np.int64))


def rows_of_names(names: Sequence[str]) -> Units:
    """Rows of one name are one unit, in order of appearance; names that differ in any character are two.

    >>> rows_of_names(["a", "b", "a\\0"]).of_row.tolist()
    [0, 1, 2]
    """
    index: dict[str, int] = {}
    of_row = [index.setdefault(name, len(index)) for name in names]
    return Units(tuple(index), np.array(of_row, dtype=np.int64))


def uniforms(ids: Iterable[str], purpose: str, seed: int) -> NDArray[np.float64]:
    """A number in [0, 1) for each id: HMAC-SHA256 of the id under a key from purpose and seed; float64 [n].

    Args:
        purpose: keeps the split and the partition of one seed independent.

    >>> uniforms(["a"], "split", 1) == uniforms(["b", "a"], "split", 1)[1]
    array([ True])
    """
    key = hashlib.sha256(f"fedkit {purpose} {seed}".encode()).digest()
    digests = (hmac.digest(key, text.encode("utf-8", "surrogatepass"), "sha256") for text in ids)
    # 53 bits: all that a float64 in [0, 1) can tell apart, and never rounded up to 1.
    return np.array([(int.from_bytes(digest[:8], "big") >> 11) / 2**53 for digest in digests], dtype=np.float64)
