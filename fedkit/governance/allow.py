"""Installed functions: named by an entry of a site's or coordinator's own file, run only if their package is the one
that it wrote down.

What they import beyond their own package is not looked at.

::

    FK563  a model whose package is absent, another one, or holds no such function
    FK560  the same of a data source
    FK591  a data source that cannot leave out those who have not consented
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fedkit.config.experiment import DataConfig
from fedkit.data.consent import ConsentFilter
from fedkit.data.consented import Consented, read_consented, with_ids
from fedkit.data.declared import check_columns, declared_columns, require_rows
from fedkit.data.source import read_table
from fedkit.data.table import Table, column_of
from fedkit.errors import DataError, FederationError
from fedkit.governance.terms import Allowed, SiteFile

if TYPE_CHECKING:
    from torch import nn

_CACHE = "__pycache__"


def package_hash(path: str) -> str:
    """SHA-256 over the files of an installed package, hex, without running any of it.

    Args:
        path: ``package.module:function``; what counts is the package on top, all its files but Python's caches.

    Raises:
        FederationError: FK563, no such package, one in several places, or one with links, which lead elsewhere.

    >>> len(package_hash("colorsys:rgb_to_hls"))
    64
    """
    top = path.partition(":")[0].partition(".")[0]
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        spec = None
    if spec is None:
        raise _refused(f"there is no package {top} in this installation", f"install {top}, or leave it out of allow")
    if spec.submodule_search_locations is None:
        files = [("", Path(spec.origin or ""))]
    else:
        places = list(spec.submodule_search_locations)
        if len(places) != 1:
            raise _refused(f"the package {top} lies in {len(places)} places", "install it in one")
        files = list(_files(Path(places[0]), top))
    found = hashlib.sha256(b"fedkit-package-1\n")
    for name, file in files:
        try:
            content = file.read_bytes()
        except OSError as error:
            raise _refused(f"the package {top} cannot be read ({error.strerror})", "install it again") from None
        data = name.encode()
        found.update(len(data).to_bytes(8, "little") + data + len(content).to_bytes(8, "little") + content)
    return found.hexdigest()


def allowed_function(entry: Allowed, what: str, *, code: str = "FK563") -> Callable[..., Any]:
    """The installed function behind an entry of a site's or a coordinator's own file.

    Args:
        what: how messages call it, such as ``model our_model``.

    Raises:
        FederationError: ``code``, another package than the one that the site wrote down, or no such function.

    Guarantee: no line of the package runs unless its files are those that were hashed; caches of compiled code, which
    are not hashed, are not read.
    """
    module_name, _, name = entry.path.partition(":")
    try:
        found = package_hash(entry.path)
    except FederationError as error:
        raise FederationError(f"{what}: {error.message}", code=code, remedy=error.remedy) from None
    if found != entry.sha256:
        raise FederationError(
            f"{what}: the package of {module_name} has the hash {found[:12]}..., and the allow table names"
            f" {entry.sha256[:12]}...",
            code=code,
            remedy=f"read what changed; then write sha256: {found}",
        )
    with _no_caches():
        try:
            function = getattr(importlib.import_module(module_name), name, None)
        except Exception as error:
            raise FederationError(
                f"{what}: {module_name} cannot be imported ({type(error).__name__}: {error})", code=code
            ) from error
    if not callable(function):
        raise FederationError(f"{what}: {module_name} has no function {name}", code=code, remedy="correct import")
    result: Callable[..., Any] = function
    return result


def check_packages(entries: Mapping[str, Allowed], *, code: str = "FK563") -> None:
    """Refuse an entry whose package is not the one that was written down; none of it is run.

    Raises:
        FederationError: ``code``.
    """
    for name, entry in entries.items():
        try:
            found = package_hash(entry.path)
        except FederationError as error:
            raise FederationError(f"allow: {name}: {error.message}", code=code, remedy=error.remedy) from None
        if found != entry.sha256:
            raise FederationError(
                f"allow: the package of {name} has the hash {found}, and the file names {entry.sha256}",
                code=code,
                remedy=f"read what changed; then write sha256: {found}",
            )


def allowed_models(entries: Mapping[str, Allowed], name: str) -> dict[str, Callable[..., nn.Module]]:
    """The installed model of a name, as `fedkit.training.model.declared_model` takes it; empty for one of ours.

    Raises:
        FederationError: FK563.
    """
    return {name: allowed_function(entries[name], f"model {name}")} if name in entries else {}


def reader(site_file: SiteFile, data: DataConfig) -> Callable[[DataConfig], Table]:
    """What reads a site's table: fedkit itself, or the installed function that the source names.

    Such a function is called as ``function(columns)`` with the declared columns' names and returns each column's name
    with its values, all of one length, None where one is missing.

    Raises:
        FederationError: FK560, the function is not the one that the site allowed.
    """
    kind = data.source.kind
    if kind not in site_file.sources:
        return read_table
    function = allowed_function(site_file.sources[kind], f"source {kind}", code="FK560")
    return lambda config: _table(config, kind, function(declared_columns(config)))


def consented_reader(
    site_file: SiteFile, data: DataConfig, where: ConsentFilter | None
) -> Callable[[DataConfig], Consented]:
    """As `reader`, for the rows that a filter lets in.

    Raises:
        FederationError: FK560 as `reader`; FK591, an installed function cannot be filtered.
    """
    kind = data.source.kind
    if kind not in site_file.sources:
        return partial(read_consented, where=where)
    if where is not None:
        raise FederationError(
            f"the installed source {kind} reads every row, and some may not be read",
            code="FK591",
            remedy="give the records as csv, parquet or sql, or take those rows out of what it reads",
        )
    read = reader(site_file, data)
    return lambda config: with_ids(config, read(config), None)


def _table(config: DataConfig, kind: str, given: Any) -> Table:
    if not isinstance(given, Mapping):
        raise DataError(
            f"source {kind} returned {type(given).__name__}", code="FK207", remedy="return a mapping of columns"
        )
    check_columns(config, map(str, given), f"source {kind}")
    columns = {name: column_of(given[name]) for name in declared_columns(config)}
    lengths = {len(column.codes) for column in columns.values()}
    if len(lengths) > 1:
        raise DataError(f"source {kind} returned columns of different lengths", code="FK207", remedy="correct it")
    rows = lengths.pop()
    require_rows(rows, f"source {kind}")
    return Table(columns, np.arange(rows), lambda record: f"row {record + 1}")


def _files(root: Path, top: str) -> Iterator[tuple[str, Path]]:
    found = []
    for folder, inner, names in os.walk(root):
        if links := [name for name in (*inner, *names) if Path(folder, name).is_symlink()]:
            raise _refused(f"the package {top} holds the link {links[0]}, which leads elsewhere", "install it as files")
        inner[:] = [name for name in inner if name != _CACHE]
        found += [Path(folder, name) for name in names]
    for path in sorted(found, key=lambda path: path.relative_to(root).as_posix()):
        yield path.relative_to(root).as_posix(), path


@contextmanager
def _no_caches() -> Iterator[None]:
    before = sys.pycache_prefix
    with tempfile.TemporaryDirectory() as empty:
        sys.pycache_prefix = empty
        try:
            yield
        finally:
            sys.pycache_prefix = before


def _refused(why: str, remedy: str) -> FederationError:
    return FederationError(why, code="FK563", remedy=remedy)
