"""The user's own arrays: site by site, already numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fedkit.config.experiment import SplitConfig
from fedkit.data.array_values import contents, infer_task, labels, numbers, require_length, target, wrong
from fedkit.data.assemble import Rows, fingerprint
from fedkit.data.counts import check_counts
from fedkit.data.names import require_site_names
from fedkit.data.row_bound import within_bound
from fedkit.data.split import held_out
from fedkit.data.table import name_text
from fedkit.data.units import is_no_id, rows_as_units, rows_of_names, shared_units
from fedkit.errors import DataError
from fedkit.types import Dataset, Examples, Int64, Site, Task

_KEYS = ("x", "y", "x_test", "y_test", "unit", "unit_test", "subgroups", "subgroups_test")


def from_arrays(
    data: Mapping[str, Any],
    task: Task | None,
    *,
    test_fraction: float,
    seed: int,
    name: str = "arrays",
    private: bool = False,
    records: Mapping[str, int] | None = None,
    max_rows_per_unit: int | None = None,
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
        private: refuse to infer the task, since one record with a label of its own would change the model, and a site
            with more units than it declares.
        records: site to its declared number of units, train and test together; every site or none. Entries for other
            names are ignored.
        max_rows_per_unit: rows of a unit that are used at a site (in each part, where a test set is given); which
            ones follows from a keyed hash of each row's own values. Needs ``unit``.

    Returns:
        Sites in the mapping's order; ``split`` is keyed_hash, or given if every test set is; ``scaling`` is given:
        what was done to the numbers before is the caller's to answer for.

    Raises:
        DataError: FK217, with the site's name, for lengths, shapes, labels or numbers that do not fit; FK213 for a
            name that no site can have, or declared counts of some sites only; FK214 for missing unit ids; FK222, all
            sites with more units than they declare (private).

    Guarantee: where fedkit splits, each unit's part follows from its id, or from its row's bytes and subgroup labels,
    and the seed alone.

    >>> import numpy as np
    >>> data = {"north": (np.arange(8.0).reshape(4, 2), [0, 1, 0, 1]), "south": (np.ones((2, 2)), [1, 0])}
    >>> dataset = from_arrays(data, None, test_fraction=0.25, seed=1)
    >>> dataset.task.kind, dataset.input_shape, [site.name for site in dataset.sites]
    ('binary', (2,), ['north', 'south'])
    """
    if not isinstance(data, Mapping) or not data:
        raise wrong("data", "is no mapping with at least one site", "pass {'north': (x, y), 'south': (x, y)}")
    require_site_names(data)
    given = {name_text(site): _mapping(str(site), value) for site, value in data.items()}
    if len(given) < len(data):
        raise wrong("data", "names a site twice", "give each site a name of its own")
    y = {(site, key): labels(site, key, parts[key]) for site, parts in given.items() for key in _present(parts)}
    has_units = _same_units(given)
    declared = _declared(records or {}, list(given))
    if max_rows_per_unit is not None and (max_rows_per_unit < 1 or not has_units):
        raise wrong(
            "data",
            f"has max_rows_per_unit={max_rows_per_unit}; the bound is at least 1, of the rows of a given unit",
            "pass unit at every site, or set data.max_rows_per_unit=null",
        )
    if task is None and private:
        raise wrong(
            "data",
            "has classes to be counted from its labels, and one record could change the count",
            "pass task=fedkit.Task('binary', ('no', 'yes')) or Task('multiclass', names)",
        )
    if task is None:
        task = infer_task(list(y.values()))
    split = SplitConfig("keyed_hash", test_fraction, seed)
    warnings = list(shared_units(map(_owners, given.values())))
    sites = []
    for site, parts in given.items():
        train, test, told = _parts(site, parts, task, split, y, max_rows_per_unit)
        count = train.num_units + test.num_units
        sites.append(Site(site, train, test, declared.get(site, count), site in declared))
        warnings += told
    found = {site.name: site.train.num_units + site.test.num_units for site in sites}
    warnings += check_counts(found, declared, private=private)
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
        sites=tuple(sites),
        test_fraction=test_fraction,
        split="given" if has_test else "keyed_hash",
        scaling="given",
        fingerprints={site.name: fingerprint(site) for site in sites},
        warnings=tuple(warnings),
    )


def _mapping(site: str, value: Any) -> Mapping[str, Any]:
    if isinstance(value, Mapping):
        unknown = [str(key) for key in value if key not in _KEYS]
        if unknown:
            raise wrong(site, f"the key {', '.join(unknown)} is not known", f"use {', '.join(_KEYS)}")
        parts = value
    elif isinstance(value, tuple | list) and len(value) == 2:
        parts = {"x": value[0], "y": value[1]}
    else:
        raise wrong(site, "its data is neither (x, y) nor a mapping", "pass (x, y)")
    for key in ("x", "y"):
        if parts.get(key) is None:
            raise wrong(site, f"there is no {key}", "pass both x and y")
    if (parts.get("x_test") is None) != (parts.get("y_test") is None):
        raise wrong(site, "only one of x_test and y_test is given", "pass both or none")
    return parts


