"""Texts to numbers by declared constants: each row's encoding follows from that row and the declaration alone."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fedkit.config.experiment import DataConfig
from fedkit.data.declared import feature_names, has_indicators, is_usable_range, missing_texts
from fedkit.data.table import Column, Table, canonical, number, text_of
from fedkit.errors import DataError
from fedkit.types import Float32, Int64, Task

MISSING, UNDECLARED = -1, -2
"""Codes of a category's cell that is no declared level."""

Float64 = NDArray[np.float64]


@dataclass(frozen=True)
class Features:
    """Encoded features of some rows.

    Attributes:
        x: float32 [n, d] in the order of ``feature_names``; z-scores are taken later, from these.
        missing: feature column to bool [n], True where a value is missing or no declared level.
        undeclared: categorical column to the number of cells outside its levels.
    """

    x: Float32
    missing: Mapping[str, NDArray[np.bool_]]
    undeclared: Mapping[str, int]

    def any_missing(self) -> NDArray[np.bool_]:
        """bool [n], True for rows with at least one missing feature."""
        result = np.zeros(len(self.x), dtype=np.bool_)
        for mask in self.missing.values():
            result |= mask
        return result


def encode_features(config: DataConfig, table: Table) -> Features:
    """Encode every declared feature.

    A number is clipped to its range and scaled to [-1, 1]; a missing one becomes the midpoint, 0, and its indicator
    (if declared) 1. With z-scores declared it stays as it is, unclipped. A category is one-hot over its levels; a
    missing or undeclared one is all zeros, which with ``drop_first`` is the first level's code.

    Returns:
        Features of all rows.

    Raises:
        DataError: FK210 for cells of a numeric column that are no finite number, all columns in one message; FK218
            for a range without extent.

    Guarantee: with ``scaling: declared`` a row of ``x`` depends on that row and the declaration alone.
    """
    names = feature_names(config)
    numeric = parse_numbers(config, table, tuple(config.features.numeric))
    x = np.zeros((len(table), len(names)), dtype=np.float32)
    missing: dict[str, NDArray[np.bool_]] = {}
    undeclared: dict[str, int] = {}
    for index, (name, (low, high)) in enumerate(config.features.numeric.items()):
        values = numeric[name]
        missing[name] = np.isnan(values)
        middle, half = _middle(name, low, high)
        if config.scaling == "declared":
            scaled = (np.clip(values, low, high) - middle) / half
            x[:, index] = np.where(missing[name], 0.0, scaled)
        else:
            x[:, index] = np.where(missing[name], middle, values)
        if has_indicators(config):
            x[:, len(config.features.numeric) + index] = missing[name]
    position = len(config.features.numeric) * (2 if has_indicators(config) else 1)
    for name, declared in config.features.categorical.items():
        codes = level_codes(config, table.columns[name], name)
        missing[name] = codes < 0
        undeclared[name] = int((codes == UNDECLARED).sum())
        first = 1 if config.features.drop_first else 0
        for level in range(first, len(declared)):
            x[:, position] = codes == level
            position += 1
    return Features(x, missing, undeclared)


def _middle(name: str, low: float, high: float) -> tuple[float, float]:
    if not (np.isfinite(low) and np.isfinite(high) and low < high):
        raise DataError(
            f"the range of {name} is [{low}, {high}]; its low must be below its high",
            code="FK218",
            remedy=f"set features.numeric.{name}: [low, high]",
        )
    if not is_usable_range(low, high):
        raise DataError(
            f"the range of {name} is [{low}, {high}]; half its width is no normal 32-bit number, or is too small "
            "beside its bounds",
            code="FK218",
            remedy="declare the column in a unit of a common size, such as mg in place of kg",
        )
    return (low + high) / 2, (high - low) / 2


def parse_numbers(config: DataConfig, table: Table, names: tuple[str, ...]) -> dict[str, Float64]:
    """Columns as numbers: float64 [n], NaN where a value is missing.

    Raises:
        DataError: FK210, which names for each column how many cells are no number, NaN or infinite, and the first; with
            them the columns that are missing everywhere.
    """
    numbers: dict[str, Float64] = {}
    problems: list[str] = []
    for name in names:
        values, bad = read_numbers(config, table.columns[name], name)
        numbers[name] = values
        if bad.any():
            count = f"{int(bad.sum())} value" + ("s" if bad.sum() > 1 else "")
            problems.append(
                f"{name} has {count} that {'are' if bad.sum() > 1 else 'is'} no finite number "
                f"(first in {table.where(bad)})"
            )
    if problems:
        problems += [f"{name} is missing in every row" for name, values in numbers.items() if np.isnan(values).all()]
        raise DataError(
            "; ".join(problems),
            code="FK210",
            remedy="if they mean missing, add their text to missing.values, or to missing.codes of that column; "
            "if they are words, declare the column under features.categorical",
        )
    return numbers


def read_numbers(config: DataConfig, column: Column, name: str) -> tuple[Float64, NDArray[np.bool_]]:
    """One column as numbers, without refusing any: float64 [n] with NaN where missing, bool [n] where unusable."""
    absent = missing_texts(config, name)

    def value(text: str | None) -> float:
        if canonical(text) in absent:
            return np.nan
        found = number(text or "")
        # Infinity marks what is refused: text, NaN that nobody declared missing, infinity itself.
        return np.inf if found is None or not np.isfinite(found) else found

    values: Float64 = column.map(value, np.float64)
    return values, np.isinf(values)


