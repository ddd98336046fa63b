"""The ``policy`` of a data set in a site's file: its plain values -> the checked `Policy`; what is absent is no yes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal
from zoneinfo import ZoneInfo

from fedkit.config.check import is_purpose
from fedkit.config.locate import NAME
from fedkit.config.wording import shown
from fedkit.governance.reading import Reader
from fedkit.governance.terms import DAYS, RELEASES, Hours, Policy, Submitter

POLICY_EXAMPLE = (
    "{purposes: [heart-disease-research], studies: [none], submitters: any, release: [updates, private_metrics],"
    " approval: automatic, max_rounds: 100}"
)
_REQUIRED = {
    "purposes": "what a run must say that it is for, such as [heart-disease-research]",
    "studies": "those whose runs are taken, such as [none], which are runs that belong to no study",
    "submitters": "any, or the users whose runs are taken, such as [ana]",
    "release": "what may leave, such as [updates, private_metrics]",
    "approval": "automatic, or manual: a person approves each run",
    "max_rounds": "the most rounds of a run, such as 100",
}
_HOURS = ("days", "from", "to", "timezone")
DISCLOSED = (
    "purposes", "studies", "release", "approval", "max_rounds", "max_epsilon_per_run", "min_records",
    "min_other_sites", "hours",
)  # fmt: skip
"""What an offer tells of the policy unless the file says otherwise: all but whom the site trusts."""
DISCLOSABLE = (*DISCLOSED, "submitters")
_OPTIONAL = {
    "max_epsilon_per_run": "such as 3.0",
    "min_records": "such as 100",
    "min_other_sites": "such as 1",
    "hours": 'such as {days: [mon, fri], from: "07:00", to: "19:00", timezone: Europe/Berlin}',
    "disclose": "what an offer tells of the policy, such as [purposes, release], or [] for nothing",
}
_MOST_ROUNDS = 100_000
_MOST_SITES = 10_000
_MOST_RECORDS = 10**12
_STUDY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_PINNED = re.compile(r"(?P<name>[^=]+)=(?P<key>sha256:[0-9a-f]{64})")
_TIME = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])|24:00")
_ZONE = re.compile(r"[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+)*")


def policy_of(found: Reader, value: Any, key: str, max_epsilon: float, *, absent: bool) -> Policy:
    """The policy, as far as it goes; it is fit for use only if no problem was noted.

    Args:
        max_epsilon: of the data set, which no single run may exceed.
        absent: there is none, which was noted already.
    """
    raw = found.mapping(value, key, (*_REQUIRED, *_OPTIONAL))
    for part, example in _REQUIRED.items():
        if raw.get(part) is None and not absent:
            found.add(f"{key}.{part}", f"is not set; give {example}")
    for part, example in _OPTIONAL.items():
        # Left blank it would be no bound at all, which whoever wrote the key did not mean.
        if part in raw and raw[part] is None:
            found.add(f"{key}.{part}", f"is blank; give it, {example}, or leave the key out")
    given = {part: inner for part, inner in raw.items() if inner is not None}
    approval: Literal["automatic", "manual"] = "automatic"
    if "approval" in given and found.choice(given["approval"], f"{key}.approval", ("automatic", "manual")) == "manual":
        approval = "manual"
    return Policy(
        purposes=_texts(found, given, key, "purposes", is_purpose, "heart-disease-research"),
        studies=_texts(found, given, key, "studies", lambda text: bool(_STUDY.fullmatch(text)), "none"),
        submitters=_submitters(found, given, f"{key}.submitters"),
        release=_release(found, given, f"{key}.release"),
        approval=approval,
        max_rounds=_whole(found, given, key, "max_rounds", 1, _MOST_ROUNDS, "100"),
        max_epsilon_per_run=_per_run(found, given, f"{key}.max_epsilon_per_run", max_epsilon),
        min_records=_whole(found, given, key, "min_records", 1, _MOST_RECORDS, "100"),
        min_other_sites=_whole(found, given, key, "min_other_sites", 0, _MOST_SITES, "1"),
        hours=_hours(found, given["hours"], f"{key}.hours") if "hours" in given else None,
        disclose=_disclose(found, given, f"{key}.disclose"),
    )


def _texts(found: Reader, given: Mapping[str, Any], key: str, part: str, good: Any, example: str) -> tuple[str, ...]:
    return found.texts(given[part], f"{key}.{part}", good, example) if part in given else ()


def _whole(found: Reader, given: Mapping[str, Any], key: str, part: str, least: int, most: int, example: str) -> int:
    return found.whole(given[part], f"{key}.{part}", least, most, example) if part in given else least


def _submitters(found: Reader, given: Mapping[str, Any], key: str) -> tuple[Submitter, ...] | None:
    value = given.get("submitters", [])
    if value == "any":
        return None
    if "submitters" not in given:
        return ()
    example = "ana, or ana=sha256:... with the fingerprint of a signing key"
    entries = found.texts(value, key, lambda text: _submitter(text) is not None, example)
    read = [one for one in map(_submitter, entries) if one is not None]
    if "any" in entries:
        found.add(key, "holds 'any', which is no user's name here; write submitters: any, without brackets")
    pinned = {one.name for one in read if one.key is not None}
    for name in sorted(pinned & {one.name for one in read if one.key is None}):
        found.add(key, f"names {name} with a key and without one; leave out {name} alone, which admits every key")
    return tuple(read)


def _submitter(text: str) -> Submitter | None:
    pinned = _PINNED.fullmatch(text)
    name, key = (pinned["name"], pinned["key"]) if pinned else (text, None)
    return Submitter(name, key) if NAME.fullmatch(name) and len(name) <= 64 else None


def _release(found: Reader, given: Mapping[str, Any], key: str) -> tuple[str, ...]:
    return found.names(given["release"], key, RELEASES) if "release" in given else ()


def _disclose(found: Reader, given: Mapping[str, Any], key: str) -> tuple[str, ...]:
    if "disclose" not in given:
        return DISCLOSED
    # A list of nothing is what a site means that tells nothing.
    return found.names(given["disclose"], key, DISCLOSABLE) if given["disclose"] != [] else ()


def _per_run(found: Reader, given: Mapping[str, Any], key: str, max_epsilon: float) -> float | None:
    if "max_epsilon_per_run" not in given:
        return None
    return found.number(given["max_epsilon_per_run"], key, 1e-4, max_epsilon, f"{max_epsilon:g}")


def _hours(found: Reader, value: Any, key: str) -> Hours:
    raw = found.mapping(value, key, _HOURS)
    if isinstance(value, dict):
        for part in _HOURS:
            if raw.get(part) is None:
                found.add(f"{key}.{part}", f"is not set; hours are {_OPTIONAL['hours']}")
    days: tuple[str, ...] = ()
    if raw.get("days") is not None:
        days = found.names(raw["days"], f"{key}.days", DAYS)
    begin, end = _minutes(found, raw, key, "from", "07:00"), _minutes(found, raw, key, "to", "19:00")
    if begin is not None and begin == end:
        found.add(key, f"begin and end at {raw['from']!r}; leave hours out to take messages at any time")
    if begin == 1440:
        found.add(f"{key}.from", "is '24:00'; write 00:00 of the next day")
    zone = raw.get("timezone")
    if zone is not None and not _known(zone):
        found.add(f"{key}.timezone", f"is {shown(zone)}; the name of a time zone is needed, such as Europe/Berlin")
    numbers = tuple(sorted(DAYS.index(day) for day in days if day in DAYS))
    return Hours(numbers, begin or 0, end or 0, zone if isinstance(zone, str) else "UTC")


def _minutes(found: Reader, raw: Mapping[str, Any], key: str, part: str, example: str) -> int | None:
    value = raw.get(part)
    if value is None:
        return None
    # Without quotes YAML 1.1 takes 19:00 for a number of seconds.
    if not isinstance(value, str) or not _TIME.fullmatch(value):
        found.add(f"{key}.{part}", f'is {shown(value)}; a time in quotes is needed, such as "{example}"')
        return None
    hours, minutes = value.split(":")
    return 60 * int(hours) + int(minutes)


def _known(zone: Any) -> bool:
    if not isinstance(zone, str) or not _ZONE.fullmatch(zone):
        return False
    try:
        ZoneInfo(zone)
    except (LookupError, ValueError, OSError):
        return False
    return True
