"""What left after a backup was made: its restored folder's inventory and incident tell it, from the ledger alone."""

import json
import shutil
import time
from dataclasses import replace

import pytest
from fedkit_client.incident import incident
from fedkit_client.incident_command import _text
from fedkit_client.inventory import inventory
from fedkit_client.inventory_command import inventory_text
from fedkit_client.released import accounts
from fedkit_client.start import open_site

from fedkit.privacy.ledger.ledger import Ledger
from fedkit.privacy.ledger.messages import Message
from fedkit.privacy.ledger.reconcile import reconcile
from fedkit.reporting.incident import incident_page, notification_draft
from fedkit.reporting.inventory import inventory_page
from tests.clients.coordinator import DATASET
from tests.clients.test_alert_watch import train

TOLD = "charged for 3 rounds (train 1, 2, 3) that this folder's log does not know"


def put_back(made, backup, *, only_ledger=False):
    """As docs/for-it.md has it: the export of before, the backup, and `ledger reconcile`."""
    path = made.folder.path
    with Ledger(made.folder.ledger(DATASET)) as ledger:
        export = ledger.export()
    what = made.folder.ledgers.name if only_ledger else ""
    shutil.rmtree(path / what)
    shutil.copytree(backup / what, path / what)
    with Ledger(made.folder.ledger(DATASET)) as ledger:
        reconcile(ledger, export)


@pytest.fixture
def restored(bench, tmp_path):
    made = bench()
    old = made.coordinator.job("old")
    train(made, old)
    shutil.copytree(made.folder.path, tmp_path / "backup")
    job = made.coordinator.job("gone")
    for number in (1, 2, 3):
        assert not isinstance(train(made, job, number), str)
    assert not isinstance(train(made, old, 2), str)
    put_back(made, tmp_path / "backup")
    return made


def collect(made, since=0.0):
    now = time.time()
    return incident(open_site(made.folder.site_yaml), since, now + 1, now)


def test_an_incident_tells_what_a_restored_log_does_not_know(restored):
    found = collect(restored)
    # The log knows of one answer, and says so; the rest is the ledger's word.
    assert [(each["run"], each["round"]) for each in found["answers"]] == [("old", 1)]
    assert {each["run"]: each["rounds"] for each in found["presumed"]} == {
        "gone": {"train": [1, 2, 3]}, "old": {"train": [2]},
    }  # fmt: skip
    assert {run["run"] for run in found["datasets"][DATASET]["charged_runs"]} == {"gone", "old"}
    for text in (_text(found), notification_draft(found), incident_page(found, "0").replace("&#39;", "'")):
        assert TOLD in text and "charged for 1 round (train 2)" in text and "presumably left" in text
    draft = notification_draft(found)
    assert "The log is not all" in draft and "run gone on icu" in draft and "ana" in draft


def test_one_that_the_log_knows_nothing_of_at_all_is_no_empty_incident(restored):
    # Since after the answer that the log knows.
    (answer,) = collect(restored)["answers"]
    found = collect(restored, answer["at"] + 1e-6)
    assert found["runs"] == [] and {each["run"] for each in found["presumed"]} == {"gone", "old"}
    data = found["datasets"][DATASET]
    assert data["records"] and data["first"] and {run["run"] for run in data["charged_runs"]} == {"gone", "old"}
    draft = notification_draft(found)
    assert TOLD in draft and f"- {DATASET}: up to" in draft and "differentially private" in draft
    # What was restored before the time began left before it.
    assert collect(restored, time.time())["presumed"] == []


def test_the_inventory_says_that_it_presumably_left_and_never_that_nothing_did(restored):
    card = inventory(open_site(restored.folder.site_yaml), time.time())
    text, page = inventory_text(card), inventory_page(card, "0").replace("&#39;", "'")
    assert "nothing released" not in text and f"gone: the ledger was {TOLD}" in text and TOLD in page
    assert "old: 1 train released; the ledger was charged for 1 round (train 2)" in text
    json.dumps(card, allow_nan=False)


def test_a_round_that_was_answered_anew_left_twice(bench, tmp_path):
    made = bench()
    job = made.coordinator.job("twice")
    shutil.copytree(made.folder.path, tmp_path / "backup")
    train(made, job)
    with Ledger(made.folder.ledger(DATASET)) as ledger:
        export = ledger.export()
    shutil.rmtree(made.folder.path)
    shutil.copytree(tmp_path / "backup", made.folder.path)
    # The restored folder was started before it was reconciled.
    assert not isinstance(train(made, job), str)
    with Ledger(made.folder.ledger(DATASET)) as ledger:
        reconcile(ledger, export)
    (run,) = accounts(made.folder, DATASET)["runs"]
    assert run["answered"] == {"train": [1]} and run["presumed"]["rounds"] == {"train": [1]}


def test_what_the_log_still_tells_is_not_told_as_unknown(bench, tmp_path):
    made = bench()
    shutil.copytree(made.folder.path, tmp_path / "backup")
    train(made, made.coordinator.job("known"))
    put_back(made, tmp_path / "backup", only_ledger=True)
    (run,) = accounts(made.folder, DATASET)["runs"]
    assert run["answered"] == {} and run["presumed"] is None
    assert [each["run"] for each in collect(made)["answers"]] == ["known"]


def test_one_that_was_closed_without_a_reply_may_have_been_answered_elsewhere(bench, tmp_path):
    made = bench()
    job = made.coordinator.job("open")
    train(made, job)
    with Ledger(made.folder.ledger(DATASET)) as ledger:
        charges = ledger.account(DATASET).runs["open"].asked
        ledger.reserve(Message(DATASET, "open", 2, "d" * 64, "train"), [replace(charges[0], steps=1).event])
        export = ledger.export()
        assert accounts(made.folder, DATASET)["runs"][0]["presumed"] is None
        reconcile(ledger, export)
    assert accounts(made.folder, DATASET)["runs"][0]["presumed"]["rounds"] == {"train": [2]}
