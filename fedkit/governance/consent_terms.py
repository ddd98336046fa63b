"""The ``consent`` of a data set in a site's file: its plain values to the checked `ConsentTerms`, problems noted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from fedkit.config.experiment import SourceConfig
from fedkit.config.wording import shown
from fedkit.data.consent import ColumnRule, Register
from fedkit.governance.terms import ConsentTerms

if TYPE_CHECKING:
    from fedkit.governance.reading import Reader

_KEYS = ("column", "register", "unit")
_REGISTER = {
    "source": "{kind: csv, path: consent.csv}",
    "unit": "the column of the units' ids",
    "purpose": "the column of the purposes",
    "from": "the column of the first days",
    "until": "the column of the days on which consents end, which may be empty",
}
_FURTHER = {part: example for part, example in _REGISTER.items() if part in ("purpose", "from", "until")}
"""What a column of the records may have beside it, each in a column of its own."""
_FILES = ("csv", "parquet", "sql")


def consent_of(
    found: Reader,
    key: str,
    raw: Mapping[str, Any],
    sources: Mapping[str, Any],
    source_of: Callable[[str, Any], SourceConfig],
) -> ConsentTerms | None:
    """What a data set's ``consent`` says; None where there is no such key.

    Args:
        raw: the whole data set, whose source and unit column decide whether it can be filtered.
        sources: the site's installed sources, which cannot be.
        source_of: reads the source of a register, as that of the records is read.
    """
    if "consent" not in raw:
        return None
    value, unit_column = raw["consent"], raw.get("unit_column")
    given = found.mapping(value, key, _KEYS)
    if value is None or not any(given.get(part) is not None for part in _KEYS):
        found.add(
            key, 'says nothing; give column: {name: research_consent, values: ["yes"]}, a register, or leave it out'
        )
    source = raw.get("source")
    if isinstance(source, dict) and str(source.get("kind")) in sources:
        found.add(key, f"is set, but nobody can filter the installed source {source['kind']}; use {', '.join(_FILES)}")
    unit = found.column(given.get("unit"), f"{key}.unit")
    if unit is not None and unit_column is not None:
        found.add(f"{key}.unit", f"is set, but unit_column {shown(unit_column)} names the ids already; leave it out")
    for part in given.keys() & set(_KEYS):
        # Left blank it would let everybody in, which whoever wrote the key did not mean.
        if given[part] is None or (part != "unit" and not isinstance(given[part], dict)):
            found.add(f"{key}.{part}", f"is {shown(given[part])}; say what it is, or leave the key out")
    register = _register(found, f"{key}.register", given["register"], source_of) if "register" in given else None
    if register is not None and unit is None and unit_column is None:
        found.add(f"{key}.register", f"names units by an id, and no column of the records does; set {key}.unit")
    return ConsentTerms(_column(found, f"{key}.column", given.get("column")), register, unit)


def _column(found: Reader, key: str, value: Any) -> ColumnRule | None:
    if value is None:
        return None
    raw = found.mapping(value, key, ("name", "values", *_FURTHER))
    name, values = raw.get("name"), raw.get("values")
    if not isinstance(name, str) or not name.strip():
        found.add(f"{key}.name", f"is {shown(name)}; the name of a column is needed")
    texts = values if isinstance(values, list) else []
    if not texts or not all(isinstance(each, str) and each.strip() for each in texts):
        found.add(f"{key}.values", f'is {shown(values)}; a list of texts in quotes is needed, such as ["yes"]')
    further: list[str | None] = []
    for part, says in _FURTHER.items():
        if part in raw and raw[part] is None:
            # Left blank it would let in whom that column leaves out.
            found.add(f"{key}.{part}", f"is not set; give {says}, or leave the key out")
        further.append(found.column(raw.get(part), f"{key}.{part}"))
    return ColumnRule(str(name), tuple(map(str, texts)), *further)


def _register(found: Reader, key: str, value: Any, source_of: Callable[[str, Any], SourceConfig]) -> Register:
    raw = found.mapping(value, key, tuple(_REGISTER))
    columns = []
    for part, example in _REGISTER.items():
        if raw.get(part) is None:
            found.add(f"{key}.{part}", f"is not set; give {example}")
        elif part != "source":
            found.column(raw[part], f"{key}.{part}")
        columns.append(str(raw.get(part)))
    source = source_of(f"{key}.source", raw["source"]) if raw.get("source") is not None else SourceConfig("csv")
    if raw.get("source") is not None and source.kind not in _FILES:
        found.add(f"{key}.source.kind", f"is {shown(source.kind)}; a register is {', '.join(_FILES)}")
    return Register(source, *columns[1:])
