"""What `fedkit data check` tells of a table before anything is trained."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedkit.config.experiment import DataConfig
from fedkit.data.declared import declared_columns, missing_texts, task_of
from fedkit.data.encode import MISSING, UNDECLARED, class_codes, level_codes, read_numbers
from fedkit.data.load import dataset_of
from fedkit.data.source import read_table
from fedkit.data.table import Column, Table, canonical, name_text
from fedkit.data.units import without_id
from fedkit.errors import DataError
from fedkit.types import Dataset

_SHOWN_LEVELS = 5


@dataclass(frozen=True)
class ColumnReport:
    """One declared column.

    Attributes:
        role: site, unit, target, numeric, categorical or subgroup.
        missing: cells that are missing as declared.
        missing_by_site: the same by site, where the table has sites.
        not_numbers: cells of a numeric column that are no finite number; a run refuses them.
        out_of_range: numbers outside the declared range; a run clips them.
        undeclared: cells outside the declared levels or classes.
        undeclared_levels: the most frequent of those, with their counts: seen by whoever may read the table.
    """

    name: str
    role: str
    missing: int
    missing_by_site: Mapping[str, int]
    not_numbers: int = 0
    out_of_range: int = 0
    undeclared: int = 0
    undeclared_levels: Mapping[str, int] | None = None


@dataclass(frozen=True)
class SiteReport:
    """One site as a run would see it: units held for training and testing, and rows by class."""

    name: str
    rows: int
    units: int
    train: int
    test: int
    records_declared: int | None
    classes: Mapping[str, int]


@dataclass(frozen=True)
class TableReport:
    """A table against its declaration.

    Attributes:
        repeated: without ``unit_column`` rows equal to an earlier one, with it rows beyond the first of their unit.
        problems: why a run would refuse the table; empty if it would not.
        warnings: what a run would warn of.
    """

    name: str
    rows: int
    repeated: int
    columns: tuple[ColumnReport, ...]
    sites: tuple[SiteReport, ...]
    problems: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether a run would accept the table."""
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {**asdict(self), "ok": self.ok}


def check_table(config: DataConfig) -> TableReport:
    """Read the declared columns and count what does not fit.

    Returns:
        Counts by column and site; what a run would refuse is listed in ``problems``.

    Raises:
        DataError: only where the table cannot be read at all (missing, empty, another encoding, no such column).
    """
    table = read_table(config)
    problems: list[str] = []
    dataset: Dataset | None = None
    try:
        dataset = dataset_of(config, table)
    except DataError as error:
        problems.append(str(error))
    names, index = _sites_of_rows(config, table)
    columns = tuple(_column(config, table, column, names, index) for column in declared_columns(config))
    return TableReport(
        name=config.name,
        rows=len(table),
        repeated=_repeated(config, table),
        columns=columns,
        sites=_sites(config, dataset) if dataset is not None else (),
        problems=tuple(problems),
        warnings=(*dataset.warnings, *_more_than_declared(dataset)) if dataset is not None else (),
    )


def _sites_of_rows(config: DataConfig, table: Table) -> tuple[list[str], NDArray[Any]]:
    if config.site_column is None:
        return [], np.zeros(len(table), dtype=np.int64)
    names = table.columns[config.site_column].map(name_text, object).astype(str)
    known, index = np.unique(names, return_inverse=True)
    return [str(name) for name in known], index.reshape(-1)


def _role(config: DataConfig, name: str) -> str:
    roles = {config.target.column: "target", config.site_column: "site", config.unit_column: "unit"}
    if name in config.features.numeric:
        return "numeric"
    if name in config.features.categorical:
        return "categorical"
    return roles.get(name, "subgroup")


def _column(config: DataConfig, table: Table, name: str, sites: list[str], index: NDArray[Any]) -> ColumnReport:
    column, role = table.columns[name], _role(config, name)
    bounds = config.features.numeric.get(name)
    if role == "target" and config.target.kind == "regression":
        bounds = config.target.range
    not_numbers = out_of_range = 0
    undeclared = np.zeros(len(table), dtype=np.bool_)
    if bounds is not None:
        values, bad = read_numbers(config, column, name)
        missing = np.isnan(values)
        not_numbers = int(bad.sum())
        out_of_range = int(((values < bounds[0]) | (values > bounds[1]))[~bad].sum())
    elif role == "categorical" or role == "target":
        codes = level_codes(config, column, name) if role == "categorical" else _target_codes(config, column)
        missing, undeclared = codes == MISSING, codes == UNDECLARED
    elif role == "unit":
        missing = without_id(config, table)
    else:
        absent = missing_texts(config, name)
        missing = column.map(lambda text: canonical(text) in absent, np.bool_)
    by_site = {site: int(missing[index == position].sum()) for position, site in enumerate(sites)}
    return ColumnReport(
        name=name,
        role=role,
        missing=int(missing.sum()),
        missing_by_site=by_site,
        not_numbers=not_numbers,
        out_of_range=out_of_range,
        undeclared=int(undeclared.sum()),
        undeclared_levels=_levels(column, undeclared) if undeclared.any() else None,
    )


def _target_codes(config: DataConfig, column: Column) -> NDArray[Any]:
    try:
        return class_codes(config, column)
    except DataError:
        # The declaration names no classes; `problems` says so.
        return np.zeros(len(column.codes), dtype=np.int64)


def _levels(column: Column, marked: NDArray[np.bool_]) -> dict[str, int]:
    counts = Counter(canonical(column.values[code]) for code in column.codes[marked])
    # Ties by name, so that the report is the same every time.
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:_SHOWN_LEVELS])


def _repeated(config: DataConfig, table: Table) -> int:
    if config.unit_column is not None:
        return len(table) - len(set(table.columns[config.unit_column].map(name_text, object).tolist()))
    cells = [table.columns[name].map(canonical, object).tolist() for name in declared_columns(config)]
    return len(table) - len(set(zip(*cells, strict=True)))


def _more_than_declared(dataset: Dataset) -> Iterator[str]:
    for site in dataset.sites:
        count = site.train.num_units + site.test.num_units
        if site.records_declared and count > site.records:
            yield (
                f"{site.name} has {count} units and declares {site.records}; a private run refuses that until "
                f"data.records.{site.name} is at least {count}"
            )


def _sites(config: DataConfig, dataset: Dataset) -> tuple[SiteReport, ...]:
    task = task_of(config)
    reports = []
    for site in dataset.sites:
        y = np.concatenate([site.train.y, site.test.y])
        classes = {label: int((y == code).sum()) for code, label in enumerate(task.classes)}
        reports.append(
            SiteReport(
                name=site.name,
                rows=len(y),
                units=site.train.num_units + site.test.num_units,
                train=site.train.num_units,
                test=site.test.num_units,
                records_declared=site.records if site.records_declared else None,
                classes=classes,
            )
        )
    return tuple(reports)
