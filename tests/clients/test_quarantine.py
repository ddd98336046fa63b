"""A quarantined site answers nothing, not even with a code, is not resumed before it is lifted, and keeps evidence."""

import json
import sqlite3
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
from fedkit_client.evidence import check_manifest, keep_evidence
from fedkit_client.findings import KINDS
from fedkit_client.folder import SiteFolder
from fedkit_client.moving import carry_over
from fedkit_client.start import open_site
from fedkit_client.status import standing_problem

from fedkit.errors import DeploymentError, FederationError
from fedkit.governance.pause import PauseFile
from fedkit.storage.audit_verify import readable_lines
from fedkit.storage.keys import load_signing_key
from tests.clients.coordinator import DATASET, model
from tests.clients.test_pause import _client, _told, _until

SIZE = 5
SLOW = Path(__file__).with_name("slow_site.py")
REASON = "a ledger that was altered"


@pytest.fixture(scope="module")
def slow(running, tmp_path_factory):
    hold = tmp_path_factory.mktemp("slow")
    return *running(command=(sys.executable, str(SLOW), str(hold))), hold


@pytest.fixture
def site(slow):
    _, site, hold = slow
    yield site
    (hold / "hold").unlink(missing_ok=True)
    for name in ("quarantine.json", "paused.json"):
        (site.folder.path / name).unlink(missing_ok=True)


def quarantined(site):
    return _told("quarantine", site.folder.site_yaml, "--reason", REASON)


def silent(coordinator, message_id, seconds):
    """Whether a message gets no answer at all for so long."""
    with pytest.raises(AssertionError, match="no reply"):
        coordinator.reply(message_id, seconds)
    return True


@pytest.mark.deploy
def test_nothing_is_answered_not_even_with_a_code_until_it_is_lifted_and_resumed(slow, site):
    coordinator, *_ = slow
    told = quarantined(site)
    assert told["quarantined"] and told["quiet"] and told["problems"] == [] and told["reason"] == REASON
    released = sum(1 for _ in readable_lines(site.folder.audit, ("released",)))
    job = coordinator.job("quiet")
    message_id = coordinator.send(coordinator.request(job, "train", 1, model(SIZE)))
    assert silent(coordinator, message_id, 6.0)
    code, _, err = _client("resume", str(site.folder.site_yaml))
    assert code == 2 and "FK787" in err and "--lift" in err and site.folder.pause.path.exists()
    assert _told("quarantine", site.folder.site_yaml, "--lift", "--reason", "it was the backup")["paused"]
    # Still paused: a code, and no answer.
    assert coordinator.reply(message_id, 90.0).error.reason == "FK580"
    assert _told("resume", site.folder.site_yaml)["was_paused"]
    assert not coordinator.ask(coordinator.request(job, "train", 1, model(SIZE))).has_error()
    kinds = [line.kind for line in readable_lines(site.folder.audit, ("quarantined", "unquarantined", "released"))]
    assert kinds[-3:] == ["quarantined", "unquarantined", "released"] and kinds.count("released") == released + 1


@pytest.mark.slow
def test_work_is_given_up_and_neither_its_answer_nor_a_code_leaves(slow, site):
    coordinator, _, hold = slow
    (hold / "training").unlink(missing_ok=True)
    (hold / "hold").touch()
    before = sum(1 for _ in readable_lines(site.folder.audit, ("withheld",)))
    message_id = coordinator.send(coordinator.request(coordinator.job("caught"), "train", 1, model(SIZE)))
    _until((hold / "training").exists)
    assert quarantined(site)["quiet"]
    _until(lambda: "child" not in site.children(), 10.0)
    (hold / "hold").unlink()
    assert silent(coordinator, message_id, 4.0)
    assert sum(1 for _ in readable_lines(site.folder.audit, ("withheld",))) == before + 1


@pytest.mark.deploy
def test_the_state_says_so_and_a_restart_changes_nothing(slow, site):
    coordinator, *_ = slow
    quarantined(site)
    site.kill()
    site.start()
    assert site.event("retrying")["code"] == "FK787"
    message_id = coordinator.send(coordinator.request(coordinator.job("again"), "train", 1, model(SIZE)))
    assert silent(coordinator, message_id, 3.0)
    found = json.loads(_client("alerts", str(site.folder.site_yaml), "--json")[1])
    assert "quarantined" in {alert["key"] for alert in found["alerts"]}


def test_the_evidence_is_whole_signed_and_without_a_key(slow, site):
    told = quarantined(site)
    folder, key = Path(told["evidence"]["folder"]), load_signing_key(site.folder.signing_key)
    values = check_manifest(folder, "evidence", key.public)
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} - {"manifest.json"}
    assert names == set(values["files"]) and {"audit.jsonl", f"ledgers/{DATASET}.sqlite", "enrolment.json"} <= names
    assert not any(name.endswith(".key") for name in names)
    assert all(path.stat().st_mode & 0o077 == 0 for path in (folder, *folder.rglob("*")))
    with closing(sqlite3.connect(folder / "ledgers" / f"{DATASET}.sqlite")) as copy:
        assert copy.execute("PRAGMA integrity_check").fetchone() == ("ok",)


