"""A declaration to a simulation's data set, or to one site of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fedkit.config.experiment import DataConfig
from fedkit.data.assemble import Rows, fingerprint, make_site, z_scores
from fedkit.data.counts import check_counts
from fedkit.data.declared import feature_names, input_shape, task_of
from fedkit.data.encode import encode_features, encode_subgroups, encode_target
from fedkit.data.names import require_site_names
from fedkit.data.partition import partition_units, site_names
from fedkit.data.readable import empty_table, readable
from fedkit.data.row_bound import within_bound
from fedkit.data.sites import no_such_site, rows_of_site, site_of_rows
from fedkit.data.source import read_table
from fedkit.data.split import held_out, require_private
from fedkit.data.table import Table, name_text
from fedkit.data.units import Units, row_texts, shared_units, units_of
from fedkit.errors import DataError
from fedkit.types import Dataset, Int64, Site, Task

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
        private: refuse what a private run may not use (stratified and permuted splits, z-scores), and sites with more
            units than they declare.

    Returns:
        All sites, in the order of ``records`` if declared, else by name; the same bits for the same table.

    Raises:
        DataError: anything wrong with the table or its declaration (FK2xx); private: FK222, every site with more
            units than it declares.

    Guarantee: with ``private``, adding or removing a unit changes no other unit's encoding, site or part.
    """
    _check(config, private)
    return dataset_of(config, read_table(config), private=private)


def dataset_of(config: DataConfig, table: Table, *, private: bool = False) -> Dataset:
    """The data set of a table that was read already; see `load_dataset`."""
    task = task_of(config)
    encoded = _encode(config, task, table, units_of(config, table), own=None, private=private)
    sites, warnings = _sites(config, task, encoded, private)
    return _dataset(config, task, sites, warnings)


def load_site(config: DataConfig, site: str, *, private: bool) -> Site:
    """Read and encode one site; see `load_site_dataset`, which also tells its warnings."""
    return load_site_dataset(config, site, private=private).sites[0]


def load_site_dataset(
    config: DataConfig, site: str, *, private: bool, read: Callable[[DataConfig], Table] = read_table
) -> Dataset:
    """A data set of one site: the same as in `load_dataset`, but only its rows are kept.

    Other sites' rows are neither encoded nor judged, unless a partition or ``pooled_zscore`` needs them. A table
    without sites (a hospital's own) belongs to ``site`` as a whole.

    With ``private`` no record of the site can stop it from answering: a table without rows, of one class or with a
    feature that is missing everywhere is a data set like any other, cells that cannot be read count as missing, and
    rows without a unit's id are left out. `fedkit data check` and `load_dataset` tell of all that as errors. A file
    that is no table of the declared columns is refused, whatever is in it.

    Returns:
        One site. ``warnings`` are counts of its records: for the site's own eyes.

    Raises:
        DataError: FK213 for a site that has no rows (private: and declares none), FK222 for more units than it
            declares (private), and whatever is wrong with its table.
    """
    _check(config, private)
    task = task_of(config)
    require_site_names([site])
    if config.partition is not None or config.scaling == "pooled_zscore":
        # Through ``read`` like every other table of a site: it leaves out whoever has not consented.
        whole = dataset_of(config, read(config), private=private)
        found = tuple(known for known in whole.sites if known.name == site)
        if not found:
            raise no_such_site(site)
        return replace(whole, sites=found, fingerprints={site: whole.fingerprints[site]})
    declared = {name_text(name): count for name, count in config.records.items()}
    own = replace(config, site_column=None, records={site: declared[site]} if site in declared else {})
    table = rows_of_site(config, _table(config, private, read), site)
    if config.site_column is not None and not len(table) and not (private and site in declared):
        raise no_such_site(site)
    table, unread = readable(own, table) if private else (table, ())
    encoded = _encode(own, task, table, units_of(own, table), own=site, private=private)
    sites, warnings = _sites(own, task, encoded, private)
    return _dataset(own, task, sites, (*unread, *warnings))


def _table(config: DataConfig, private: bool, read: Callable[[DataConfig], Table]) -> Table:
    try:
        return read(config)
    except DataError as error:
        # A table without records is the neighbour of a table with one.
        if private and error.code == "FK202":
            return empty_table(config)
        raise


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
    most = config.max_rows_per_unit
    if most is not None and (most < 1 or config.unit_column is None):
        raise DataError(
            f"max_rows_per_unit is {most} and unit_column is {config.unit_column}; the bound is at least 1, of the rows"
            " of a declared unit",
            code="FK218",
            remedy="set data.unit_column, or data.max_rows_per_unit=null",
        )


def _encode(config: DataConfig, task: Task, table: Table, units: Units, *, own: str | None, private: bool) -> _Encoded:
    """Encode the rows that are used.

    Args:
        own: the one site that all rows belong to; None for a whole table, which is refused where no run could learn
            from it.
    """
    y, unknown = encode_target(config, task, table)
    features = encode_features(config, table)
    subgroups = encode_subgroups(config, table)
    warnings = []
    if unknown.any():
        warnings.append(f"{int(unknown.sum())} of {len(table)} rows have no {config.target.column} and are left out")
    for name, count in features.undeclared.items():
        if count:
            warnings.append(f"{name}: {count} values outside the declared levels count as missing")
    if own is None:
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
    if not kept.any() and (own is None or not private):
        raise DataError("no row is left to use", code="FK202", remedy="look at `fedkit data check`")
    if own is None:
        _refuse_one_class(config, task, y[kept])
    names, site = site_of_rows(config, table) if own is None else ((own,), np.zeros(len(table), dtype=np.int64))
    chosen, crowd = _bounded(config, table, units.of_row + len(units) * site, np.flatnonzero(kept))
    warnings += crowd
    rows = Rows(features.x.reshape(len(table), *input_shape(config)), y, units, subgroups).take(chosen)
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


def _bounded(config: DataConfig, table: Table, owner: Int64, chosen: Int64) -> tuple[Int64, tuple[str, ...]]:
    """Of the chosen rows those within ``max_rows_per_unit`` of their unit at its site."""
    if config.max_rows_per_unit is None:
        return chosen, ()
    kept, told = within_bound(
        np.unique(owner[chosen], return_inverse=True)[1].reshape(-1).astype(np.int64),
        lambda rows: row_texts(config, table.take(chosen[rows])),
        config.max_rows_per_unit,
        config.split.seed,
    )
    return chosen[kept], told


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


def _sites(config: DataConfig, task: Task, encoded: _Encoded, private: bool) -> tuple[list[Site], tuple[str, ...]]:
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
    warnings += check_counts({name: len(rows.units) for name, rows, _ in parts}, counts, private=private)
    if config.scaling == "site_zscore":
        parts = [(name, replace(rows, x=z_scores(rows.x, ~tested)), tested) for name, rows, tested in parts]
    elif config.scaling == "pooled_zscore":
        parts = _pooled_z_scores(parts)
    sites = []
    for name, rows, tested in parts:
        sites.append(make_site(name, rows, tested, counts.get(name)))
        if not len(rows):
            warnings.append(_without_rows(config, name))
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
    return Dataset(
        name=config.name,
        task=task,
        unit=unit,
        input_shape=input_shape(config),
        feature_names=feature_names(config),
        sites=tuple(sites),
        test_fraction=config.split.test_fraction,
        split=config.split.kind,
        scaling=config.scaling,
        fingerprints={site.name: fingerprint(site) for site in sites},
        warnings=warnings,
    )
