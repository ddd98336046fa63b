"""A site's rows as statistics count them: every row with a unit, whatever its values."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from fedkit.config.experiment import DataConfig
from fedkit.data.declared import task_of
from fedkit.data.encode import class_codes, read_numbers
from fedkit.data.partition import partition_units, site_names
from fedkit.data.readable import empty_table
from fedkit.data.sites import rows_of_site
from fedkit.data.source import read_table
from fedkit.data.table import Table, name_text
from fedkit.data.units import units_of, without_id
from fedkit.errors import DataError, PrivacyError

# The site's own settings: its file, its header, its columns. They are the same whatever its records.
_SETTINGS = ("FK201", "FK204", "FK205", "FK206")
_NO_ROWS = "FK202"


def read_rows(config: DataConfig, read: Callable[[DataConfig], Table] | None = None) -> Table:
    """Read the declared columns; a table without a row is as good as any.

    Args:
        read: reads the table in place of ``read_table``, such as a site's own way, which leaves out whoever does not
            consent.

    Raises:
        DataError: a source that is not there or lacks a column (FK201, FK204, FK205, FK206).
        PrivacyError: FK376, whatever else is wrong, in one sentence that says nothing of the records.
    """
    try:
        return (read or read_table)(config)
    except DataError as error:
        if error.code in _SETTINGS:
            raise
        if error.code == _NO_ROWS:
            return empty_table(config)
        raise unusable() from None


def declared_sites(config: DataConfig) -> tuple[str, ...] | None:
    """The sites' names as the declaration gives them; None where only the table's rows do."""
    if config.partition is not None:
        return site_names(config.partition)
    return tuple(name_text(name) for name in config.records) or None


def found_sites(config: DataConfig, table: Table) -> tuple[str, ...]:
    """The sites' names in a simulation's table, sorted; rows without one belong to nobody.

    Raises:
        PrivacyError: FK376, no row names a site.
    """
    if config.site_column is None:
        raise unusable()
    column = table.columns[config.site_column]
    names = {name_text(column.values[code]) for code in np.unique(column.codes)} - {""}
    if not names:
        raise unusable()
    return tuple(sorted(names))


def rows_by_site(config: DataConfig, table: Table, sites: Sequence[str]) -> dict[str, Table]:
    """The rows of some sites. A table without sites belongs to each as a whole.

    Rows without the id of a unit are nobody's, and are left out. Rows of other sites are not looked at.

    Raises:
        PrivacyError: FK376, a partition that the records do not admit.

    Guarantee: adding or removing a unit changes no other unit's site.
    """
    owned = table.take(np.flatnonzero(~without_id(config, table)))
    if config.partition is None:
        return {site: rows_of_site(config, owned, site) for site in sites}
    names = site_names(config.partition)
    parts = _parts(config, owned)
    return {site: owned.take(np.flatnonzero(parts == names.index(site))) for site in sites}


def unusable() -> PrivacyError:
    """The one refusal for whatever depends on records."""
    return PrivacyError(
        "the table cannot be used for statistics", code="FK376", remedy="`fedkit data check`, at the site, says why"
    )


def _parts(config: DataConfig, table: Table) -> NDArray[np.int64]:
    """Each row's site in a partition; a row without a usable label counts as one of the first class."""
    task, units = task_of(config), units_of(config, table)
    column = table.columns[config.target.column]
    if task.range is not None:
        low, high = task.range
        values, bad = read_numbers(config, column, config.target.column)
        scaled = (np.clip(values, low, high) - low) / (high - low)
        labels = np.where(np.isnan(values) | bad, 0.0, scaled).astype(np.float32)
    else:
        labels = np.maximum(class_codes(config, column), 0)
    try:
        return partition_units(config, task, units, labels)[units.of_row]
    except DataError:
        raise unusable() from None
