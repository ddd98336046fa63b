"""The cells of each declared column's histogram: they follow from the declaration alone."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from fedkit.config.experiment import DataConfig
from fedkit.config.wording import suggestion
from fedkit.data.declared import is_usable_range, task_of
from fedkit.data.encode import MISSING, UNDECLARED, class_codes, level_codes, read_numbers
from fedkit.data.table import Table, text_of
from fedkit.errors import PrivacyError
from fedkit.privacy.column_histogram import CodedColumn
from fedkit.types import Int64

MIN_BINS, MAX_BINS = 2, 1000
_OTHER, _MISSING = "other", "missing"


@dataclass(frozen=True)
class ColumnCells:
    """One declared column as cells.

    Attributes:
        role: target, numeric, categorical or subgroup.
        edges: the bins' bounds, ascending, one more than there are bins; empty for categories. A bin holds its lower
            bound, the last bin both.
        labels: of all cells. Numbers: bins, between ``below`` and ``above`` the range where those are told apart, then
            ``missing``, which also counts what is no finite number. Categories: levels, then ``other`` (outside the
            declared levels; a binary target has none), then ``missing``.
    """

    name: str
    role: str
    edges: tuple[float, ...]
    labels: tuple[str, ...]

    @property
    def cells(self) -> int:
        """Length of the column's histogram."""
        return len(self.labels)

    @property
    def bins(self) -> int:
        """How many bins a number has."""
        return max(0, len(self.edges) - 1)

    @property
    def outside(self) -> bool:
        """Whether numbers outside the range have cells of their own; else they count in the bins at its ends."""
        return self.bins > 0 and self.cells > self.bins + 1


def statistics_columns(config: DataConfig) -> tuple[str, ...]:
    """The declared columns that statistics may be asked of, each once: target, features, subgroups."""
    features = (*config.features.numeric, *config.features.categorical)
    return tuple(dict.fromkeys((config.target.column, *features, *config.subgroups)))


def unknown_columns(config: DataConfig, names: Sequence[str]) -> PrivacyError | None:
    """The refusal of columns that are not declared (FK370), with the nearest declared one; None if all are."""
    known = statistics_columns(config)
    told = [f"{name!r} is no declared column ({suggestion(name, known)})" for name in names if name not in known]
    if not told:
        return None
    return PrivacyError("; ".join(told), code="FK370", remedy="name columns that data declares, parted by commas")


def declared_cells(
    config: DataConfig, names: Sequence[str], bins: int, *, outside: bool = False
) -> tuple[ColumnCells, ...]:
    """The cells of the named columns.

    Args:
        bins: equal bins of a number's declared range.
        outside: give numbers outside that range cells of their own.

    Returns:
        One a name, in the order of the names; the same whatever the records.

    Raises:
        PrivacyError: FK370, a column that is not declared, or none at all; FK371, a number of bins out of range, or
            more than the range of a column can be cut into.

    >>> from fedkit.config.experiment import FeaturesConfig, SourceConfig, TargetConfig
    >>> config = DataConfig("icu", "", SourceConfig("csv"), TargetConfig("died", "binary", (1,)),
    ...     FeaturesConfig({"age": (0, 120)}, {"sex": ("f", "m")}))
    >>> [column.labels for column in declared_cells(config, ["age", "sex"], 2)]
    [('0 to 60', '60 to 120', 'missing'), ('f', 'm', 'other', 'missing')]
    """
    if not MIN_BINS <= bins <= MAX_BINS:
        message = f"bins {bins} is not a whole number from {MIN_BINS} to {MAX_BINS}"
        raise PrivacyError(message, code="FK371", remedy="give --bins 10, for instance")
    if (unknown := unknown_columns(config, names)) is not None:
        raise unknown
    if not names:
        raise PrivacyError("no column is named", code="FK370", remedy="leave --columns out to ask for all of them")
    return tuple(_cells(config, name, bins, outside) for name in dict.fromkeys(names))


def coded_column(config: DataConfig, cells: ColumnCells, table: Table) -> CodedColumn:
    """The cell of each row of a table: int64 [n]. Never refuses a value: what cannot be used counts as missing.

    Guarantee: a row's cell depends on that row and the declaration alone.
    """
    column, name = table.columns[cells.name], cells.name
    if cells.edges:
        values, unusable = read_numbers(config, column, name)
        absent = np.isnan(values) | unusable
        inner = np.asarray(cells.edges[1:-1])
        known = np.where(absent, 0.0, values)
        bins = np.searchsorted(inner, known, side="right").astype(np.int64)
        if cells.outside:
            beyond = np.where(known > cells.edges[-1], cells.bins + 1, bins + 1)
            bins = np.where(known < cells.edges[0], 0, beyond)
        return CodedColumn(np.where(absent, cells.cells - 1, bins), cells.cells)
    codes = class_codes(config, column) if cells.role == "target" else _levels_of(config, cells, table)
    places = np.where(codes == MISSING, cells.cells - 1, np.where(codes == UNDECLARED, cells.cells - 2, codes))
    return CodedColumn(places.astype(np.int64), cells.cells)


def _levels_of(config: DataConfig, cells: ColumnCells, table: Table) -> Int64:
    if cells.role == "subgroup":
        levels = {**config.features.categorical, cells.name: config.subgroups[cells.name]}
        config = replace(config, features=replace(config.features, categorical=levels))
    return level_codes(config, table.columns[cells.name], cells.name)


def _cells(config: DataConfig, name: str, bins: int, outside: bool) -> ColumnCells:
    task = task_of(config)
    if name == config.target.column:
        if task.range is not None:
            return _number(name, "target", task.range, bins, outside)
        other = () if task.kind == "binary" else (_OTHER,)
        return ColumnCells(name, "target", (), (*task.classes, *other, _MISSING))
    if name in config.features.numeric:
        return _number(name, "numeric", config.features.numeric[name], bins, outside)
    role = "categorical" if name in config.features.categorical else "subgroup"
    levels = config.features.categorical.get(name) or config.subgroups[name]
    return ColumnCells(name, role, (), (*(str(text_of(level)) for level in levels), _OTHER, _MISSING))


def _number(name: str, role: str, bounds: tuple[float, float], bins: int, outside: bool) -> ColumnCells:
    low, high = (float(bound) for bound in bounds)
    if not is_usable_range(low, high):
        message = f"the range of {name} is [{low:g}, {high:g}], which cannot be cut into bins"
        raise PrivacyError(message, code="FK371", remedy="declare a range whose low is below its high")
    edges = tuple(float(edge) for edge in np.linspace(low, high, bins + 1))
    if any(b <= a for a, b in itertools.pairwise(edges)):
        message = f"the range of {name}, [{low:g}, {high:g}], is too narrow for {bins} bins"
        raise PrivacyError(message, code="FK371", remedy="give fewer --bins")
    labels = tuple(f"{a:.6g} to {b:.6g}" for a, b in itertools.pairwise(edges))
    if outside:
        labels = (f"below {low:.6g}", *labels, f"above {high:.6g}")
    return ColumnCells(name, role, edges, (*labels, _MISSING))
