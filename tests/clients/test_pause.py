"""A pause of real processes: nothing leaves, work is given up, the same round is answered later without a charge."""

import json
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fedkit.federation import wire
from fedkit.storage.audit_verify import readable_lines
from tests.clients.conftest import FEDKIT, NO_PROXY
from tests.clients.coordinator import SITE, model

# The coordinator of these tests ends beside clients that still speak to it: what uvicorn leaves open is its own affair.
pytestmark = [
    pytest.mark.deploy,
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
SIZE = 5
SLOW = Path(__file__).with_name("slow_site.py")
REASON = "the board asks about Jane Doe"


def _client(*words):
    done = subprocess.run([*FEDKIT, "client", *words], capture_output=True, text=True, env={**os.environ, **NO_PROXY})
    return done.returncode, done.stdout, done.stderr


def _told(*words):
    code, out, err = _client(*map(str, words), "--json")
    assert code == 0, err
    return json.loads(out)


def _until(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture(scope="module")
def slow(running, tmp_path_factory):
    hold = tmp_path_factory.mktemp("slow")
    return *running(command=(sys.executable, str(SLOW), str(hold))), hold


@pytest.fixture
def site(slow):
    _, site, hold = slow
    yield site
    (hold / "hold").unlink(missing_ok=True)
    _client("resume", str(site.folder.site_yaml))


def test_a_pause_gives_up_work_within_a_second_and_the_round_goes_on_under_the_same_charge(slow, site):
    coordinator, _, hold = slow
    (hold / "training").unlink(missing_ok=True)
    (hold / "hold").touch()
    job = coordinator.job("given-up")
    message_id = coordinator.send(coordinator.request(job, "train", 1, model(SIZE)))
    _until((hold / "training").exists)
    spent = site.charged()
    assert spent > 0
    told = _told("pause", site.folder.site_yaml, "--reason", REASON)
    assert told["paused"] and told["quiet"] and told["reason"] == REASON
    assert stat.S_IMODE(site.folder.pause.path.stat().st_mode) == 0o600
    began = time.monotonic()
    reply = coordinator.reply(message_id, 20.0)
    assert reply.has_error() and reply.error.reason == "FK580" and time.monotonic() - began < 5.0
    assert "child" not in site.children()
    # What was charged stays charged, while it is paused too.
    assert site.charged() == spent
    (hold / "hold").unlink()
    assert coordinator.code(coordinator.request(job, "train", 1, model(SIZE))) == "FK580"
    assert coordinator.code(coordinator.request(job, "end", 1, model(0)), "query") == "FK580"
    status = _told("status", site.folder.site_yaml)
    assert status["connected"] and status["paused"]["reason"] == REASON and status["paused"]["since"] == told["since"]
    assert f"{REASON}; nothing leaves until" in _client("status", str(site.folder.site_yaml))[1]
    assert _told("resume", site.folder.site_yaml)["was_paused"]
    answer = coordinator.ask(coordinator.request(job, "train", 1, model(SIZE)))
    assert wire.unpack_update(answer.content, SITE, SIZE).weight > 0
    assert site.charged() == spent
    assert _told("status", site.folder.site_yaml)["paused"] is None


def test_an_answer_in_the_ledger_stays_there_while_paused_and_is_the_same_afterwards(slow, site):
    coordinator, *_ = slow
    job = coordinator.job("stored")
    first = coordinator.ask(coordinator.request(job, "train", 1, model(SIZE)))
    spent = site.charged()
    _told("pause", site.folder.site_yaml)
    assert coordinator.code(coordinator.request(job, "train", 1, model(SIZE))) == "FK580"
    _told("resume", site.folder.site_yaml)
    again = coordinator.ask(coordinator.request(job, "train", 1, model(SIZE)))
    delta = [wire.unpack_update(reply.content, SITE, SIZE).delta.tobytes() for reply in (first, again)]
    assert delta[0] == delta[1] and site.charged() == spent


def test_a_pause_outlives_a_kill_and_an_odd_file_is_one(slow, site):
    coordinator, *_ = slow
    job = coordinator.job("restarted")
    site.folder.pause.path.write_bytes(b"\xff\x00 nobody knows")
    site.kill()
    site.start().event("connected")
    assert coordinator.code(coordinator.request(job, "train", 1, model(SIZE))) == "FK580"
    status = _told("status", site.folder.site_yaml)["paused"]
    assert status["since"] is None and "pauses all the same" in status["problem"]
    code, out, _ = _client("resume", str(site.folder.site_yaml))
    assert code == 0 and "since an unknown time" in out
    assert not coordinator.ask(coordinator.request(job, "train", 1, model(SIZE))).has_error()


def test_the_reason_stays_in_the_site(slow, site):
    coordinator, *_ = slow
    _told("pause", site.folder.site_yaml, "--reason", REASON)
    reply = coordinator.ask(coordinator.request(coordinator.job("told"), "train", 1, model(SIZE)))
    assert reply.error.reason == "FK580" and "Jane" not in repr(reply)
    assert all("Jane" not in offer for offer in coordinator.offers)
    assert "Jane" not in site.log()


def test_a_site_file_that_was_broken_since_and_modes_too_loose_keep_nobody_from_pausing(slow, site):
    file = site.folder.site_yaml
    text = file.read_text()
    site.folder.node_key.chmod(0o644)
    try:
        file.write_text("site: [")
        assert _told("pause", file)["paused"] and site.folder.pause.there()
        assert _told("resume", file)["was_paused"]
    finally:
        file.write_text(text)
        site.folder.node_key.chmod(0o600)


@pytest.mark.parametrize("reason", ["x" * 501, "two\nlines", "\x1b[31mred"])
def test_a_reason_that_cannot_be_kept_is_refused_by_its_bound(slow, site, reason):
    code, _, err = _client("pause", str(site.folder.site_yaml), "--reason", reason)
    assert code == 2 and "one line of at most 500 characters" in " ".join(err.split())
    assert not site.folder.pause.there()


def test_a_folder_that_is_no_sites_is_not_paused(tmp_path):
    (tmp_path / "site.yaml").write_text("site: [")
    code, _, err = _client("pause", str(tmp_path / "site.yaml"))
    assert code == 2 and "FK741" in err and not (tmp_path / "paused.json").exists()


def test_resuming_what_is_not_paused_changes_nothing(slow, site):
    told = _told("resume", site.folder.site_yaml)
    assert told == {"paused": False, "was_paused": False, "since": None}


def test_the_audit_log_tells_of_both_and_no_log_keeps_a_site_from_being_paused(bench):
    made = bench()
    words = [str(made.folder.site_yaml), "--json"]
    for word in ("pause", "resume"):
        subprocess.run([*FEDKIT, "client", word, *words], check=True, capture_output=True)
    assert [line.kind for line in readable_lines(made.folder.audit)] == ["paused", "resumed"]
    made.folder.audit.write_bytes(b"broken\n")
    paused = subprocess.run([*FEDKIT, "client", "pause", *words], capture_output=True, text=True)
    assert not json.loads(paused.stdout)["logged"] and made.folder.pause.there()
    resumed = subprocess.run([*FEDKIT, "client", "resume", *words], capture_output=True, text=True)
    assert resumed.returncode == 2 and "FK771" in resumed.stdout and made.folder.pause.there()
