"""What ``fedkit ledger`` refuses: one sentence with a remedy, exit status 2, and no file harmed."""

import json
import os
from pathlib import Path

import pytest

from fedkit.privacy.ledger.ledger import Ledger

BUDGET = ["--dataset", "icu", "--unit", "record", "--epsilon", "3", "--delta", "1e-5"]


@pytest.fixture
def refused(cli):
    def check(code, *words):
        status, out, err = cli(*words)
        assert (status, out) == (2, ""), (status, out, err)
        assert err.startswith(f"fedkit: {code}: "), err
        assert err.count("Remedy: ") == 1, err
        return " ".join(err.split())

    return check


@pytest.fixture
def ledger(cli):
    assert cli("ledger", "create", "va.sqlite", *BUDGET)[0] == 0
    return "va.sqlite"


def test_an_export_never_replaces_what_is_no_export(cli, refused, ledger):
    before = Path(ledger).read_bytes()
    os.symlink(ledger, "link.json")
    Path("notes.txt").write_text("the chief's")
    Path("folder").mkdir()
    for out in (ledger, "link.json"):
        assert "is the ledger itself" in refused("FK350", "ledger", "export", "--ledger", ledger, "--out", out)
    for out, told in (("notes.txt", "is there already"), ("folder", "no regular"), ("/dev/null", "no regular")):
        assert told in refused("FK350", "ledger", "export", "--ledger", ledger, "--out", out)
    refused("FK350", "ledger", "export", "--ledger", ledger, "--out", "none/head.json")
    refused("FK350", "ledger", "export", "--ledger", ledger, "--out", "x" * 300)
    assert Path(ledger).read_bytes() == before
    assert Path("notes.txt").read_text() == "the chief's"
    for _ in range(2):
        assert cli("ledger", "export", "--ledger", ledger, "--out", "head.json")[0] == 0
    assert json.loads(Path("head.json").read_text())["seq"] == 2


def test_the_export_of_a_restored_backup_never_replaces_the_newest(cli, refused, ledger):
    backup = Path(ledger).read_bytes()
    with Ledger(ledger) as opened:
        opened.create_budget("ward", unit="record", limit=3.0, delta=1e-5)
    assert cli("ledger", "export", "--ledger", ledger, "--out", "head.json")[0] == 0
    newest = Path("head.json").read_bytes()
    Path(ledger).write_bytes(backup)
    refused("FK334", "ledger", "export", "--ledger", ledger, "--out", "head.json")
    assert Path("head.json").read_bytes() == newest