@pytest.fixture
def made(bench):
    return bench()


@pytest.mark.parametrize("name", ["audit.jsonl", "ledgers/icu.sqlite"])
def test_evidence_that_was_changed_or_is_missing_is_found(made, name):
    folder, key = made.folder, load_signing_key(made.folder.signing_key)
    folder.audit.write_text("{}\n")
    kept = Path(keep_evidence(folder, key, time.time())["folder"])
    assert check_manifest(kept, "evidence", key.public)["failed"] == {}
    content = (kept / name).read_bytes()
    (kept / name).write_bytes(content + b" ")
    with pytest.raises(DeploymentError, match=name.replace(".", "[.]")) as caught:
        check_manifest(kept, "evidence", key.public)
    assert caught.value.code == "FK788"
    (kept / name).unlink()
    with pytest.raises(DeploymentError, match="missing"):
        check_manifest(kept, "evidence", key.public)
    (kept / name).write_bytes(content)
    assert check_manifest(kept, "evidence", key.public)
    with pytest.raises(DeploymentError):
        check_manifest(kept, "incident", key.public)


def test_a_broken_ledger_is_kept_byte_by_byte(made):
    folder = made.folder
    folder.ledger(DATASET).write_bytes(b"SQLite format 3\x00 and then nothing of use" * 100)
    kept = Path(keep_evidence(folder, load_signing_key(folder.signing_key), 5.0)["folder"])
    assert (kept / "ledgers" / f"{DATASET}.sqlite").read_bytes() == folder.ledger(DATASET).read_bytes()


@pytest.mark.parametrize("content", [b"", b"\xff", b"[1]", b'{"since": "x"}'])
def test_whatever_lies_there_quarantines(tmp_path, content):
    pause = PauseFile(tmp_path / "paused.json")
    pause.quarantine.path.write_bytes(content)
    assert pause.there() and pause.quarantine.there() and pause.quarantine.since() == 0.0
    for reply in ("FK580", "FK500", object()):
        with pytest.raises(FederationError), pause.release(reply):
            raise AssertionError("it left")
    with pytest.raises(DeploymentError) as caught:
        pause.take_away()
    assert caught.value.code == "FK787" and pause.quarantine.path.exists()


def test_a_link_to_nothing_quarantines_too_and_a_pause_alone_lets_its_code_out(tmp_path):
    pause = PauseFile(tmp_path / "paused.json")
    pause.quarantine.path.symlink_to(tmp_path / "nowhere")
    assert pause.quarantine.there()
    pause.quarantine.take_away()
    assert pause.quarantine.since() is None
    pause.put("x", 1.0)
    with pause.release("FK580"):
        pass


def test_a_second_quarantine_keeps_the_first_time_and_a_site_that_joins_again_takes_it_along(made, tmp_path):
    folder = made.folder
    assert folder.quarantine.put(REASON, 5.0) == 5.0 and folder.quarantine.put("", 9.0) == 5.0
    assert folder.quarantine.reason() == REASON
    new = SiteFolder(tmp_path / "new")
    new.path.mkdir(mode=0o700)
    carry_over(folder, new)
    assert new.quarantine.since() == 5.0


def test_a_reason_is_needed_and_what_is_not_quarantined_is_not_lifted(made):
    file = str(made.folder.site_yaml)
    code, _, err = _client("quarantine", file)
    assert code == 2 and "--reason is needed" in " ".join(err.split()) and not made.folder.quarantine.there()
    code, _, err = _client("quarantine", file, "--lift", "--reason", "x")
    assert code == 2 and "FK787" in err and not made.folder.pause.there()


def test_a_log_that_cannot_be_written_and_a_file_that_is_broken_keep_nobody_from_it(made):
    made.folder.audit.mkdir()
    made.folder.site_yaml.write_text("site: [")
    code, out, _ = _client("quarantine", str(made.folder.site_yaml), "--reason", REASON, "--json")
    told = json.loads(out)
    assert code == 1 and told["quarantined"] and made.folder.quarantine.there() and made.folder.pause.there()
    assert any("audit log" in problem for problem in told["problems"])


def test_a_child_cannot_tell_of_a_quarantine():
    assert "quarantined" not in KINDS


def test_a_lifted_quarantine_is_no_problem_that_status_still_tells(bench):
    made = bench()
    opened = open_site(made.folder.site_yaml)
    state = {"problem": {"code": "FK787", "message": "the site is quarantined", "remedy": "lift it"}}
    made.folder.quarantine.put("x", 5.0)
    assert standing_problem(opened, state) == state["problem"]
    made.folder.quarantine.take_away()
    assert standing_problem(opened, state) is None
    other = {"problem": {"code": "FK755", "message": "m", "remedy": "r"}}
    assert standing_problem(opened, other) == other["problem"]