def _same_units(given: Mapping[str, Mapping[str, Any]]) -> bool:
    named = [site for site, parts in given.items() if parts.get("unit") is not None]
    if named and len(named) < len(given):
        others = ", ".join(site for site in given if site not in named)
        raise wrong(
            "data",
            f"has a unit at {', '.join(named)} and none at {others}; a guarantee is for patients everywhere or nowhere",
            "pass unit at every site, or leave it out (a row is then a unit)",
        )
    return bool(named)


def _owners(parts: Mapping[str, Any]) -> list[Any]:
    given = [parts[key] for key in ("unit", "unit_test") if parts.get(key) is not None]
    return [value for owners in given for value in _values(owners)]


def _values(given: Any) -> list[Any]:
    """Ids or labels as Python values; NumPy's own texts would lose the NULs at their ends, and with them a unit."""
    array = np.asarray(given)
    values: list[Any] = (np.asarray(given, dtype=object) if array.dtype.kind in "US" else array).tolist()
    return values


def _present(parts: Mapping[str, Any]) -> list[str]:
    return [key for key in ("y", "y_test") if parts.get(key) is not None]


def _declared(records: Mapping[str, int], sites: Sequence[str]) -> dict[str, int]:
    given = {name_text(name): count for name, count in records.items()}
    declared = {site: given[site] for site in sites if site in given}
    if declared and len(declared) < len(sites):
        raise DataError(
            f"records declares no count of {', '.join(site for site in sites if site not in declared)}",
            code="FK213",
            remedy="declare a count of every site, or of none",
        )
    return declared


def _parts(
    site: str,
    parts: Mapping[str, Any],
    task: Task,
    split: SplitConfig,
    y: Mapping[tuple[str, str], NDArray[Any]],
    most: int | None,
) -> tuple[Examples, Examples, list[str]]:
    """A site's rows to train and to test with, and what was left out of them."""
    rows, told = _bounded(site, _rows(site, parts, "", task, y), most, split.seed)
    if parts.get("x_test") is None:
        marked = held_out(split, rows.units, None)
        return rows.examples(~marked), rows.examples(marked), told
    tested = _rows(site, parts, "_test", task, y)
    named = parts.get("unit") is not None and parts.get("unit_test") is not None
    if named and (both := set(rows.units.ids) & set(tested.units.ids)):
        raise wrong(site, f"{len(both)} units are in both train and test", "keep all rows of a unit in one of them")
    tested, also = _bounded(site, tested, most, split.seed)
    return _all(rows), _all(tested), told + also


def _bounded(site: str, rows: Rows, most: int | None, seed: int) -> tuple[Rows, list[str]]:
    if most is None:
        return rows, []

    def texts(chosen: Int64) -> Iterator[str]:
        some = rows.take(chosen)
        groups = [some.subgroups[name].tolist() for name in sorted(some.subgroups)]
        owners = [some.units.ids[index] for index in some.units.of_row]
        return map(repr, zip(owners, contents(some.x, some.y), *groups, strict=True))

    kept, told = within_bound(rows.units.of_row, texts, most, seed)
    return rows.take(np.flatnonzero(kept)), [f"{site}: {text}" for text in told]


def _all(rows: Rows) -> Examples:
    return rows.examples(np.ones(len(rows), dtype=np.bool_))


def _rows(
    site: str, parts: Mapping[str, Any], part: str, task: Task, given: Mapping[tuple[str, str], NDArray[Any]]
) -> Rows:
    x = numbers(site, f"x{part}", parts[f"x{part}"])
    y = target(site, f"y{part}", given[site, f"y{part}"], task)
    require_length(site, f"y{part}", y, x)
    groups = {}
    for column, values in dict(parts.get(f"subgroups{part}") or {}).items():
        groups[str(column)] = np.array([name_text(value) for value in _values(values)], dtype=np.str_)
        require_length(site, f"subgroups{part}[{column!r}]", groups[str(column)], x)
    owners = parts.get(f"unit{part}")
    if owners is None:
        # The contents decide in which part a row is; where the caller has said that, any names do.
        texts = contents(x, y, groups) if parts.get("x_test") is None else [""] * len(x)
        units = rows_as_units(texts, [""] * len(x))
    else:
        named = _values(owners)
        require_length(site, f"unit{part}", named, x)
        if absent := sum(map(is_no_id, named)):
            raise DataError(
                f"{site}: unit{part} is empty or missing in {absent} rows",
                code="FK214",
                remedy="give each row the id of its unit, or leave unit out everywhere (a row is then a unit)",
            )
        units = rows_of_names([name_text(value) for value in named])
    return Rows(x, y, units, groups)


def _one_shape(sites: Sequence[Site]) -> tuple[int, ...]:
    shapes = {part.x.shape[1:]: site.name for site in reversed(sites) for part in (site.test, site.train)}
    if len(shapes) > 1:
        told = ", ".join(f"{name} {shape}" for shape, name in sorted(shapes.items(), key=lambda item: item[1]))
        raise wrong("data", f"has examples of different shapes ({told})", "give every site the same features")
    return tuple(int(size) for size in next(iter(shapes)))


def _refuse_one_class(task: Task, sites: Sequence[Site]) -> None:
    y = np.concatenate([part.y for site in sites for part in (site.train, site.test)])
    if len(y) == 0:
        raise wrong("data", "has no rows", "give every site at least one")
    if task.kind != "regression" and len(np.unique(y)) < 2:
        raise wrong("data", f"has one class everywhere: all {len(y)} labels are {int(y[0])}", "give both outcomes")
