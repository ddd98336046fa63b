"""Plain values of a site's file -> the checked `SiteFile`, with every problem noted on the way."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

from fedkit.config.arguments import MODEL_ARGUMENTS, STRATEGY_ARGUMENTS
from fedkit.config.build import Findings, build_data
from fedkit.config.check_data import check_data, check_source
from fedkit.config.compose import compose
from fedkit.config.experiment import DataConfig, SourceConfig
from fedkit.config.locate import NAME, option_files
from fedkit.config.wording import shown, suggestion
from fedkit.data.names import require_site_names
from fedkit.data.table import name_text
from fedkit.errors import DataError
from fedkit.governance.alert_terms import alerts_of
from fedkit.governance.amounts import number_of_bytes
from fedkit.governance.card import CARD_KEYS, card_of, columns_of
from fedkit.governance.consent_terms import consent_of
from fedkit.governance.encryption import encryption_of
from fedkit.governance.policy_checks import POLICY_EXAMPLE, policy_of
from fedkit.governance.reading import Reader
from fedkit.governance.retention import retention_of
from fedkit.governance.terms import Allowed, Limits, SiteData, SiteFile

SOURCE_KINDS = ("builtin", "csv", "parquet", "sql")
_KEYS = ("site", "folder", "data", "limits", "device", "disclose_usage", "allow", "alerts", "encryption", "retention")
_REQUIRED = {
    "declaration": "the name of a shipped declaration, such as heart_disease, or a mapping as in configs/data/",
    "source": "{kind: csv, path: table.csv}",
    "records": "the declared number of units, such as 303",
    "unit": "record or patient",
    "max_epsilon": "what all runs together may spend, such as 3.0",
    "delta": "well below 1 / records, such as 1.0e-5",
    "models": "those that a run may train, such as [logistic]",
    "strategies": "those that a run may use, such as [fedavg]",
    "policy": f"who may run what, such as {POLICY_EXAMPLE}",
}
_OPTIONAL = ("site_column", "unit_column", "allow_unprotected", "consent", *CARD_KEYS)
_IMPORT = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
_SHA256 = re.compile(r"[0-9a-f]{64}")
MOST_EPSILON = 100.0
_MOST_RECORDS = 10**12


def site_file_of(values: Mapping[str, Any], base: Path) -> tuple[SiteFile | None, list[str]]:
    """The checked file and its problems; it is fit for use only if there are none.

    Args:
        base: the folder that relative paths are relative to.
    """
    found = Reader(base)
    top = found.mapping(dict(values), "", _KEYS)
    site = top.get("site")
    if not isinstance(site, str):
        found.add("site", "is not set; name this hospital, such as site: north")
        site = "site"
    try:
        require_site_names([site])
    except DataError as error:
        found.add("site", f"cannot be used: {error.message}")
    site = name_text(site)
    allow = found.mapping(top.get("allow"), "allow", ("models", "sources"))
    models = _allowed(found, allow.get("models"), "allow.models", MODEL_ARGUMENTS)
    sources = _allowed(found, allow.get("sources"), "allow.sources", (*SOURCE_KINDS, "site", "arrays"))
    data = found.mapping(top.get("data"), "data")
    if not data:
        found.add("data", "names no data set; a site offers at least one, such as data: {heart_disease: {...}}")
    datasets = {name: _data(found, site, name, value, models, sources) for name, value in data.items()}
    folder = top.get("folder", ".")
    if not isinstance(folder, str):
        found.add("folder", f"is {shown(folder)}; a folder is needed, such as .")
        folder = "."
    device = top.get("device", "cpu")
    if device not in ("auto", "cpu", "cuda"):
        found.add("device", f"is {shown(device)}; known are auto, cpu, cuda")
    limits = _limits(found, top.get("limits", {}))
    disclose = found.flag(top.get("disclose_usage", False), "disclose_usage")
    alerts, path = alerts_of(found, top.get("alerts")), _absolute(base, folder)
    encryption, retention = encryption_of(found, top.get("encryption"), path), retention_of(found, top.get("retention"))
    if found.problems:
        return None, found.problems
    return SiteFile(site, path, datasets, limits, device, disclose, models, sources, alerts, encryption, retention), []


def allow_table_of(values: Mapping[str, Any], base: Path) -> tuple[dict[str, Allowed], list[str]]:
    """A coordinator's installed models and the problems of their table; it is fit for use only if there are none."""
    found = Reader(base)
    top = found.mapping(dict(values), "", ("models",))
    return _allowed(found, top.get("models"), "models", MODEL_ARGUMENTS), found.problems


