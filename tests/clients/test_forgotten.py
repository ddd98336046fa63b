"""After its lineage was deleted nobody is told that a patient was in no round: the receipts say what is not known."""

import json
import time

import pytest
from fedkit_client.backup import make_backup
from fedkit_client.cli import main
from fedkit_client.lineage import rounds_of
from fedkit_client.restore import put_back_site

from fedkit.governance.retention import DAY
from fedkit.privacy.ledger.ledger import Ledger
from tests.clients.coordinator import DATASET, SITE
from tests.clients.test_consents import ask, command, consenting, purposed  # noqa: F401
from tests.clients.test_retention import log_of, receipts, run_purge


@pytest.fixture
def said(capsys):
    """What a command prints for a person."""

    def run(made, name, *words):
        main([name, str(made.folder.site_yaml), "--data", DATASET, *words])
        return capsys.readouterr().out

    return run


@pytest.mark.slow
def test_neither_lineage_nor_withdraw_says_no_round_of_what_was_deleted(consenting, said):  # noqa: F811
    made = consenting()
    assert not isinstance(ask(made), str)
    status, told = command(made, "lineage", "--unit", "p3")
    (run,) = (each["run"] for each in told["units"][0]["runs"])
    assert told["deleted"] == [] and "deleted" not in said(made, "lineage", "--unit", "stranger")
    run_purge(made, time.time() + 50 * DAY, lineage=40)
    assert rounds_of(made.folder, run) == [] and len(receipts(made)) == 1
    line = log_of(made).head().seq
    status, told = command(made, "lineage", "--unit", "p3")
    assert status == 0 and told["units"][0]["runs"] == []
    assert [(each["dataset"], each["run"], each["line"]) for each in told["deleted"]] == [(DATASET, run, line)]
    day = time.strftime("%Y-%m-%d", time.gmtime(told["deleted"][0]["at"]))
    receipt = f"lineage of run {run} on {DATASET} was deleted on {day}, receipt line {line} of the audit log"
    for words in (("lineage", "--unit", "p3"), ("lineage", "--run", run), ("withdraw", "--unit", "p3")):
        text = said(made, *words)
        assert receipt in text
        assert "in no round that this folder knows of" not in text and "in rounds so far" not in text
    # Of another data set's and run's nothing is said.
    assert "deleted" not in said(made, "lineage", "--run", "other")


@pytest.mark.slow
def test_neither_says_that_a_patient_was_in_no_round_that_left_before_a_restore(consenting, said, tmp_path):  # noqa: F811
    made = consenting()
    make_backup(made.folder, SITE, tmp_path / "copy")
    assert not isinstance(ask(made), str)
    with Ledger(made.folder.ledger(DATASET)) as ledger:
        (tmp_path / "head.json").write_text(json.dumps(ledger.export().to_dict()))
    others = {path: path.read_bytes() for path in made.folder.path.glob("*.csv")}
    made.folder.path.rename(tmp_path / "burnt")
    put_back_site(tmp_path / "copy", made.folder.path, [tmp_path / "head.json"], time.time())
    for path, content in others.items():
        path.write_bytes(content)
    status, told = command(made, "lineage", "--unit", "p3")
    assert status == 0 and told["units"][0]["runs"] == []
    (missing,) = told["presumed"]
    assert missing["dataset"] == DATASET and missing["rounds"] == {"train": [1]}
    for words in (("lineage", "--unit", "p3"), ("lineage", "--run", missing["run"])):
        text = said(made, *words)
        assert "who was in these rounds nobody here can tell" in text and "presumably left" in text
        assert "in no round that this folder knows of" not in text
    assert "that presumably left before the folder was put back nobody" in said(made, "withdraw", "--unit", "p3")
    assert "presumably" not in said(made, "lineage", "--run", "other")


def test_after_a_restore_without_any_export_both_say_since_when_nothing_is_known(consenting, said, tmp_path):  # noqa: F811
    made = consenting()
    assert "put back" not in said(made, "lineage", "--unit", "p3")
    make_backup(made.folder, SITE, tmp_path / "copy", now=1_800_000_000)
    others = {path: path.read_bytes() for path in made.folder.path.glob("*.csv")}
    made.folder.path.rename(tmp_path / "burnt")
    put_back_site(tmp_path / "copy", made.folder.path, (), time.time())
    for path, content in others.items():
        path.write_bytes(content)
    for words in (("lineage", "--unit", "p3"), ("lineage", "--run", "any"), ("withdraw", "--unit", "p3")):
        text = said(made, *words)
        assert "from the backup of 2027-01-15 08:00 UTC: of rounds that left between nothing is known here" in text
    assert command(made, "lineage", "--unit", "p3")[1]["restored"][0]["made_at"] == 1_800_000_000
