"""What ``fedkit ledger`` refuses: one sentence with a remedy, exit status 2, and no file harmed."""

import json
import os
import re
from dataclasses import asdict
from pathlib import Path

import pytest

from fedkit.privacy.ledger.ledger import Ledger
from fedkit.storage.chain import link

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


CREATE = ["--dataset", "icu", "--unit", "record"]


@pytest.mark.parametrize(
    ("code", "words", "told"),
    [
        ("FK301", ["a.sqlite", *CREATE, "--epsilon", "nan", "--delta", "1e-5"], "give --epsilon 3"),
        ("FK301", ["a.sqlite", *CREATE, "--epsilon", "abc", "--delta", "1e-5"], "'abc' is not a number"),
        ("FK301", ["a.sqlite", *CREATE, "--epsilon", "1e308", "--delta", "1e-5"], "at most 1000"),
        ("FK301", ["a.sqlite", *CREATE, "--epsilon", "inf", "--delta", "1e-5"], "at most 1000"),
        ("FK301", ["a.sqlite", *CREATE, "--epsilon", "1_0", "--delta", "1e-5"], "'1_0' is not a number"),
        ("FK302", ["a.sqlite", *CREATE, "--epsilon", "3", "--delta", "0_1"], "'0_1' is not a number"),
        ("FK302", ["a.sqlite", *CREATE, "--epsilon", "3", "--delta", "2"], "give --delta 1e-5"),
        ("FK343", ["a.sqlite", *CREATE, "--epsilon", "3", "--delta", "1e-5", "--order", "nan"], "--order 'nan'"),
        ("FK343", ["a.sqlite", "--dataset", "", "--unit", "record", "--epsilon", "3", "--delta", "1e-5"], "short name"),
        ("FK330", [".", *BUDGET], "is a folder and no regular file"),
        ("FK330", ["/dev/null", *BUDGET], "no regular file"),
        ("FK330", ["\udcff.sqlite", *BUDGET], "not valid UTF-8"),
        ("FK336", ["x" * 250, *BUDGET], "at most 240"),
        ("FK336", ["x" * 300, *BUDGET], "at most 240"),
        ("FK336", ["/proc/none/va.sqlite", *BUDGET], "cannot be made"),
    ],
)
def test_what_no_budget_can_be_is_refused_before_a_file_is_made(refused, code, words, told):
    assert told in refused(code, "ledger", "create", *words)
    assert os.listdir() == []


@pytest.mark.parametrize(
    ("code", "event"),
    [
        ("FK305", "1,0.1,1e308"),
        ("FK305", "1,1,1e9"),
        ("FK305", "0.05,1,nan"),
        ("FK304", "nan,1,1"),
        ("FK303", "0.05,inf,1"),
        ("FK350", "0_1,1,1"),
        ("FK350", "\u0663,1,1"),
    ],
)
def test_an_event_that_cannot_be_priced_is_refused(refused, ledger, code, event):
    refused(code, "ledger", "show", "--ledger", ledger, "--event", event)


PLAN = {"steps": 1, "rounds": 1, "sample_rate": 0.1, "noise_multiplier": 1.0, "unit": "record"}
PLAN["adjacency"] = "add_remove"
DEEP = "[" * 100_000


@pytest.mark.parametrize(
    ("code", "content", "told"),
    [
        ("FK350", "[]", "it is no mapping"),
        ("FK350", "{}", "without steps, rounds, sample_rate, noise_multiplier, unit, adjacency"),
        ("FK350", DEEP, "holds no plan"),
        ("FK305", json.dumps(PLAN | {"steps": 10**400}), "more than 1e+300 steps"),
        ("FK305", json.dumps(PLAN | {"steps": 1e308, "rounds": 10}), "inf steps"),
    ],
)
def test_a_plan_that_is_none_is_refused(refused, ledger, code, content, told):
    Path("plan.json").write_text(content)
    assert told in refused(code, "ledger", "show", "--ledger", ledger, "--plan", "plan.json")