def _data(
    found: Reader, site: str, name: str, value: Any, models: Mapping[str, Any], sources: Mapping[str, Any]
) -> SiteData:
    key = f"data.{name}"
    if not NAME.fullmatch(name):
        found.add(key, "cannot be named so; use letters, digits, _ and - only")
    raw = found.mapping(value, key, (*_REQUIRED, *_OPTIONAL))
    # A key of a template that nobody filled in says nothing.
    raw = {part: inner for part, inner in raw.items() if inner is not None or part in _OPTIONAL}
    if missing := [part for part in _REQUIRED if part not in raw]:
        for part in missing:
            found.add(f"{key}.{part}", f"is not set; give {_REQUIRED[part]}")

    def given(part: str, default: Any) -> Any:
        return raw.get(part, default)  # its absence was noted above

    records = int(found.number(given("records", 1), f"{key}.records", 1, _MOST_RECORDS, "303"))
    if isinstance(raw.get("records"), float):
        found.add(f"{key}.records", f"is {raw['records']}; a whole number is needed, such as {records}")
    delta = found.number(given("delta", 1e-11), f"{key}.delta", 1e-11, 0.5, "1.0e-5")
    if records * delta >= 1:
        found.add(f"{key}.delta", f"is {delta:g}; it must be below 1 / {records}, such as {0.1 / records:.0e}")
    unit_column = found.column(raw.get("unit_column"), f"{key}.unit_column")
    unit: Literal["record", "patient"] = "patient" if unit_column else "record"
    if given("unit", unit) not in ("record", "patient"):
        found.add(f"{key}.unit", f"is {shown(raw['unit'])}; known are record, patient")
    elif given("unit", unit) != unit:
        then = "set unit_column to the column of their ids" if unit == "record" else "leave unit_column out"
        found.add(f"{key}.unit", f"is {raw['unit']} but unit_column is {unit_column or 'not set'}; {then}")
    declaration = _declaration(found, site, name, raw, records, sources)
    max_epsilon = found.number(given("max_epsilon", 1.0), f"{key}.max_epsilon", 1e-4, MOST_EPSILON, "3.0")
    return SiteData(
        declaration=declaration,
        records=records,
        unit=unit,
        max_epsilon=max_epsilon,
        delta=delta,
        models=found.names(given("models", ["mlp"]), f"{key}.models", {*MODEL_ARGUMENTS, *models}),
        strategies=found.names(given("strategies", ["fedavg"]), f"{key}.strategies", STRATEGY_ARGUMENTS),
        policy=policy_of(found, raw.get("policy"), f"{key}.policy", max_epsilon, absent="policy" not in raw),
        allow_unprotected=found.flag(raw.get("allow_unprotected", False), f"{key}.allow_unprotected"),
        consent=consent_of(found, f"{key}.consent", raw, sources, lambda at, said: _source(found, at, said, {})),
        card=card_of(found, raw, key, columns_of(declaration)),
    )


def _declaration(
    found: Reader, site: str, name: str, raw: Mapping[str, Any], records: int, sources: Mapping[str, Any]
) -> DataConfig:
    key = f"data.{name}"
    said = raw.get("declaration")
    if isinstance(said, str):
        known = option_files("data", None)
        if said not in known:
            found.add(f"{key}.declaration", f"is {shown(said)}, which is not shipped; {suggestion(said, known)}")
        shared = _shipped(said if said in known else "heart_disease")
    else:
        shared = _own_declaration(found, key, name, said)
    source = _source(found, f"{key}.source", raw.get("source"), sources)
    site_column = found.column(raw.get("site_column"), f"{key}.site_column")
    unit_column = raw.get("unit_column") if isinstance(raw.get("unit_column"), str) else None
    codes = {**shared.missing.codes}
    if (of_units := codes.pop(shared.unit_column or "", None)) and unit_column:
        codes[unit_column] = of_units
    data = replace(
        shared, name=name, source=SourceConfig("site"), site_column=None, partition=None, records={site: records},
        unit_column=unit_column, missing=replace(shared.missing, codes=codes),
    )  # fmt: skip
    if "declaration" in raw and not any(problem.startswith(f"{key}.declaration") for problem in found.problems):
        found.problems += [_prefixed(problem, f"{key}.declaration") for problem in check_data(data)]
    roles = (data.target.column, unit_column, *data.features.numeric, *data.features.categorical)
    if site_column is not None and site_column in roles:
        found.add(f"{key}.site_column", f"names {site_column!r}, which has another role already")
    return replace(data, source=source, site_column=site_column)


