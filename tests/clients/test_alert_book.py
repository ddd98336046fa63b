"""What is to be told is on disk before it is sent, is told once, and survives a kill -9; a full queue says so."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
from dataclasses import replace

import pytest
from fedkit_client import alert_book
from fedkit_client.alert import Alert
from fedkit_client.alert_book import AlertBook

from fedkit.errors import DeploymentError

ONE = Alert("refused", "warning", "refused:FK567", 5.0, "refused", "look", 1, {"code": "FK567"})
CHANNELS = {"webhook": "warning", "syslog": "info"}


@pytest.fixture
def book(tmp_path):
    return AlertBook(tmp_path / "alerts.sqlite")


def settle(book, *alerts, now=10.0, repeat=100.0):
    return [(state, alert.key) for state, alert in book.settle(alerts, CHANNELS, repeat, "north", now)]


def bodies(book, channel, now=1e9):
    return [json.loads(queued.body) for queued in book.due(channel, now)]


def test_an_alert_is_told_when_it_begins_again_after_a_while_and_when_it_is_over(book):
    assert settle(book, ONE) == [("raised", ONE.key)]
    assert settle(book, replace(ONE, count=2), now=109.0) == []
    assert settle(book, replace(ONE, count=3), now=110.0) == [("repeated", ONE.key)]
    assert settle(book, now=111.0) == [("cleared", ONE.key)] and settle(book, now=112.0) == []
    assert settle(book, ONE, now=113.0) == [("raised", ONE.key)]
    told = bodies(book, "webhook")
    assert [each["state"] for each in told] == ["raised", "repeated", "cleared", "raised"]
    assert [each["count"] for each in told] == [1, 3, 3, 1]
    assert len({each["id"] for each in told}) == 4 and all(each["site"] == "north" for each in told)


def test_each_channel_is_told_from_its_own_severity_on_and_nothing_of_itself(book):
    info = Alert("waiting", "info", "waiting:r", 1.0, "t", "r")
    own = Alert("channel", "warning", "channel:webhook", 1.0, "t", "r", about={"channel": "webhook"})
    settle(book, info, own, ONE)
    assert [each["key"] for each in bodies(book, "webhook")] == [ONE.key]
    assert {each["key"] for each in bodies(book, "syslog")} == {info.key, own.key, ONE.key}


def test_a_notice_stays_until_its_channel_has_taken_it(book):
    settle(book, ONE)
    (queued,) = book.due("webhook", 20.0)
    book.failed("webhook", "HTTP 500", 20.0)
    assert book.due("webhook", 24.9) == [] and book.due("webhook", 25.0) == [queued]
    book.failed("webhook", "HTTP 500", 25.0)
    assert book.due("webhook", 34.9) == [] and book.due("webhook", 35.0) == [queued]
    state = book.channels(["webhook"], 35.0)["webhook"]
    assert (state.queued, state.failures, state.since, state.why) == (1, 2, 20.0, "HTTP 500")
    # The other channel is not held up.
    assert len(book.due("syslog", 20.0)) == 1
    book.took("webhook", queued)
    assert book.due("webhook", 35.0) == [] and book.channels(["webhook"], 35.0)["webhook"].since is None


def test_a_channel_rests_ten_minutes_at_most_and_a_clock_that_was_put_back_keeps_none_waiting(book):
    settle(book, ONE)
    for _ in range(30):
        book.failed("webhook", "x", 1000.0)
    assert book.due("webhook", 1599.0) == [] and book.due("webhook", 1600.0)
    assert book.due("webhook", 10.0)


def test_a_full_queue_lets_go_of_the_oldest_of_the_least_severe_and_counts_it(book, monkeypatch):
    monkeypatch.setattr(alert_book, "MOST_QUEUED", 3)
    severe = [Alert("chain", "critical", f"chain:{i}", 1.0, "t", "r") for i in range(2)]
    mild = [Alert("config", "warning", f"config:{i}", 1.0, "t", "r") for i in range(3)]
    settle(book, severe[0], *mild, severe[1])
    assert [each["key"] for each in bodies(book, "webhook")] == ["chain:0", "config:2", "chain:1"]
    settle(book, severe[0], *mild, severe[1], Alert("waiting", "info", "waiting:r", 1.0, "t", "r"))
    assert "waiting:r" not in {each["key"] for each in bodies(book, "syslog")}
    assert book.channels(["webhook", "syslog"], 10.0)["webhook"].dropped == 2
    assert book.channels(["webhook"], 10.0 + 2 * 86_400)["webhook"].dropped == 0


_KILLED = """
import os, signal, sys
from pathlib import Path
from fedkit_client.alert import Alert
from fedkit_client.alert_book import AlertBook

book = AlertBook(Path(sys.argv[1]))
alert = Alert("refused", "warning", "refused:FK567", 5.0, "refused", "look")
book.settle([alert], {"webhook": "info"}, 100.0, "north", 10.0)
print(book.due("webhook", 10.0)[0].body, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_was_queued_is_there_after_a_kill_under_the_same_id(book):
    done = subprocess.run([sys.executable, "-c", _KILLED, str(book.path)], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert bodies(book, "webhook") == [json.loads(done.stdout)]
    # And it is not raised anew.
    assert settle(book, ONE) == []


def test_a_kill_between_the_two_halves_of_telling_leaves_it_untold(book, monkeypatch):
    def killed(*words):
        raise KeyboardInterrupt

    monkeypatch.setattr(AlertBook, "_queue", staticmethod(killed))
    with pytest.raises(KeyboardInterrupt):
        settle(book, ONE)
    monkeypatch.undo()
    assert settle(book, ONE) == [("raised", ONE.key)] and len(bodies(book, "webhook")) == 1


def test_only_its_owner_reads_it_and_a_broken_one_is_told(book, tmp_path):
    settle(book, ONE)
    assert book.path.stat().st_mode & 0o077 == 0
    book.path.chmod(0o644)
    with pytest.raises(DeploymentError) as caught:
        book.recall()
    assert caught.value.code == "FK706"
    book.path.chmod(0o600)
    book.path.write_bytes(b"no database at all, but long enough to be looked at" * 50)
    with pytest.raises(DeploymentError) as caught:
        settle(book, ONE)
    assert caught.value.code == "FK785"
    os.unlink(book.path)
    book.path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DeploymentError):
        settle(book, ONE)


def test_what_is_remembered_is_recalled(book):
    assert book.recall() == {} and not book.path.exists()
    book.remember({"head": [3, "ab"], "heard": 5.0})
    assert book.recall() == {"head": [3, "ab"], "heard": 5.0}
    with sqlite3.connect(book.path) as database:
        database.execute("UPDATE facts SET value = '{'")
    with pytest.raises(DeploymentError):
        book.recall()
