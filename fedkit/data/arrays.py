"""The user's own arrays: site by site, already numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fedkit.config.experiment import SplitConfig
from fedkit.data.assemble import Rows, fingerprint
from fedkit.data.declared import is_usable_range
from fedkit.data.names import require_site_names
from fedkit.data.split import held_out
from fedkit.data.table import name_text
from fedkit.data.units import Units, in_order_of_appearance, is_no_id, rows_as_units, shared_units
from fedkit.errors import DataError
from fedkit.types import Dataset, Examples, Float32, Site, Task

_KEYS = ("x", "y", "x_test", "y_test", "unit", "unit_test", "subgroups", "subgroups_test")


def from_arrays(
    data: Mapping[str, Any],
    task: Task | None,
    *,
    test_fraction: float,
    seed: int,
    name: str = "arrays",
    private: bool = False,
) -> Dataset:
    """Make a data set of arrays, or of anything that NumPy takes for one (lists, torch tensors).

    Args:
        data: site to ``(x, y)``, or to a mapping with ``x`` and ``y`` and optionally ``unit`` (the id of what owns
            each row; at every site or at none), ``subgroups`` (column to labels) and a test set ``x_test``,
            ``y_test``, ``unit_test``, ``subgroups_test``. x is [n, *shape], the same shape at every site; y is [n].
        task: what y is; None infers it from whole numbers: 0 and 1 binary, 0 .. k - 1 multiclass. Regression must be
            said, with its range, and in a private run every task must.
        test_fraction: share of units held out where no test set is given. Where one is, the split is the caller's,
            but this share (``data.split.test_fraction``, a public constant) is still what sizes the lots: a share
            counted from the data would tell of it.
        seed: key of that split.
        private: refuse to infer the task, since one record with a label of its own would change the model.

    Returns:
        Sites in the mapping's order; ``split`` is keyed_hash, or given if every test set is; ``scaling`` is given:
        what was done to the numbers before is the caller's to answer for.

    Raises:
        DataError: FK217, with the site's name, for lengths, shapes, labels or numbers that do not fit; FK213 for a
            name that no site can have; FK214 for missing unit ids.

    Guarantee: where fedkit splits, each unit's part follows from its id, or from its row's bytes, and the seed alone.

    >>> import numpy as np
    >>> data = {"north": (np.arange(8.0).reshape(4, 2), [0, 1, 0, 1]), "south": (np.ones((2, 2)), [1, 0])}
    >>> dataset = from_arrays(data, None, test_fraction=0.25, seed=1)
    >>> dataset.task.kind, dataset.input_shape, [site.name for site in dataset.sites]
    ('binary', (2,), ['north', 'south'])
    """
    if not isinstance(data, Mapping) or not data:
        raise _wrong("data", "is no mapping with at least one site", "pass {'north': (x, y), 'south': (x, y)}")
    require_site_names(data)
    given = {name_text(site): _mapping(str(site), value) for site, value in data.items()}
    if len(given) < len(data):
        raise _wrong("data", "names a site twice", "give each site a name of its own")
    labels = {(site, key): _labels(site, key, parts[key]) for site, parts in given.items() for key in _present(parts)}
    has_units = _same_units(given)
    if task is None and private:
        raise _wrong(
            "data",
            "has classes to be counted from its labels, and one record could change the count",
            "pass task=fedkit.Task('binary', ('no', 'yes')) or Task('multiclass', names)",
        )
    if task is None:
        task = _infer(list(labels.values()))
    split = SplitConfig("keyed_hash", test_fraction, seed)
    sites = tuple(_site(site, parts, task, split, labels) for site, parts in given.items())
    shape = _one_shape(sites)
    _refuse_one_class(task, sites)
    unit: Literal["record", "patient"] = "patient" if has_units else "record"
    has_test = all(parts.get("x_test") is not None for parts in given.values())
    return Dataset(
        name=name,
        task=task,
        unit=unit,
        input_shape=shape,
        feature_names=tuple(f"x{index}" for index in range(shape[0])) if len(shape) == 1 else (),
        sites=sites,
        test_fraction=test_fraction,
        split="given" if has_test else "keyed_hash",
        scaling="given",
        fingerprints={site.name: fingerprint(site) for site in sites},
        warnings=shared_units(map(_owners, given.values())),
    )


def _wrong(what: str, message: str, remedy: str = "") -> DataError:
    return DataError(f"{what}: {message}" if what != "data" else f"data {message}", code="FK217", remedy=remedy)


def _mapping(site: str, value: Any) -> Mapping[str, Any]:
    if isinstance(value, Mapping):
        unknown = [str(key) for key in value if key not in _KEYS]
        if unknown:
            raise _wrong(site, f"the key {', '.join(unknown)} is not known", f"use {', '.join(_KEYS)}")
        parts = value
    elif isinstance(value, tuple | list) and len(value) == 2:
        parts = {"x": value[0], "y": value[1]}
    else:
        raise _wrong(site, "its data is neither (x, y) nor a mapping", "pass (x, y)")
    for key in ("x", "y"):
        if parts.get(key) is None:
            raise _wrong(site, f"there is no {key}", "pass both x and y")
    if (parts.get("x_test") is None) != (parts.get("y_test") is None):
        raise _wrong(site, "only one of x_test and y_test is given", "pass both or none")
    return parts


def _same_units(given: Mapping[str, Mapping[str, Any]]) -> bool:
    named = [site for site, parts in given.items() if parts.get("unit") is not None]
    if named and len(named) < len(given):
        others = ", ".join(site for site in given if site not in named)
        raise _wrong(
            "data",
            f"has a unit at {', '.join(named)} and none at {others}; a guarantee is for patients everywhere or nowhere",
            "pass unit at every site, or leave it out (a row is then a unit)",
        )
    return bool(named)


def _owners(parts: Mapping[str, Any]) -> list[Any]:
    given = [parts[key] for key in ("unit", "unit_test") if parts.get(key) is not None]
    return [value for owners in given for value in np.asarray(owners).tolist()]


def _present(parts: Mapping[str, Any]) -> list[str]:
    return [key for key in ("y", "y_test") if parts.get(key) is not None]


def _array(site: str, key: str, value: Any) -> NDArray[Any]:
    if hasattr(value, "detach"):
        # A torch tensor may ask for gradients or live on an accelerator; NumPy takes neither.
        value = value.detach().cpu()
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, RuntimeError):
        raise _wrong(site, f"{key} is no array", "pass one array of numbers") from None
    if array.dtype.kind not in "biuf":
        raise _wrong(site, f"{key} holds {array.dtype}, not numbers", "encode words as numbers first")
    return array


def _numbers(site: str, key: str, value: Any) -> Float32:
    array = _array(site, key, value)
    if array.ndim < 2:
        raise _wrong(site, f"{key} has shape {array.shape}; it must be [rows, features...]", "reshape it to [n, 1]")
    with np.errstate(over="ignore"):
        numbers = np.ascontiguousarray(array, dtype=np.float32)
    bad = ~np.isfinite(numbers.reshape(len(numbers), -1)).all(axis=1) if numbers.size else np.zeros(0, dtype=np.bool_)
    if bad.any():
        raise _wrong(
            site,
            f"{key} holds NaN or infinity in {int(bad.sum())} rows, first in row {int(np.flatnonzero(bad)[0])}",
            "replace missing values before",
        )
    return numbers


def _labels(site: str, key: str, value: Any) -> NDArray[Any]:
    array = _array(site, key, value)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise _wrong(site, f"{key} has shape {array.shape}; it must be [rows]", "pass one label a row")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise _wrong(site, f"{key} holds NaN or infinity", "leave those rows out")
    return array


def _infer(labels: list[NDArray[Any]]) -> Task:
    if any(array.dtype.kind == "f" for array in labels):
        raise _wrong(
            "data",
            "has a y of floats, which may be classes or a number to predict",
            "pass task=Task('regression', range=(low, high)), or y as integers",
        )
    largest = max((int(array.max()) for array in labels if len(array)), default=1)
    smallest = min((int(array.min()) for array in labels if len(array)), default=0)
    if smallest < 0:
        raise _wrong("data", f"has the label {smallest}; labels count from 0", "number the classes 0 .. k - 1")
    if largest <= 1:
        return Task("binary", ("negative", "positive"))
    # A label per record (an id by mistake) would make a model of that many outputs.
    if largest >= 10_000:
        raise _wrong("data", f"has the label {largest}; that is no class index", "pass task=Task(...)")
    return Task("multiclass", tuple(str(index) for index in range(largest + 1)))


def _target(site: str, key: str, labels: NDArray[Any], task: Task) -> NDArray[Any]:
    if task.kind == "regression":
        if task.range is None or not is_usable_range(*task.range):
            raise _wrong(
                "data", "has a regression task without a usable range", "pass Task('regression', range=(low, high))"
            )
        low, high = task.range
        return ((np.clip(labels.astype(np.float64), low, high) - low) / (high - low)).astype(np.float32)
    count = 2 if task.kind == "binary" else len(task.classes)
    whole = labels.astype(np.int64)
    if (whole != labels).any() or (whole < 0).any() or (whole >= count).any():
        raise _wrong(
            site,
            f"{key} holds labels that are not 0 .. {count - 1}",
            f"number the {count} classes from 0, or pass task",
        )
    return whole


def _site(
    site: str, parts: Mapping[str, Any], task: Task, split: SplitConfig, labels: Mapping[tuple[str, str], NDArray[Any]]
) -> Site:
    rows = _rows(site, parts, "", task, labels)
    if parts.get("x_test") is None:
        marked = held_out(split, rows.units, None)
        return Site(site, rows.examples(~marked), rows.examples(marked), len(rows.units), False)
    tested = _rows(site, parts, "_test", task, labels)
    named = parts.get("unit") is not None and parts.get("unit_test") is not None
    if named and (both := set(rows.units.ids) & set(tested.units.ids)):
        raise _wrong(site, f"{len(both)} units are in both train and test", "keep all rows of a unit in one of them")
    records = len(rows.units) + len(tested.units)
    return Site(site, _all(rows), _all(tested), records, False)


def _all(rows: Rows) -> Examples:
    return rows.examples(np.ones(len(rows), dtype=np.bool_))


def _rows(
    site: str, parts: Mapping[str, Any], part: str, task: Task, labels: Mapping[tuple[str, str], NDArray[Any]]
) -> Rows:
    x = _numbers(site, f"x{part}", parts[f"x{part}"])
    y = _target(site, f"y{part}", labels[site, f"y{part}"], task)
    _same_length(site, f"y{part}", y, x)
    owners = parts.get(f"unit{part}")
    if owners is None:
        units = rows_as_units(_contents(x, y), [""] * len(x))
    else:
        values = np.asarray(owners).tolist()
        _same_length(site, f"unit{part}", values, x)
        if absent := sum(map(is_no_id, values)):
            raise DataError(
                f"{site}: unit{part} is empty or missing in {absent} rows",
                code="FK214",
                remedy="give each row the id of its unit, or leave unit out everywhere (a row is then a unit)",
            )
        named = [name_text(value) for value in values]
        ids = np.unique(np.array(named, dtype=object).astype(str), return_inverse=True)
        kept, of_row = in_order_of_appearance(ids[1].reshape(-1).astype(np.int64))
        units = Units(tuple(str(ids[0][index]) for index in kept), of_row)
    groups = {}
    for column, values in dict(parts.get(f"subgroups{part}") or {}).items():
        groups[str(column)] = np.array([name_text(value) for value in np.asarray(values).tolist()], dtype=np.str_)
        _same_length(site, f"subgroups{part}[{column!r}]", groups[str(column)], x)
    return Rows(x, y, units, groups)


def _contents(x: Float32, y: NDArray[Any]) -> list[str]:
    return [hashlib.sha256(row.tobytes() + label.tobytes()).hexdigest() for row, label in zip(x, y, strict=True)]


def _same_length(site: str, key: str, values: Any, x: Float32) -> None:
    if len(values) != len(x):
        raise _wrong(site, f"{key} has {len(values)} entries and x {len(x)} rows", "pass one entry a row")


def _one_shape(sites: tuple[Site, ...]) -> tuple[int, ...]:
    shapes = {part.x.shape[1:]: site.name for site in reversed(sites) for part in (site.test, site.train)}
    if len(shapes) > 1:
        told = ", ".join(f"{name} {shape}" for shape, name in sorted(shapes.items(), key=lambda item: item[1]))
        raise _wrong("data", f"has examples of different shapes ({told})", "give every site the same features")
    return tuple(int(size) for size in next(iter(shapes)))


def _refuse_one_class(task: Task, sites: tuple[Site, ...]) -> None:
    y = np.concatenate([part.y for site in sites for part in (site.train, site.test)])
    if len(y) == 0:
        raise _wrong("data", "has no rows", "give every site at least one")
    if task.kind != "regression" and len(np.unique(y)) < 2:
        raise _wrong("data", f"has one class everywhere: all {len(y)} labels are {int(y[0])}", "give both outcomes")