def level_codes(config: DataConfig, column: Column, name: str) -> Int64:
    """Index of each cell's level, or MISSING or UNDECLARED: int64 [n]."""
    absent = missing_texts(config, name)
    index = {canonical(level): code for code, level in enumerate(config.features.categorical[name])}

    def code(text: str | None) -> int:
        known = canonical(text)
        # A declared level wins over a text that otherwise means missing ("NA" as a level).
        return index.get(known, MISSING if known in absent else UNDECLARED)

    codes: Int64 = column.map(code, np.int64)
    return codes


def encode_target(config: DataConfig, task: Task, table: Table) -> tuple[NDArray[np.number], NDArray[np.bool_]]:
    """Encode the target.

    Returns:
        y [n]: int64 class index (binary: 1 for a declared positive value, 0 for any other), or float32 clipped to the
        task's range and scaled to [0, 1]; bool [n], True where it is missing and ``y`` means nothing.

    Raises:
        DataError: FK210 a regression target that is no number; FK211 a value outside the declared classes, or a
            declaration without them.
    """
    target, column = config.target, table.columns[config.target.column]
    if task.range is not None:
        low, high = task.range
        _middle(target.column, low, high)
        values = parse_numbers(config, table, (target.column,))[target.column]
        absent = np.isnan(values)
        scaled = np.where(absent, 0.0, (np.clip(values, low, high) - low) / (high - low))
        return scaled.astype(np.float32), absent
    codes = class_codes(config, column)
    outside = codes == UNDECLARED
    if outside.any():
        raise DataError(
            f"target {target.column} has {int(outside.sum())} values outside its {len(target.classes)} classes "
            f"(first in {table.where(outside)})",
            code="FK211",
            remedy="add them to target.classes, or to missing.codes if they mean missing",
        )
    return np.maximum(codes, 0), codes == MISSING


def class_codes(config: DataConfig, column: Column) -> Int64:
    """Class index of each cell of the target, or MISSING or UNDECLARED (multiclass only): int64 [n].

    Raises:
        DataError: FK211 where the declaration names no classes.
    """
    target = config.target
    binary = target.kind == "binary"
    declared = target.positive if binary else target.classes
    if len(declared) < (1 if binary else 2):
        key = "target.positive" if binary else "target.classes"
        raise DataError(f"the {target.kind} target {target.column} has no {key}", code="FK211", remedy=f"set {key}")
    # NaN is nobody's class: a binary target would silently count it as negative.
    absent = missing_texts(config, target.column) | {"nan"}
    index = {canonical(label): 1 if binary else code for code, label in enumerate(declared)}

    def code(text: str | None) -> int:
        known = canonical(text)
        return index.get(known, MISSING if known in absent else 0 if binary else UNDECLARED)

    codes: Int64 = column.map(code, np.int64)
    return codes


def encode_subgroups(config: DataConfig, table: Table) -> dict[str, NDArray[np.str_]]:
    """Labels of each row by subgroup column: str [n].

    Declared values are cut points where the column is a declared number and all of them lie inside its range
    (labels such as ``under 50``, ``50 to under 60``, ``60 and over``), else levels, labelled by themselves. A missing
    value is labelled ``missing``, one that is no declared level ``other``.
    """
    labels: dict[str, NDArray[np.str_]] = {}
    for name, declared in config.subgroups.items():
        if cuts := cut_points(config, name):
            values = parse_numbers(config, table, (name,))[name]
            names = np.array([*_interval_names(declared), "missing"])
            codes = np.where(np.isnan(values), len(names) - 1, np.searchsorted(cuts, values, side="right"))
            labels[name] = names[codes]
            continue
        absent = missing_texts(config, name)
        shown = {canonical(level): str(text_of(level)) for level in declared}
        found = table.columns[name].map(
            lambda text, shown=shown, absent=absent: shown.get(  # type: ignore[misc]
                canonical(text), "missing" if canonical(text) in absent else "other"
            ),
            object,
        )
        labels[name] = found.astype(np.str_)
    return labels


def cut_points(config: DataConfig, name: str) -> tuple[float, ...]:
    """A subgroup's cut points, ascending; empty where its declared values are levels."""
    declared = config.subgroups[name]
    if name not in config.features.numeric or not declared:
        return ()
    low, high = config.features.numeric[name]
    numbers = [value for value in declared if isinstance(value, int | float) and not isinstance(value, bool)]
    if len(numbers) < len(declared) or not all(low < value < high for value in numbers):
        return ()
    return tuple(float(value) for value in sorted(numbers))


def subgroup_names(config: DataConfig, name: str) -> list[str]:
    """A subgroup column's labels in the order of its declaration; none for a column that is not declared."""
    if name not in config.subgroups:
        return []
    cuts = cut_points(config, name)
    return _interval_names(cuts) if cuts else [str(text_of(level)) for level in config.subgroups[name]]


def _interval_names(cuts: tuple[float, ...]) -> list[str]:
    shown = [str(canonical(value)) for value in sorted(cuts)]
    between = [f"{low} to under {high}" for low, high in itertools.pairwise(shown)]
    return [f"under {shown[0]}", *between, f"{shown[-1]} and over"]
