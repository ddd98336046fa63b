"""Junk at any place of a site's file is a problem that is told: it neither raises nor opens what was closed there."""

import copy
from pathlib import Path

import pytest

from fedkit.governance.site_checks import site_file_of

POLICY = {
    "purposes": ["heart-disease-research"], "studies": ["none"], "submitters": ["ana"], "release": ["updates"],
    "approval": "manual", "max_rounds": 10, "max_epsilon_per_run": 2.0, "min_records": 100, "min_other_sites": 1,
    "hours": {"days": ["mon"], "from": "07:00", "to": "19:00", "timezone": "Europe/Berlin"}, "disclose": ["purposes"],
}  # fmt: skip
REGISTER = {"source": {"kind": "csv", "path": "c.csv"}, "unit": "pid", "purpose": "p", "from": "f", "until": "u"}
DATA = {
    "declaration": "heart_disease", "source": {"kind": "csv", "path": "t.csv"}, "records": 303, "unit": "patient",
    "unit_column": "pid", "site_column": "ward", "max_epsilon": 3.0, "delta": 1e-5, "models": ["logistic"],
    "strategies": ["fedavg"], "allow_unprotected": False, "policy": POLICY,
    "consent": {"column": {"name": "c", "values": ["yes"]}, "register": REGISTER},
    "sensitivity": {"age": "ordinary"}, "card": {"legal_basis": "x"},
}  # fmt: skip
FILE = {
    "site": "north", "folder": ".", "device": "cpu", "disclose_usage": False,
    "limits": {"cpus": 2, "memory": "2GiB", "disk": "5GiB", "bandwidth": "1MiB/s"}, "data": {"heart_disease": DATA},
}  # fmt: skip
JUNK = (
    None, "", "  ", [], {}, [None], [[]], {"a": 1}, 0, -1, 10**30, 1e308, float("nan"), float("inf"), [0], "\x00", "no",
    "off", 5 + 0j, b"x", {None: 1}, (), object(),
)  # fmt: skip
HARMLESS = {
    "folder", "limits", "device", "source.path", "site_column", "card", "card.legal_basis", "sensitivity",
    "policy.disclose", "site", "source.delimiter", "source.encoding", "consent.register.source.path",
}  # fmt: skip
"""Where one of these is a text or a blank like any other: nothing is let in by it that a site closes elsewhere."""
TEXTS = ("\x00", "no", "off")


def places(value, path=()):
    yield path
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from places(inner, (*path, name))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from places(inner, (*path, index))


def put(path, value):
    changed = copy.deepcopy(FILE)
    at = changed
    for part in path[:-1]:
        at = at[part]
    at[path[-1]] = value
    return changed


def named(path):
    return ".".join(map(str, path)).removeprefix("data.heart_disease").removeprefix(".") or "data"


def test_the_file_itself_is_good():
    assert site_file_of(FILE, Path("/tmp"))[1] == []


@pytest.mark.parametrize("path", [path for path in places(FILE) if path], ids=named)
def test_junk_is_told_and_opens_nothing(path):
    for junk in JUNK:
        found, problems = site_file_of(put(path, junk), Path("/tmp"))
        assert (found is None) == bool(problems)
        # No other site is a number that a hospital may mean.
        if not problems and named(path) not in HARMLESS and (named(path), junk) != ("policy.min_other_sites", 0):
            # A word may be a name of something that is not there: then nothing is let in.
            assert junk in TEXTS, (named(path), junk)
            assert not named(path).startswith(("limits", "policy.hours", "policy.approval", "allow_unprotected"))
