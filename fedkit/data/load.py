"""A declaration to a simulation's data set, or to one site of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fedkit.config.experiment import DataConfig
from fedkit.data.assemble import Rows, fingerprint, make_site, z_scores
from fedkit.data.declared import feature_names, task_of
from fedkit.data.encode import encode_features, encode_subgroups, encode_target
from fedkit.data.names import require_site_names
from fedkit.data.partition import partition_units, site_names
from fedkit.data.source import read_table
from fedkit.data.split import held_out, require_private
from fedkit.data.table import Table, name_text
from fedkit.data.units import Units, shared_units, units_of
from fedkit.errors import DataError
from fedkit.types import Dataset, Int64, Site, Task

# A declared count sizes lots and noise; beyond this it is likely a mistake.
_DEVIATION = 0.2
_SCALINGS = ("declared", "site_zscore", "pooled_zscore")


@dataclass(frozen=True)
class _Encoded:
    """Rows of a table that are used, with the site of each."""

    rows: Rows
    sites: tuple[str, ...]
    site: Int64
    warnings: tuple[str, ...]


def load_dataset(config: DataConfig, *, private: bool) -> Dataset:
    """Read, encode and part a declared table.

    Args:
        private: refuse what a private run may not use (stratified and permuted splits, z-scores).

    Returns:
        All sites, in the order of ``records`` if declared, else by name; the same bits for the same table.

    Raises:
        DataError: anything wrong with the table or its declaration (FK2xx).

    Guarantee: with ``private``, adding or removing a unit changes no other unit's encoding, site or part.
    """
    _check(config, private)
    return dataset_of(config, read_table(config))


def dataset_of(config: DataConfig, table: Table) -> Dataset:
    """The data set of a table that was read already; see `load_dataset`."""
    task = task_of(config)
    encoded = _encode(config, task, table, units_of(config, table), whole=True)
    sites, warnings = _sites(config, task, encoded)
    return _dataset(config, task, sites, warnings)


def load_site(config: DataConfig, site: str, *, private: bool) -> Site:
    """Read and encode one site: the same as in `load_dataset`, but only its rows are kept.

    Other sites' rows are neither encoded nor judged, unless a partition or ``pooled_zscore`` needs them. A table
    without sites (a hospital's own) belongs to ``site`` as a whole.

    Raises:
        DataError: FK213 for a site without rows, and whatever is wrong with its rows.
    """
    _check(config, private)
    task = task_of(config)
    if config.partition is not None or config.scaling == "pooled_zscore":
        found = [known for known in load_dataset(config, private=private).sites if known.name == site]
        if found:
            return found[0]
        raise _no_such_site(site)
    table = read_table(config)
    if config.site_column is not None:
        mine = table.columns[config.site_column].map(lambda text: name_text(text) == site, np.bool_)
        table = table.take(np.flatnonzero(mine))
        if len(table) == 0:
            raise _no_such_site(site)
    declared = replace(config, records={site: config.records[site]} if site in config.records else {})
    encoded = _encode(declared, task, table, units_of(declared, table), whole=False)
    if config.site_column is None:
        require_site_names([site])
        encoded = replace(encoded, sites=(site,))
    return _sites(declared, task, encoded)[0][0]


def _no_such_site(site: str) -> DataError:
    return DataError(
        f"the table has no rows of site {site!r}", code="FK213", remedy="name a value of the table's site column"
    )


def _check(config: DataConfig, private: bool) -> None:
    if private:
        require_private(config)
    if config.scaling not in _SCALINGS:
        raise DataError(f"scaling {config.scaling!r} is not known", code="FK218", remedy=f"use {', '.join(_SCALINGS)}")
    if config.site_column is not None and config.partition is not None:
        raise DataError(
            "both site_column and partition are set; a row would have two sites",
            code="FK213",
            remedy="leave one of them out",
        )


def _encode(config: DataConfig, task: Task, table: Table, units: Units, *, whole: bool) -> _Encoded:
    y, unknown = encode_target(config, task, table)
    features = encode_features(config, table)
    subgroups = encode_subgroups(config, table)
    warnings = []
    if unknown.any():
        warnings.append(f"{int(unknown.sum())} of {len(table)} rows have no {config.target.column} and are left out")
    for name, count in features.undeclared.items():
        if count:
            warnings.append(f"{name}: {count} values outside the declared levels count as missing")
    if whole:
        _refuse_all_missing(features.missing)
    kept = ~unknown
    if config.missing.numeric == "drop_row":
        dropped = kept & features.any_missing()
        if dropped.any():
            warnings.append(f"{int(dropped.sum())} rows with a missing value are left out (missing.numeric: drop_row)")
        kept &= ~dropped
    elif config.missing.numeric != "midpoint":
        raise DataError(
            f"missing.numeric {config.missing.numeric!r} is not known", code="FK218", remedy="use midpoint or drop_row"
        )
    if not kept.any():
        raise DataError("no row is left to use", code="FK202", remedy="look at `fedkit data check`")
    if whole:
        _refuse_one_class(config, task, y[kept])
    names, site = _site_of_rows(config, table)
    chosen = np.flatnonzero(kept)
    rows = Rows(features.x, y, units, subgroups).take(chosen)
    if config.partition is not None:
        names, site = site_names(config.partition), partition_units(config, task, rows.units, rows.y)[rows.units.of_row]
    else:
        site = site[chosen]
        for index, name in enumerate(names):
            mine = site == index
            absent = [column for column, mask in features.missing.items() if mine.any() and mask[chosen][mine].all()]
            warnings += [f"{name}: {column} is missing in every row" for column in absent]
        if config.unit_column is not None:
            warnings += shared_units(rows.units.take(np.flatnonzero(site == index)).ids for index in range(len(names)))
    return _Encoded(rows, names, site, tuple(warnings))


def _refuse_all_missing(missing: Mapping[str, NDArray[np.bool_]]) -> None:
    absent = [name for name, mask in missing.items() if mask.all()]
    if absent:
        raise DataError(
            f"{', '.join(absent)}: every value of the table is missing or outside the declared levels",
            code="FK212",
            remedy="take the feature out of the declaration, or correct its levels and missing.codes",
        )


def _refuse_one_class(config: DataConfig, task: Task, y: NDArray[np.number]) -> None:
    if task.kind != "regression" and len(np.unique(y)) < 2:
        label = task.classes[int(y[0])]
        key = "target.positive" if task.kind == "binary" else "target.classes"
        raise DataError(
            f"target {config.target.column} has one class everywhere: all {len(y)} rows are {label}",
            code="FK211",
            remedy=f"correct {key}, or use a table with both outcomes",
        )


def _site_of_rows(config: DataConfig, table: Table) -> tuple[tuple[str, ...], Int64]:
    """Names of the sites in their order, and each row's index into them."""
    require_site_names(config.records)
    if config.site_column is None:
        declared = tuple(map(name_text, config.records))
        return declared if len(declared) == 1 else ("site_1",), np.zeros(len(table), dtype=np.int64)
    column = table.columns[config.site_column]
    unnamed = column.map(lambda text: name_text(text) == "", np.bool_)
    if unnamed.any():
        raise DataError(
            f"site_column {config.site_column} is empty in {int(unnamed.sum())} rows, first in {table.where(unnamed)}",
            code="FK213",
            remedy="give each row its site",
        )
    present = {name_text(column.values[code]) for code in np.unique(column.codes)}
    require_site_names(sorted(present))
    names = _ordered(config, present)
    index = {name: position for position, name in enumerate(names)}
    # Texts of rows that were taken out stay in `values` and may name other sites.
    return names, column.map(lambda text: index.get(name_text(text), -1), np.int64)


def _ordered(config: DataConfig, present: set[str]) -> tuple[str, ...]:
    declared = {name_text(name) for name in config.records}
    if not declared:
        return tuple(sorted(present))
    if absent := sorted(declared - present):
        raise DataError(
            f"records declares {', '.join(absent)} and the table has no such site; it has {', '.join(sorted(present))}",
            code="FK213",
            remedy="correct records",
        )
    if extra := sorted(present - declared):
        raise DataError(
            f"the table has the site {', '.join(extra)}, which records does not declare",
            code="FK213",
            remedy="declare an approximate count of every site, or of none",
        )
    return tuple(name_text(name) for name in config.records)


def _sites(config: DataConfig, task: Task, encoded: _Encoded) -> tuple[list[Site], tuple[str, ...]]:
    warnings = list(encoded.warnings)
    counts = {name_text(name): count for name, count in config.records.items()}
    if config.partition is not None and counts and set(counts) != set(encoded.sites):
        raise DataError(
            f"records declares {', '.join(counts)} and the partition makes {', '.join(encoded.sites)}",
            code="FK213",
            remedy="declare a count of every site_1 .. site_k, or of none",
        )
    parts: list[tuple[str, Rows, NDArray[np.bool_]]] = []
    for index, name in enumerate(encoded.sites):
        rows = encoded.rows.take(np.flatnonzero(encoded.site == index))
        labels = None if task.kind == "regression" else rows.y.astype(np.int64)
        parts.append((name, rows, held_out(config.split, rows.units, labels)))
    if config.scaling == "site_zscore":
        parts = [(name, replace(rows, x=z_scores(rows.x, ~tested)), tested) for name, rows, tested in parts]
    elif config.scaling == "pooled_zscore":
        parts = _pooled_z_scores(parts)
    sites = []
    for name, rows, tested in parts:
        declared = counts.get(name)
        sites.append(make_site(name, rows, tested, declared))
        if not len(rows):
            warnings.append(_without_rows(config, name))
        elif declared is not None and abs(len(rows.units) - declared) > _DEVIATION * declared:
            warnings.append(f"{name} has {len(rows.units)} units; records declares {declared}, more than 20% off")
    return sites, tuple(warnings)


def _without_rows(config: DataConfig, name: str) -> str:
    if config.partition is None:
        return f"{name} has no rows"
    # Units choose their sites one by one, so that none moves another; a small share may then get none at all.
    also = "" if config.partition.kind == "iid" else " or raise data.partition.alpha"
    return f"{name} got no unit; lower data.partition.sites{also}"


def _pooled_z_scores(
    parts: list[tuple[str, Rows, NDArray[np.bool_]]],
) -> list[tuple[str, Rows, NDArray[np.bool_]]]:
    trained = np.concatenate([~tested for _, _, tested in parts])
    x = z_scores(np.concatenate([rows.x for _, rows, _ in parts]), trained)
    pieces = np.split(x, np.cumsum([len(rows) for _, rows, _ in parts])[:-1])
    return [(name, replace(rows, x=piece), tested) for (name, rows, tested), piece in zip(parts, pieces, strict=True)]


def _dataset(config: DataConfig, task: Task, sites: list[Site], warnings: tuple[str, ...]) -> Dataset:
    unit: Literal["record", "patient"] = "record" if config.unit_column is None else "patient"
    names = feature_names(config)
    return Dataset(
        name=config.name,
        task=task,
        unit=unit,
        input_shape=(len(names),),
        feature_names=names,
        sites=tuple(sites),
        test_fraction=config.split.test_fraction,
        split=config.split.kind,
        scaling=config.scaling,
        fingerprints={site.name: fingerprint(site) for site in sites},
        warnings=warnings,
    )
