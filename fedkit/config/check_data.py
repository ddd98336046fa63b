"""What a table's declaration must hold, judged from the declaration alone: no row is read."""

from __future__ import annotations

import codecs
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from fedkit.config.experiment import DataConfig, PartitionConfig, SourceConfig, TargetConfig
from fedkit.config.locate import NAME
from fedkit.config.wording import names_a_secret, shown, suggestion

_WANTED = {"builtin": ("path",), "csv": ("path",), "parquet": ("path",), "sql": ("query",), "site": ()}
_SOURCE_KEYS = ("path", "query", "url", "url_env", "url_file")
_URLS = ("url", "url_env", "url_file")
_MOST_AXES = 4


def check_data(data: DataConfig, *, python: bool = False) -> list[str]:
    """Return every problem of a declaration.

    Args:
        python: admit ``source.kind`` arrays; such a declaration describes no table and is judged by its split alone.
    """
    if python and data.source.kind == "arrays":
        return [*_split(data), *_rows_per_unit(data, arrays=True)]
    return [
        *_name(data),
        *check_source(data.source),
        *_target(data.target),
        *_features(data),
        *_shape(data),
        *_columns(data),
        *_missing(data),
        *_split(data),
        *_sites(data),
        *_rows_per_unit(data, arrays=False),
        *_subgroups(data),
    ]


def _name(data: DataConfig) -> Iterator[str]:
    if not NAME.fullmatch(data.name):
        yield f"data.name is {data.name!r}; use letters, digits, _ and - only"


def _kind(key: str, value: str, known: Iterable[str]) -> Iterator[str]:
    if value not in (known := list(known)):
        yield f"{key} is {value!r}; {suggestion(value, known)}"


def check_source(source: SourceConfig) -> Iterator[str]:
    """Say what is wrong with a source by itself."""
    yield from _kind("data.source.kind", source.kind, _WANTED)
    wanted = _WANTED.get(source.kind)
    if wanted is None:
        return
    for key in wanted:
        if not getattr(source, key):
            yield f"data.source.{key} is not set, and kind {source.kind} needs it"
    if source.kind == "builtin" and source.path and not re.fullmatch(r"[A-Za-z0-9_-]+\.csv", source.path):
        yield f"data.source.path is {shown(source.path)}; a built-in table is a bare file name, your own kind=csv"
    given = [key for key in _URLS if getattr(source, key) is not None]
    if source.kind == "sql" and len(given) != 1:
        yield f"data.source.url, url_env and url_file: {', '.join(given) or 'none'} set; exactly one is needed"
    for key in _SOURCE_KEYS:
        if getattr(source, key) is not None and key not in wanted and not (source.kind == "sql" and key in _URLS):
            yield f"data.source.{key} is set, but kind {source.kind} does not use it; leave it out"
    if source.url_env is not None and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", source.url_env):
        # Whoever pastes the URL itself here must not find it in a log.
        yield "data.source.url_env must be the name of an environment variable (letters, digits, _), not its content"
    if source.url_file is not None and "://" in source.url_file:
        yield "data.source.url_file must be the path of a file, not its content"
    if source.url is not None and "://" not in source.url:
        yield "data.source.url is no URL; write dialect://host/database"
    elif source.url is not None and _may_hide_a_credential(source.url):
        # Any user or option may be a key; the only list that cannot lag behind the drivers is an empty one.
        yield (
            "data.source.url may name driver, host, port and database only, because a config is printed; a URL with a"
            " user or options goes to data.source.url_env=VARIABLE or url_file=FILE, with data.source.url=null"
        )
    if source.query is not None and names_a_secret(source.query):
        yield "data.source.query holds a password; make the connection a view of the database, and query that"
    if len(source.delimiter) != 1:
        yield f"data.source.delimiter is {source.delimiter!r}; one character is needed"
    try:
        codecs.lookup(source.encoding)
    except (LookupError, ValueError):
        yield f"data.source.encoding is {source.encoding!r}, which is unknown; try utf-8 or latin-1"