def receipt(ledger, **changes):
    """A receipt that somebody invented, with a perfect digest."""
    fact = {"kind": "reserve", "at_ms": 1, "nonce": "x", "dataset": "icu", "run": "r", "round": 1, "purpose": "train"}
    fact |= {"digest": "d", "charges": [[10**9, 10**7, 1]], "accountant": "x"}
    with Ledger(ledger) as opened:
        name = opened.book().ledger
    entry = link(None, json.dumps(fact | changes))
    return json.dumps({"ledger": name, "entry": asdict(entry)})


@pytest.mark.parametrize(
    "charge",
    [[10**9, 10**7, 10**400], [10**9, 10**7, 10**11], [10**9, 1, 1], [10**9, 10**11, 1], [0, 10**7, 1], [1e400, 1, 1]],
)
def test_a_receipt_that_no_ledger_could_price_is_refused(cli, refused, ledger, charge):
    Path("receipt.json").write_text(receipt(ledger, charges=[charge]))
    refused("FK350", "ledger", "reconcile", "--ledger", ledger, "--receipts", "receipt.json")
    assert cli("ledger", "show", "--ledger", ledger)[0] == 0


def test_a_ledger_is_shown_whatever_receipts_charged_it(cli, ledger):
    charges = [[1, 10**5, 10**10], [1, 10**10, 1]]
    Path("receipt.json").write_text(receipt(ledger, charges=charges, run="[/red]", round=10**400))
    assert cli("ledger", "reconcile", "--ledger", ledger, "--receipts", "receipt.json")[0] == 0
    status, out, _ = cli("ledger", "show", "--ledger", ledger)
    assert status == 0 and "[/red]" in out
    status, out, _ = cli("ledger", "show", "--ledger", ledger, "--json")
    assert status == 0 and json.loads(out)["datasets"][0]["spent"] > 1


@pytest.mark.parametrize("command", [("verify", "--head"), ("reconcile", "--export"), ("reconcile", "--receipts")])
@pytest.mark.parametrize("how", ["deep", "infinite", "surrogate", "folder", "long"])
def test_a_file_that_is_no_export_is_refused_in_words(cli, refused, ledger, command, how):
    path, receipts = "file.json", command[1] == "--receipts"
    if receipts:
        good = receipt(ledger)
    else:
        assert cli("ledger", "export", "--ledger", ledger, "--out", path)[0] == 0
        good = Path(path).read_text()
    if how == "deep":
        Path(path).write_text(DEEP)
    elif how == "infinite":
        Path(path).write_text(re.sub(r'"seq": ?[0-9]+', '"seq": 1e400', good))
    elif how == "surrogate":
        odd = receipt(ledger, run="r\ud800")
        Path(path).write_text(odd if receipts else re.sub(r'"body": "', r'"body": "\\ud800', good))
    else:
        path = "." if how == "folder" else "x" * 300
    refused("FK350", "ledger", command[0], "--ledger", ledger, command[1], path)


def test_a_folder_of_ledgers_with_an_endless_name_is_refused(refused):
    words = ["stats", "heart_disease", "--epsilon", "1", "--columns", "age", "--ledgers", "x" * 300]
    assert "File name too long" in refused("FK336", *words)


@pytest.mark.parametrize("delta", ["1e-12", "1e-13", "1_0", "0"])
def test_statistics_refuse_a_delta_by_the_options_name_and_as_it_was_given(refused, delta):
    said = refused("FK302", "stats", "heart_disease", "--epsilon", "1", "--delta", delta)
    assert f"--delta {delta!r} is not from 1.1e-12" in said and "privacy.delta" not in said


def test_plans_say_which_value_is_out_of_reach(refused):
    words = ["plan", "heart_disease", "privacy.epsilon=null", "privacy.noise_multiplier=10000"]
    assert "privacy.evaluation.share=" in refused("FK309", *words)
    assert "hidden" in refused("FK402", "plan", "heart_disease", "model=mlp", "model.hidden=[100000,100000]")


def test_a_site_with_more_records_than_any_delta_allows_is_told_so(cli):
    status, _, err = cli("plan", "heart_disease", "data.records.va=1000000000000")
    assert status == 2 and "correct data.records, as the least delta that can be computed is 1e-11" in err
    status, _, err = cli("plan", "heart_disease", "data.records.va=50000000000")
    assert status == 2 and "set privacy.delta=1e-11" in err
