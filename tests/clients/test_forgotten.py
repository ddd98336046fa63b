"""After its lineage was deleted nobody is told that a patient was in no round: the receipts say what is not known."""

import time

import pytest
from fedkit_client.cli import main
from fedkit_client.lineage import rounds_of

from fedkit.governance.retention import DAY
from tests.clients.coordinator import DATASET
from tests.clients.test_consents import ask, command, consenting, purposed  # noqa: F401
from tests.clients.test_retention import log_of, receipts, run_purge


@pytest.fixture
def said(capsys):
    """What a command prints for a person."""

    def run(made, name, *words):
        main([name, str(made.folder.site_yaml), "--data", DATASET, *words])
        return capsys.readouterr().out

    return run


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