def _may_hide_a_credential(url: str) -> bool:
    rest = url.partition("://")[2]
    return "?" in rest or "#" in rest or "@" in rest or ";" in rest


def _target(target: TargetConfig) -> Iterator[str]:
    kinds = ("binary", "multiclass", "regression")
    yield from _kind("data.target.kind", target.kind, kinds)
    if target.kind not in kinds:
        return
    if target.kind == "binary":
        if not target.positive:
            yield "data.target.positive is empty; a binary target lists the values that count as positive: [1]"
        if target.classes and len(target.classes) != 2:
            yield f"data.target.classes has {len(target.classes)} values; a binary target has two, negative first"
    if target.kind == "multiclass" and len(target.classes) < 2:
        yield f"data.target.classes has {len(target.classes)} values; a multiclass target lists all of them"
    if target.kind == "regression" and target.range is None:
        yield "data.target.range is not set; a regression target needs a public range such as [0, 60]"
    if target.range is not None:
        yield from _ascending("data.target.range", target.range)
    unused = {"binary": ("range",), "multiclass": ("positive", "range"), "regression": ("positive", "classes")}
    for key in unused[target.kind]:
        if getattr(target, key):
            yield f"data.target.{key} is set, but a {target.kind} target does not use it; leave it out"
    for key in ("positive", "classes"):
        yield from _distinct(f"data.target.{key}", getattr(target, key))


def _features(data: DataConfig) -> Iterator[str]:
    features = data.features
    if not features.numeric and not features.categorical:
        yield "data.features is empty; declare numeric columns with a range or categorical ones with their levels"
    for column, bounds in features.numeric.items():
        yield from _ascending(f"data.features.numeric.{column}", bounds)
    fewest = 2 if features.drop_first else 1
    for column, levels in features.categorical.items():
        key = f"data.features.categorical.{column}"
        if len(levels) < fewest:
            yield f"{key} has {len(levels)} levels; at least {fewest} {'is' if fewest == 1 else 'are'} needed"
        yield from _distinct(key, levels)


def _shape(data: DataConfig) -> Iterator[str]:
    """An example's shape must be filled by the encoded features, to the last one."""
    shape, features, missing = data.features.shape, data.features, data.missing
    if shape is None:
        return
    if not 1 <= len(shape) <= _MOST_AXES or min(shape) < 1:
        yield (
            f"data.features.shape is {list(shape)}; 1 to {_MOST_AXES} axes of at least 1 are needed, such as an image's"
            " [channels, height, width]"
        )
        return
    numbers = len(features.numeric) * (2 if missing.indicator and missing.numeric == "midpoint" else 1)
    count = numbers + sum(len(levels) - features.drop_first for levels in features.categorical.values())
    if math.prod(shape) != count:
        also = "; missing.indicator doubles the numbers, so set data.missing.indicator=false"
        yield (
            f"data.features.shape {list(shape)} holds {math.prod(shape)} values and the features make {count}: declare"
            f" one numeric column a pixel{also if numbers > len(features.numeric) else ''}"
        )


def _columns(data: DataConfig) -> Iterator[str]:
    """Refuse a column in two roles: a target among the features trains a perfect and useless model."""
    roles: dict[str, str] = {}
    pairs = [
        (data.target.column, "data.target.column"),
        (data.site_column, "data.site_column"),
        (data.unit_column, "data.unit_column"),
        *((column, "data.features.numeric") for column in data.features.numeric),
        *((column, "data.features.categorical") for column in data.features.categorical),
    ]
    for column, role in pairs:
        if column is None:
            continue
        if not column.strip():
            yield f"{role} names a column without a name"
        elif column in roles:
            yield f"{role} names column {column!r}, which is {roles[column]} already; a column has one role"
        roles.setdefault(column, role)


def _missing(data: DataConfig) -> Iterator[str]:
    yield from _kind("data.missing.numeric", data.missing.numeric, ("midpoint", "drop_row"))
    declared = {data.target.column, *data.features.numeric, *data.features.categorical}
    declared |= {data.unit_column} if data.unit_column else set()
    for column in data.missing.codes:
        if column not in declared and len(declared) > 1:
            yield f"data.missing.codes names {column!r}, which is no declared column; {suggestion(column, declared)}"