@cache
def _shipped(name: str) -> DataConfig:
    """A declaration that comes with fedkit: a rehearsal of hundreds of sites reads hundreds of files that name one."""
    return compose(overrides=[f"data={name}", "privacy=none"]).data


def _own_declaration(found: Reader, key: str, name: str, said: Any) -> DataConfig:
    problems = Findings()
    values = {**said} if isinstance(said, dict) else {}
    if said is not None and not isinstance(said, dict):
        found.add(f"{key}.declaration", f"is {shown(said)}; {_REQUIRED['declaration']} is needed")
    values = {"description": "", **values, "name": name, "source": {"kind": "site"}}
    shared = build_data(values, problems)
    if isinstance(said, dict):
        found.problems += [_prefixed(problem, f"{key}.declaration") for problem in problems.problems]
    return shared


def _source(found: Reader, key: str, value: Any, sources: Mapping[str, Any]) -> SourceConfig:
    names = [part.name for part in fields(SourceConfig)]
    raw = found.mapping(value, key, names)
    kind = raw.get("kind")
    if value is not None and not (isinstance(kind, str) and kind in (*SOURCE_KINDS, *sources)):
        found.add(f"{key}.kind", f"is {shown(kind)}; {suggestion(str(kind), (*SOURCE_KINDS, *sources))}")
        kind = None
    if kind in sources:
        for extra in raw.keys() - {"kind"}:
            found.add(f"{key}.{extra}", f"is set, but {kind} reads what it was installed to read; leave it out")
        return SourceConfig(str(kind))
    if kind not in SOURCE_KINDS:
        return SourceConfig("csv")
    good: dict[str, Any] = {}
    for name, inner in raw.items():
        if name not in names:
            continue
        if inner is not None and not isinstance(inner, str):
            found.add(f"{key}.{name}", f"is {shown(inner)}; text is needed")
        elif inner is not None or name not in ("delimiter", "encoding"):
            good[name] = inner
    for name in ("path", "url_file"):
        if good.get(name) and kind != "builtin":
            good[name] = str(_absolute(found.base, str(good[name])))
    source = SourceConfig(**good)
    found.problems += [_prefixed(problem, key, "data.source") for problem in check_source(source)]
    return source


def _limits(found: Reader, value: Any) -> Limits:
    if value is None:
        found.add("limits", "is blank; give {cpus: 2, memory: 4GiB}, for instance, or leave the key out")
    raw = found.mapping(value, "limits", ("cpus", "memory", "disk", "bandwidth"))
    sizes: dict[str, int | None] = {}
    for name, example in (("memory", "2GiB"), ("disk", "5GiB"), ("bandwidth", "10MiB/s")):
        said = raw.get(name)
        text = said.removesuffix("/s") if name == "bandwidth" and isinstance(said, str) else said
        sizes[name] = number_of_bytes(text)
        # Left blank it would be no limit at all, which whoever wrote the key did not mean.
        if name in raw and sizes[name] is None:
            found.add(f"limits.{name}", f"is {shown(said)}; a size is needed, such as {example}")
    cpus = found.number(raw["cpus"], "limits.cpus", 0.01, 4096, "2") if "cpus" in raw else None
    return Limits(cpus, **sizes)


def _allowed(found: Reader, value: Any, key: str, ours: Any) -> dict[str, Allowed]:
    allowed = {}
    for name, entry in found.mapping(value, key).items():
        if not NAME.fullmatch(name) or name in ours or name == "python":
            found.add(f"{key}.{name}", "cannot be named so; use letters, digits, _ and -, and no name of fedkit's own")
        raw = found.mapping(entry, f"{key}.{name}", ("import", "sha256"))
        path, digest = str(raw.get("import")), str(raw.get("sha256"))
        if not _IMPORT.fullmatch(path):
            found.add(f"{key}.{name}.import", f"is {shown(raw.get('import'))}; write package.module:function")
        if not _SHA256.fullmatch(digest):
            found.add(
                f"{key}.{name}.sha256",
                "is not 64 hex digits; `fedkit client hash`, or `fedkit server hash`, prints those of a package",
            )
        allowed[name] = Allowed(path, digest)
    return allowed


def _prefixed(problem: str, key: str, instead: str = "data") -> str:
    return key + problem.removeprefix(instead) if problem.startswith(f"{instead}.") else f"{key}: {problem}"


def _absolute(base: Path, value: str) -> Path:
    return Path(base, Path(value).expanduser())
