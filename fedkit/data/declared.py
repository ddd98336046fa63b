"""What a declaration says by itself, before a row is read: columns, feature names, task."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Sequence

import numpy as np

from fedkit.config.experiment import DataConfig
from fedkit.data.table import canonical, text_of
from fedkit.errors import DataError
from fedkit.types import Task


def declared_columns(config: DataConfig) -> tuple[str, ...]:
    """Every column that may be read, each once: site, unit, target, features, subgroups.

    Guarantee: sources read these columns and no other.
    """
    names: list[str] = [name for name in (config.site_column, config.unit_column) if name]
    names += [config.target.column, *config.features.numeric, *config.features.categorical, *config.subgroups]
    return tuple(dict.fromkeys(names))


def feature_names(config: DataConfig) -> tuple[str, ...]:
    """Names of the encoded features in their order: numbers, missing indicators, one-hot levels.

    They follow from the declaration alone, so that a model's shape is known before any row is.
    """
    names = list(config.features.numeric)
    if has_indicators(config):
        names += [f"{name}_missing" for name in config.features.numeric]
    for name, levels in config.features.categorical.items():
        names += [f"{name}={text_of(level)}" for level in levels[1 if config.features.drop_first else 0 :]]
    return tuple(names)


def input_shape(config: DataConfig) -> tuple[int, ...]:
    """Shape of one encoded example: as declared, else a row of all features.

    Raises:
        DataError: FK218, a declared shape that the features do not fill.
    """
    names, shape = feature_names(config), config.features.shape
    if shape is None:
        return (len(names),)
    if not shape or min(shape) < 1 or math.prod(shape) != len(names):
        raise DataError(
            f"features.shape {list(shape)} holds {math.prod(shape)} values and the declaration makes {len(names)}",
            code="FK218",
            remedy="declare one numeric column a pixel, row after row, and missing.indicator: false",
        )
    return tuple(shape)


def has_indicators(config: DataConfig) -> bool:
    """Whether each number is followed by a column that is 1 where it is missing."""
    return config.missing.indicator and config.missing.numeric == "midpoint"


def task_of(config: DataConfig) -> Task:
    """The declared task; a binary target's ``classes``, negative first, are names to show and nothing else."""
    target = config.target
    if target.kind == "binary":
        names = tuple(str(text_of(label)) for label in target.classes)
        return Task("binary", names if len(names) == 2 else ("negative", "positive"))
    if target.kind == "multiclass":
        return Task("multiclass", tuple(str(text_of(label)) for label in target.classes))
    if target.range is None:
        raise DataError(
            f"the regression target {target.column} has no range", code="FK211", remedy="set target.range: [low, high]"
        )
    low, high = target.range
    return Task("regression", range=(float(low), float(high)))


def is_usable_range(low: float, high: float) -> bool:
    """Whether a range can be scaled: half its width a normal float32 above 0, its middle apart from both ends.

    >>> is_usable_range(0, 120), is_usable_range(0, 5e-324), is_usable_range(3, 3), is_usable_range(0, float("inf"))
    (True, False, False, False)
    """
    with np.errstate(over="ignore", invalid="ignore"):
        half = np.float32((np.float64(high) - np.float64(low)) / 2)
        middle = (np.float64(low) + np.float64(high)) / 2
    return bool(low < middle < high and np.isfinite(half) and half >= np.finfo(np.float32).tiny)


def missing_texts(config: DataConfig, column: str) -> frozenset[str]:
    """Canonical texts that mean missing in a column; a source's NULL and the empty text always do."""
    codes = config.missing.codes.get(column, ())
    return frozenset({"", *map(canonical, config.missing.values), *map(canonical, codes)})


def check_columns(config: DataConfig, found: Iterable[str], source: str, wanted: Sequence[str] | None = None) -> None:
    """Refuse a table without the declared columns, or with one of them twice.

    Args:
        found: the table's column names, in order.
        source: what the message calls the table.
        wanted: the columns that are needed, where they are not the declared ones.

    Raises:
        DataError: FK205 (with the nearest name) or FK206.
    """
    names, needed = list(found), declared_columns(config) if wanted is None else wanted
    absent = [name for name in needed if name not in names]
    if absent:
        near = {name: difflib.get_close_matches(name, names, 1, 0.6) or _same_letters(name, names) for name in absent}
        hints = [f"{name} (did you mean {near[name][0]}?)" if near[name] else name for name in absent]
        shown = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
        raise DataError(
            f"{source} has no column {', '.join(hints)}; it has {shown}",
            code="FK205",
            remedy="name a column of the table, or take it out of the declaration",
        )
    twice = [name for name in needed if names.count(name) > 1]
    if twice:
        raise DataError(
            f"{source} has the column {', '.join(twice)} more than once", code="FK206", remedy="rename one of them"
        )


def _same_letters(name: str, names: list[str]) -> list[str]:
    return [other for other in names if other.strip().lower() == name.strip().lower()]


def require_rows(rows: int, source: str) -> None:
    """Refuse a table without rows (FK202)."""
    if rows == 0:
        raise DataError(f"{source} has no rows", code="FK202", remedy="give a table with at least one record")