def _split(data: DataConfig) -> Iterator[str]:
    yield from _kind("data.split.kind", data.split.kind, ("keyed_hash", "stratified", "permuted"))
    yield from _kind("data.scaling", data.scaling, ("declared", "site_zscore", "pooled_zscore"))
    if not 0 < data.split.test_fraction < 1:
        yield f"data.split.test_fraction is {data.split.test_fraction}; it must be above 0 and below 1"


def _sites(data: DataConfig) -> Iterator[str]:
    if data.site_column is not None and data.partition is not None:
        yield (
            "data.site_column and data.partition are both set; one is needed: "
            "add data.site_column=null or data.partition=null"
        )
    if data.source.kind == "site":
        yield from _own_sources(data)
    elif data.site_column is None and data.partition is None:
        yield "data.site_column and data.partition are both unset; exactly one of them says what a site is"
    if data.partition is not None:
        yield from _partition(data.partition)
    for site, records in data.records.items():
        if records < 1:
            yield f"data.records.{site} is {records}; it must be at least 1"


def _own_sources(data: DataConfig) -> Iterator[str]:
    """Where each site reads its own source, only ``records`` says what the sites are."""
    for key in ("site_column", "partition"):
        if getattr(data, key) is not None:
            yield f"data.{key} is set, but data.source.kind is site: each site has its own table; set data.{key}=null"
    if not data.records:
        yield (
            "data.records is empty, but data.source.kind is site, and only records name the sites: "
            "set 'data.records={north: 300, south: 200}'"
        )


def _rows_per_unit(data: DataConfig, *, arrays: bool) -> Iterator[str]:
    most = data.max_rows_per_unit
    if most is None:
        return
    if most < 1:
        yield f"data.max_rows_per_unit is {most}; it must be at least 1, or null for all rows of a unit"
    elif data.unit_column is None and not arrays:
        # Arrays bring their units along; no column names them.
        yield (
            f"data.max_rows_per_unit is {most} but data.unit_column is not set, so a row is its own unit; "
            "set data.unit_column=COLUMN, or data.max_rows_per_unit=null"
        )


def _partition(partition: PartitionConfig) -> Iterator[str]:
    yield from _kind("data.partition.kind", partition.kind, ("iid", "dirichlet", "quantity_skew"))
    if partition.sites < 2:
        yield f"data.partition.sites is {partition.sites}; at least 2 are needed"
    if partition.alpha <= 0:
        yield f"data.partition.alpha is {partition.alpha}; it must be above 0"


def _subgroups(data: DataConfig) -> Iterator[str]:
    for column, levels in data.subgroups.items():
        key = f"data.subgroups.{column}"
        if column in (data.target.column, data.site_column, data.unit_column):
            yield f"{key} is the target, site or unit column; subgroups are of other columns"
        if not levels:
            yield f"{key} is empty; list its levels, or cut points of a number such as [50, 65]"
        yield from _distinct(key, levels)
        if column in data.features.numeric:
            texts = [level for level in levels if isinstance(level, str)]
            if texts:
                yield f"{key} holds {shown(texts[0])}; {column} is a number, so list cut points such as [50, 65]"
            elif list(levels) != sorted(levels):
                yield f"{key} has cut points out of order; list them from low to high"


def _ascending(key: str, bounds: Sequence[float]) -> Iterator[str]:
    if len(bounds) == 2 and not bounds[0] < bounds[1]:
        yield f"{key} is [{bounds[0]:g}, {bounds[1]:g}]; the lower bound must be below the upper one"


def _distinct(key: str, values: Sequence[Any]) -> Iterator[str]:
    """Refuse values that a table's text cannot tell apart, and YAML's yes and no, which are no text."""
    if any(isinstance(value, bool) for value in values):
        yield f"{key} holds true or false; write the text of the table in quotes: ['yes', 'no']"
    elif len({str(value) for value in values}) < len(values):
        yield f"{key} lists a value twice"
