"""A study agreement's plain values, from a person's YAML file or from a signed text -> the checked `Agreement`.

::

    FK122  a file that cannot be read, or anything wrong in it, all of it at once
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date, datetime
from pathlib import Path
from typing import Any, Literal

from fedkit.config.arguments import STRATEGY_ARGUMENTS
from fedkit.config.check import is_purpose
from fedkit.config.wording import shown
from fedkit.data.names import require_site_names
from fedkit.data.table import name_text
from fedkit.errors import ConfigError, DataError, PrivacyError
from fedkit.governance.agreement import Agreement, StudyData
from fedkit.governance.reading import Reader
from fedkit.governance.site_file import load_mapping
from fedkit.governance.terms import NO_STUDY
from fedkit.privacy.rdp_filter import best_order
from fedkit.storage.keys import fingerprint, is_fingerprint

CODE = "FK122"
MOST_PARTIES = 500
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_REQUIRED = {
    "study": "the study's name, such as heart-2026",
    "version": "1, and a higher one for each later text",
    "purpose": "what its runs must say that they are for, such as heart-disease-research",
    "begin": "the first day, such as 2026-01-01",
    "end": "the last day, such as 2026-12-31",
    "parties": "each site with the fingerprint of its key, as `fedkit server sites` lists it: {north: sha256:...}",
    "data": "each data set with its bounds: {heart_disease: {...}}",
    "retention_days": "for how long the coordinator keeps its copies after a run, such as 365",
    "contacts": "who answers for it, such as [data protection officer dpo@example.org]",
}
_DATA = {
    "unit": "record or patient",
    "max_epsilon": "what all runs of the study together may cost each site, such as 3.0",
    "delta": "the most of a run, such as 1.0e-5",
    "models": "those that a run may train, such as [logistic]",
    "strategies": "those that a run may use, such as [fedavg]",
    "max_rounds": "the most rounds of a run, such as 100",
}
_DATA_OPTIONAL = ("max_epsilon_per_run", "allow_unprotected")
# Below it, the share of delta that pays for what runs cost beside their noise pays for few of them.
_LEAST_DELTA = 1e-9
_MOST_TEXT = 2000
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


def read_agreement_file(
    path: Path | str, keys: Mapping[str, str] | None = None, *, any_keys: bool = False
) -> Agreement:
    """Read and check the file that a person has written.

    Args:
        keys: enrolled sites to their keys' fingerprints, from which a list of parties takes them and which a mapping
            may not contradict; None leaves both alone.
        any_keys: where nobody signs, a list of parties gets keys that nobody has.

    Raises:
        ConfigError: FK122, every problem at once, with the key and an example.
    """
    path = Path(path).absolute()
    try:
        values = load_mapping(path, "write one as in docs/governance.md", "study: NAME")
    except ConfigError as error:
        raise ConfigError(error.problems, code=CODE) from None
    parties = values.get("parties")
    if any_keys and isinstance(parties, list):
        values = {**values, "parties": {str(each): fingerprint(str(each).encode()) for each in parties}}
    listed, unknown = _enrolled(values, keys)
    agreement, problems = agreement_of(listed)
    problems = [*unknown, *problems]
    if problems or agreement is None:
        raise ConfigError([f"{path.name}: {problem}" for problem in dict.fromkeys(problems)], code=CODE)
    return agreement


def agreement_of(values: Mapping[str, Any]) -> tuple[Agreement | None, list[str]]:
    """The checked terms and their problems; None if there are any."""
    found = Reader(Path())
    raw = _given(found, dict(values), "", _REQUIRED, ("description",))
    begin, end = (_day(found, raw, key) for key in ("begin", "end"))
    if begin and end and begin > end:
        found.add("end", f"is {end}, before begin, {begin}; name the last day on which runs are taken")
    study = _text(found, raw, "study", "heart-2026")
    if study and (not NAME.fullmatch(study) or study == NO_STUDY):
        found.add("study", f"is {shown(study)}; use 1 to 100 letters, digits, . _ and -, and not {NO_STUDY!r}")
    purpose = _text(found, raw, "purpose", "heart-disease-research")
    if purpose and not is_purpose(purpose):
        found.add("purpose", f"is {shown(purpose)}; write such as heart-disease-research")
    description = raw.get("description", "")
    if not isinstance(description, str) or len(description) > _MOST_TEXT or not _readable(description):
        found.add("description", f"is {shown(description)}; up to {_MOST_TEXT:,} readable characters are taken")
    parties, data = _parties(found, raw), _datasets(found, raw)
    contacts = found.texts(raw["contacts"], "contacts", _is_line, "dpo@example.org") if "contacts" in raw else ()
    version = found.whole(raw["version"], "version", 1, 10**6, "1") if "version" in raw else 1
    days = found.whole(raw["retention_days"], "retention_days", 0, 36_500, "365") if "retention_days" in raw else 0
    if found.problems or begin is None or end is None:
        return None, found.problems
    return Agreement(study, version, purpose, begin, end, parties, data, days, contacts, str(description)), []


def _enrolled(values: Mapping[str, Any], keys: Mapping[str, str] | None) -> tuple[Mapping[str, Any], list[str]]:
    parties = values.get("parties")
    if keys is None or not isinstance(parties, (list, dict)):
        return values, []
    # A name that is none is noted with the other problems of parties.
    said = parties if isinstance(parties, dict) else {str(each): keys.get(str(each)) for each in parties}
    known = ", ".join(keys) or "none"
    problems = [
        f"parties names {shown(site)}, which is not enrolled; enrolled are {known}" for site in said if site not in keys
    ]
    problems += [
        f"parties.{site} is {shown(key)}, and it is enrolled with {keys[site]}"
        for site, key in said.items()
        if site in keys and key != keys[site]
    ]
    return {**values, "parties": said}, problems


def _given(found: Reader, value: Any, key: str, required: Mapping[str, str], optional: Any) -> dict[str, Any]:
    raw = found.mapping(value, key, (*required, *optional))
    where = f"{key}." if key else ""
    for part, example in required.items():
        if raw.get(part) is None:
            found.add(f"{where}{part}", f"is not set; give {example}")
    return {part: inner for part, inner in raw.items() if inner is not None}


def _text(found: Reader, raw: Mapping[str, Any], key: str, example: str) -> str:
    value: Any = raw.get(key, "")
    if not isinstance(value, str):
        found.add(key, f"is {shown(value)}; text is needed, such as {example}")
        return ""
    if not value and key in raw:
        found.add(key, f"is empty; write such as {example}")
    return str(value)


def _day(found: Reader, raw: Mapping[str, Any], key: str) -> date | None:
    value = raw.get(key)
    if isinstance(value, date) and not isinstance(value, datetime):
        return value
    if isinstance(value, str) and _DAY.fullmatch(value):
        try:
            return date.fromisoformat(value)
        except ValueError:
            pass
    if value is not None:
        found.add(key, f"is {shown(value)}; a day is needed, such as 2026-01-31")
    return None


def _parties(found: Reader, raw: Mapping[str, Any]) -> dict[str, str]:
    given = found.mapping(raw.get("parties"), "parties")
    if "parties" in raw and not 1 <= len(given) <= MOST_PARTIES:
        found.add("parties", f"names {len(given)} sites; 1 to {MOST_PARTIES} are needed")
    for site, key in given.items():
        try:
            require_site_names([site])
        except DataError as error:
            found.add(f"parties.{shown(site)}", f"cannot be used: {error.message}")
        if name_text(site) != site:
            found.add(f"parties.{shown(site)}", f"is written {name_text(site)!r} elsewhere; write it so")
        if not is_fingerprint(key):
            found.add(
                f"parties.{shown(site)}", f"is {shown(key)}; the fingerprint of the site's key, sha256:..., is needed"
            )
    keys = [key for key in given.values() if isinstance(key, str)]
    for key in sorted({key for key in keys if keys.count(key) > 1}):
        found.add("parties", f"has the key {shown(key)} twice; each site signs with a key of its own")
    return {site: str(key) for site, key in given.items()}


def _datasets(found: Reader, raw: Mapping[str, Any]) -> dict[str, StudyData]:
    given = found.mapping(raw.get("data"), "data")
    if "data" in raw and not 1 <= len(given) <= 100:
        found.add("data", f"names {len(given)} data sets; 1 to 100 are needed")
    for name in given:
        if not NAME.fullmatch(name):
            found.add(f"data.{shown(name)}", "cannot be named so; use letters, digits, . _ and -")
    return {name: _data(found, f"data.{name}", value) for name, value in given.items()}


def _data(found: Reader, key: str, value: Any) -> StudyData:
    raw = _given(found, value, key, _DATA, _DATA_OPTIONAL)
    if not isinstance(value, dict):
        found.add(key, f"is {shown(value)}; its bounds are needed")
    before = len(found.problems)
    limit = found.number(raw.get("max_epsilon", 1.0), f"{key}.max_epsilon", 1e-4, 100.0, "3.0")
    delta = found.number(raw.get("delta", 1e-5), f"{key}.delta", _LEAST_DELTA, 0.1, "1.0e-5")
    if len(found.problems) == before:
        try:
            best_order(limit, delta)
        except PrivacyError as error:
            found.add(f"{key}.max_epsilon", f"cannot be enforced: {error.message}")
    unit: Literal["record", "patient"] = "record"
    if "unit" in raw and found.choice(raw["unit"], f"{key}.unit", ("record", "patient")) == "patient":
        unit = "patient"
    each, models, strategies = raw.get("max_epsilon_per_run"), raw.get("models"), raw.get("strategies")
    rounds = found.whole(raw["max_rounds"], f"{key}.max_rounds", 1, 100_000, "100") if "max_rounds" in raw else 1
    known = STRATEGY_ARGUMENTS
    return StudyData(
        unit=unit,
        max_epsilon=limit,
        delta=delta,
        models=() if models is None else found.texts(models, f"{key}.models", _is_name, "logistic"),
        strategies=() if strategies is None else found.names(strategies, f"{key}.strategies", known),
        max_rounds=rounds,
        max_epsilon_per_run=_per_run(found, each, f"{key}.max_epsilon_per_run", limit),
        allow_unprotected=found.flag(raw.get("allow_unprotected", False), f"{key}.allow_unprotected"),
    )


def _per_run(found: Reader, value: Any, key: str, limit: float) -> float | None:
    return None if value is None else found.number(value, key, 1e-4, limit, f"{limit:g}")


def _is_name(text: str) -> bool:
    return NAME.fullmatch(text) is not None


def _is_line(text: str) -> bool:
    return 0 < len(text) <= 200 and text.isprintable() and "${" not in text


def _readable(text: str) -> bool:
    return all(line.isprintable() for line in text.split("\n")) and "${" not in text
