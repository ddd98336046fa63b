"""What bars every round, or tells of a hand in the folder, is said by doctor and at the start; no run has to."""

import json
import sqlite3

import pytest
from fedkit_client.cli import main
from fedkit_client.lineage import require_usable
from fedkit_client.record_check import MOST_LOG, lineage_check, log_check, log_remarks
from fedkit_client.start import open_site

from fedkit.errors import FederationError
from fedkit.storage.audit import Log
from fedkit.storage.audit_line import Event
from fedkit.storage.keys import load_signing_key, new_signing_key
from tests.clients.test_alert_watch import train
from tests.clients.test_site import _client


@pytest.fixture
def made(bench):
    found = bench()
    assert not isinstance(train(found, found.coordinator.job("run-a")), str)
    return found


def opened(made):
    return open_site(made.folder.site_yaml)


def ruin(made, how):
    path = made.folder.lineage
    if how == "no database":
        path.write_bytes(b"no database" * 100)
    elif how == "no table":
        with sqlite3.connect(path) as sql:
            sql.execute("DROP TABLE uses")
    elif how == "another key":
        with sqlite3.connect(path) as sql:
            sql.execute("UPDATE facts SET value = 'other'")
    else:
        made.folder.pseudonym_key.unlink()


def alter(log, number=1):
    lines = log.read_bytes().splitlines(keepends=True)
    assert b"run-a" in lines[number]
    lines[number] = lines[number].replace(b"run-a", b"run-x")
    log.write_bytes(b"".join(lines))


def test_a_folder_in_order_is_told_with_its_counts(made):
    assert (lineage_check(opened(made)).state, log_check(opened(made)).state) == ("ok", "ok")
    assert "1 round " in lineage_check(opened(made)).found and log_remarks(opened(made)) == []


@pytest.mark.slow
@pytest.mark.parametrize("how", ["no database", "no table", "another key", "no key"])
def test_a_lineage_by_which_every_round_is_refused_fails_the_check_and_bars_a_start(made, how):
    ruin(made, how)
    # A round cannot be answered, which is what the check has to find; a table that is gone it would begin anew.
    assert how == "no table" or isinstance(train(made, made.coordinator.job("run-b")), str)
    found = lineage_check(opened(made))
    assert found.state == "fail" and "FK593" in found.found and found.remedy
    with pytest.raises(FederationError, match="FK593"):
        require_usable(made.folder)
    code, _, err = _client("start", str(made.folder.site_yaml), "--json")
    assert code != 0 and "FK593" in err


@pytest.mark.parametrize("how", ["absent", "without a byte"])
def test_one_that_the_next_round_makes_is_in_order(bench, how):
    made = bench()
    if how == "without a byte":
        made.folder.lineage.touch(mode=0o600)
    assert lineage_check(opened(made)).state == "ok"
    assert not isinstance(train(made, made.coordinator.job("run-b")), str)


def test_an_altered_log_fails_the_check_and_is_said_at_a_start(made):
    alter(made.folder.audit)
    found = log_check(opened(made))
    assert found.state == "fail" and "line 2" in found.found and "quarantine" in found.remedy
    (text,) = log_remarks(opened(made))
    assert "audit.jsonl is not what was written" in text


def test_a_log_too_long_to_verify_on_the_way_is_never_called_good(made):
    with made.folder.audit.open("r+b") as file:
        file.truncate(MOST_LOG + 1)
    found = log_check(opened(made))
    assert found.state == "warn" and "not verified" in found.found and "log verify" in found.remedy


def test_a_log_of_before_is_verified_by_doctor_and_log_verify_alike(bench, capsys):
    made = bench()
    old = Log(made.folder.path / "audit.before-1.jsonl", new_signing_key())
    old.append(Event("started", {"version": "1"}), Event("stopped"))
    head = old.head()
    log = Log(made.folder.audit, load_signing_key(made.folder.signing_key))
    log.append(Event("joined", {"before_seq": head.seq, "before_digest": head.digest}))
    file = str(made.folder.site_yaml)
    main(["log", "verify", file])
    assert "audit.before-1.jsonl: 2 lines, which end where" in capsys.readouterr().out
    assert log_check(opened(made)).state == "ok"
    # Cut at its end, which its own chain does not show.
    old.path.write_bytes(old.path.read_bytes().splitlines(keepends=True)[0])
    code, out, _ = _client("log", "verify", file, "--json")
    told = json.loads(out)
    assert code == 1 and told["good"] is False and told["before"]["audit.before-1.jsonl"]["good"] is False
    assert "audit.before-1.jsonl" in log_check(opened(made)).found and log_check(opened(made)).state == "fail"
