"""What a site stores goes when its deadline has passed, by a clock that is the test's, and never without a receipt."""

import dataclasses
import hashlib
import json
import shutil
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from fedkit_client import evidence_kept, lineage, retention
from fedkit_client.alert import Alert
from fedkit_client.alert_book import AlertBook
from fedkit_client.answering import answerer
from fedkit_client.evidence import keep_evidence
from fedkit_client.quarantining import lift_site
from fedkit_client.retention import due, purge
from fedkit_client.start import open_site
from fedkit_client.upkeep import EVERY, Upkeep

from fedkit.errors import ConfigError, DeploymentError
from fedkit.governance.retention import DAY, Retention
from fedkit.governance.site_file import read_site_file
from fedkit.privacy.ledger.ledger import Ledger
from fedkit.storage.audit import Log
from fedkit.storage.audit_line import Event
from fedkit.storage.audit_verify import readable_lines
from fedkit.storage.keys import load_signing_key
from tests.clients.coordinator import DATASET, SITE, model
from tests.clients.test_statistics import RELEASE, answer
from tests.clients.test_studies import call, joined, sign  # noqa: F401
from tests.clients.test_studies import train as train_under

SIZE = 5


@pytest.fixture
def made(bench):
    return bench(policy=RELEASE)


def log_of(made):
    return Log(made.folder.audit, load_signing_key(made.folder.signing_key))


def receipts(made):
    there = made.folder.audit.exists()
    return [line.fields for line in readable_lines(made.folder.audit, (retention.KIND,))] if there else []


def run_purge(made, now, **days):
    return purge(made.folder, SITE, Retention(days), now, log_of(made).append)


def train(made, run="run-1"):
    job = made.coordinator.job(run)
    assert not isinstance(made.keeper.answer("train", made.coordinator.request(job, "train", 1, model(SIZE))), str)


def stop(made, run="run-1"):
    """A run that is over and whose replies nobody has deleted, as where its `end` never came."""
    with Ledger(made.folder.ledger(DATASET)) as ledger:
        ledger.end(DATASET, run, "stopped")


def kept(made):
    with sqlite3.connect(made.folder.ledger(DATASET)) as sql:
        return sql.execute("SELECT count(*) FROM replies").fetchone()[0]


def test_replies_go_when_their_days_after_the_run_s_end_are_over_and_not_a_second_before(made):
    train(made)
    spent, now = made.charged(), time.time()
    # A run that still holds its budget may be asked again.
    assert run_purge(made, now + 3600, replies=0) == [] and kept(made) == 1
    stop(made)
    assert run_purge(made, now + 30 * DAY - 60, replies=30) == [] and kept(made) == 1
    (gone,) = run_purge(made, now + 30 * DAY + 60, replies=30)
    assert kept(made) == 0 and made.charged() == spent
    (told,) = receipts(made)
    assert told["what"] == "replies" and told["run"] == "run-1" and told["reason"] == "retention.replies"
    assert told["size"] == gone.size > 0 and told["count"] == 1 and abs(told["deadline"] - (now + 30 * DAY)) < 60
    with Ledger(made.folder.ledger(DATASET), read_only=True) as ledger:
        (reservation,) = ledger.account(DATASET).runs["run-1"].reserved.values()
    assert told["digest"] == hashlib.sha256("".join(reservation.stored).encode()).hexdigest()
    assert run_purge(made, now + 60 * DAY, replies=30) == []


def test_a_run_whose_hold_has_expired_is_over(made):
    train(made)
    now = time.time()
    assert run_purge(made, now + 3600, replies=0) == []
    assert len(run_purge(made, now + 3 * DAY, replies=0)) == 1 and kept(made) == 0


def test_a_question_whose_answer_was_deleted_is_asked_anew_at_full_cost(made):
    first = answer(made)
    now = time.time()
    assert run_purge(made, now + 6 * DAY, statistics=7, replies=0) == []
    (gone,) = run_purge(made, now + 7 * DAY + 60, statistics=7)
    assert gone.what == "statistics"
    spent = made.charged()
    assert answer(made, "question-2") != first and made.charged() == 2 * spent


@pytest.mark.parametrize(("own", "agreed", "days", "reason"), [
    (30, 10, 10, "study heart"), (10, 30, 10, "retention.replies"), (None, 10, 10, "study heart"),
])  # fmt: skip
def test_the_strictest_of_the_site_and_the_agreement_counts(made, monkeypatch, own, agreed, days, reason):
    train(made)
    stop(made)
    monkeypatch.setattr(retention, "_agreed", lambda folder, site: {"none": agreed, "heart": agreed})
    now, own = time.time(), {} if own is None else {"replies": own}
    assert run_purge(made, now + days * DAY - 60, **own) == []
    (gone,) = run_purge(made, now + days * DAY + 60, **own)
    assert gone.reason == reason.replace("heart", "none")


def test_lineage_goes_by_round_and_leaves_no_byte(made):
    train(made)
    train(made, "run-2")
    later = int(time.time()) + 50 * DAY
    with sqlite3.connect(made.folder.lineage) as sql:
        sql.execute("UPDATE uses SET at = ? WHERE run = 'run-2'", (later,))
    gone = run_purge(made, later + DAY, lineage=40)
    assert [(each.what, each.run, each.count) for each in gone] == [("lineage", "run-1", 1)]
    assert lineage.rounds_of(made.folder, "run-1") == [] and len(lineage.rounds_of(made.folder, "run-2")) == 1
    assert b"run-1" not in made.folder.lineage.read_bytes()


def test_old_lines_of_the_logs_go_and_newer_ones_stay(made):
    folder, now = made.folder, time.time()
    stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(now - 100 * DAY))
    new = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(now - DAY))
    old = f"{stamp},000 1 INFO fedkit.site: old\nTraceback of it\n"
    folder.log.write_text(f"{old}{new},000 1 INFO fedkit.node: new\n")
    folder.usage.write_text("".join(json.dumps({"at": now - days * DAY, "run": f"r{days}"}) + "\n" for days in (99, 1)))
    held = folder.log.open("a")
    gone = run_purge(made, now, logs=90)
    assert [(each.name, each.count) for each in gone] == [("client.log", 2), ("usage.jsonl", 1)]
    assert receipts(made)[0]["digest"] == hashlib.sha256(old.encode()).hexdigest()
    # Whoever holds it open goes on in the same file.
    held.write("more\n")
    held.close()
    assert folder.log.read_text() == f"{new},000 1 INFO fedkit.node: new\nmore\n"
    assert [json.loads(line)["run"] for line in folder.usage.read_text().splitlines()] == ["r1"]


def test_caches_go_when_nothing_has_changed_them(made):
    train(made)
    now = time.time()
    assert run_purge(made, now + DAY - 60, caches=1) == []
    assert {each.name for each in run_purge(made, now + DAY + 60, caches=1)} == {"asked.json", "plans.json"}
    assert not made.folder.asked_file.exists()
    train(made, "run-2")


def told_of(made, now, *alerts):
    """What a site whose webhook is away has in its book."""
    book = AlertBook(made.folder.alerts)
    return book.settle([*alerts], {"webhook": "info"}, 3600.0, SITE, now)


def test_notices_that_no_channel_took_go_with_what_was_told_last_then_and_the_memory_of_the_log_stays(made):
    now = float(int(time.time()))
    old = Alert("refused", "warning", "refused:FK541", now, "PLANTED-OLD", "look", 1)
    new = dataclasses.replace(old, key="refused:FK542", text="PLANTED-NEW")
    told_of(made, now, old)
    told_of(made, now + 9 * DAY, dataclasses.replace(old, key="refused:FK543"), new)
    AlertBook(made.folder.alerts).remember({"head": [7, "ab"]})
    assert run_purge(made, now + 10 * DAY - 1, alerts=10) == [] and receipts(made) == []
    (gone,) = run_purge(made, now + 10 * DAY + 1, alerts=10)
    # The first notice alone: what was told last then was cleared since, and that is a newer notice.
    assert (gone.what, gone.name, gone.count) == ("alerts", "alerts.sqlite", 1)
    (told,) = receipts(made)
    assert told["reason"] == "retention.alerts" and told["deadline"] == int(now) + 1 and len(told["digest"]) == 64
    book = AlertBook(made.folder.alerts)
    assert [json.loads(each.body)["key"] for each in book.due("webhook", now + 11 * DAY)] == [
        "refused:FK543", "refused:FK542", "refused:FK541",
    ]  # fmt: skip
    assert book.recall() == {"head": [7, "ab"]}
    # The channel's loss is told for a day.
    assert book.channels(["webhook"], time.time())["webhook"].dropped == 1
    assert {each.count for each in run_purge(made, now + 30 * DAY, alerts=10)} == {5}
    assert b"PLANTED" not in made.folder.alerts.read_bytes()
    assert run_purge(made, now + 60 * DAY, alerts=10) == []


def quarantined(made, now):
    """A quarantine with its evidence, by a clock that is the test's."""
    made.folder.quarantine.put("a laptop was stolen", now)
    return Path(keep_evidence(made.folder, load_signing_key(made.folder.signing_key), now)["folder"])


def test_evidence_goes_when_its_days_after_the_quarantine_are_over_and_never_within_it(made, monkeypatch):
    train(made)
    now = float(int(time.time()))
    kept = quarantined(made, now - 100 * DAY)
    assert run_purge(made, now + 1000 * DAY, evidence=30) == [] and kept.exists()
    lift_site(made.folder, "it was found", now)
    # From the lift on: for a hundred days it was of an open quarantine.
    assert run_purge(made, now + 30 * DAY - 60, evidence=30) == [] and kept.exists()
    size = sum(path.stat().st_size for path in kept.rglob("*") if path.is_file())
    (gone,) = run_purge(made, now + 30 * DAY + 60, evidence=30)
    assert (gone.what, gone.name, gone.size) == ("evidence", kept.name, size) and not kept.exists()
    told = receipts(made)[-1]
    assert told["what"] == "evidence" and told["reason"] == "retention.evidence" and told["count"] == gone.count > 5
    assert run_purge(made, now + 90 * DAY, evidence=30) == []


def test_evidence_whose_deletion_was_broken_off_is_found_again_with_a_receipt_of_what_is_left(made, monkeypatch):
    now = time.time()
    kept = quarantined(made, now)
    lift_site(made.folder, "it was found", now)

    def dies(path):
        (path / "site.yaml").unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(evidence_kept.shutil, "rmtree", dies)
        with pytest.raises(KeyboardInterrupt):
            run_purge(made, now + DAY, evidence=0)
    (gone,) = run_purge(made, now + DAY, evidence=0)
    first, second = receipts(made)[-2:]
    assert first["count"] == second["count"] + 1 == gone.count + 1 and not kept.exists()


def test_a_log_that_was_altered_keeps_the_evidence_for_it_may_tell_of_another_end(made):
    now = time.time()
    kept = quarantined(made, now)
    lift_site(made.folder, "it was found", now)
    lines = made.folder.audit.read_bytes().splitlines(keepends=True)
    made.folder.audit.write_bytes(lines[0][: len(lines[0]) // 2] + b"\n" + b"".join(lines[1:]))
    assert due(made.folder, SITE, Retention({"evidence": 0}), now + 1000 * DAY) == [] and kept.exists()


def test_a_link_in_the_place_of_evidence_deletes_nothing_that_it_leads_to(made, tmp_path):
    now, outside = time.time(), tmp_path / "outside"
    outside.mkdir()
    (outside / "a file").write_text("somebody's")
    kept = quarantined(made, now)
    lift_site(made.folder, "it was found", now)
    (kept / "inner").symlink_to(outside)
    link = kept.with_name("20200101T000000.000000Z")
    link.symlink_to(outside)
    with pytest.raises(DeploymentError, match="FK706"):
        run_purge(made, now + DAY, evidence=0)
    assert kept.exists() and (outside / "a file").exists()
    link.unlink()
    assert [each.name for each in run_purge(made, now + DAY, evidence=0)] == [kept.name]
    assert not kept.exists() and (outside / "a file").exists()
    shutil.rmtree(made.folder.evidence)
    moved = tmp_path / "20200101T000000.000000Z"
    moved.mkdir()
    made.folder.evidence.symlink_to(tmp_path)
    with pytest.raises(DeploymentError, match="FK706"):
        run_purge(made, now + 2 * DAY, evidence=0)
    assert moved.exists()


def test_nothing_is_deleted_whose_receipt_cannot_be_written(made):
    train(made)
    stop(made)

    def full(event):
        raise DeploymentError("no space", code="FK770")

    with pytest.raises(DeploymentError):
        purge(made.folder, SITE, Retention({"replies": 0}), time.time() + 60, full)
    assert kept(made) == 1


def test_without_a_bound_nothing_is_ever_deleted(made):
    train(made)
    stop(made)
    assert run_purge(made, time.time() + 36_000 * DAY) == [] and kept(made) == 1


def test_a_running_site_deletes_by_the_clock_once_an_hour(made):
    train(made)
    stop(made)
    file = dataclasses.replace(made.keeper.file, retention=Retention({"replies": 2}))
    handle, asked, told, now = answerer(file, made.folder), [], [], [time.time()]

    def ask(header, body):
        asked.append(header["purge"])
        return SimpleNamespace(header=handle(json.loads(json.dumps(header)), body)[0], why="")

    upkeep = Upkeep(SimpleNamespace(ask=ask), told.append, clock=lambda: now[0])
    upkeep()
    upkeep()
    assert asked == ["due"] and not told
    now[0] += EVERY
    upkeep()
    assert asked == ["due"] * 2
    now[0] += 2 * DAY
    upkeep()
    assert asked[2:] == ["due", "delete"] and kept(made) == 0
    assert [type(event) for event in told] == [Event] and told[0].kind == "deleted"
    # A clock that was far ahead and is set right does not put off the next look until then.
    now[0] -= DAY
    upkeep()
    assert asked[4:] == ["due"]


@pytest.mark.deploy
def test_the_command_shows_first_and_deletes_under_encryption_too(made):
    values = json.loads(made.folder.site_yaml.read_text()) | {"retention": {"replies": 0}}
    made.folder.site_yaml.write_text(json.dumps(values))
    train(made)
    stop(made)

    def run(*words):
        line = [sys.executable, "-m", "fedkit", "client", *words]
        done = subprocess.run(line, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    site = str(made.folder.site_yaml)
    run("encrypt", site)
    shown = json.loads(run("purge", site, "--dry-run", "--json"))["deleted"]
    assert len(shown) == 1 and kept(made) == 1 and not receipts(made)
    assert json.loads(run("purge", site, "--json"))["deleted"] == shown and kept(made) == 0
    assert run("log", "show", site, "--kind", "deleted", "--json").count("\n") == 1
    assert json.loads(run("log", "verify", site, "--json"))["good"]


@pytest.mark.parametrize(("given", "word"), [
    ({"replies": -1}, "retention.replies is -1; it must be between 0 and 36,500"),
    ({"replies": 1.5}, "a whole number is needed"),
    ({"reply": 1}, "retention.reply is unknown"),
    ([1], "keys and values are needed"),
])  # fmt: skip
def test_a_bound_that_cannot_be_is_refused(made, given, word):
    values = json.loads(made.folder.site_yaml.read_text()) | {"retention": given}
    made.folder.site_yaml.write_text(json.dumps(values))
    with pytest.raises(ConfigError) as caught:
        read_site_file(made.folder.site_yaml)
    assert word in str(caught.value)


@pytest.mark.deploy
def test_a_real_site_deletes_by_itself_when_it_connects_and_its_log_still_verifies(running):
    coordinator, site = running(start=False)
    values = json.loads(site.folder.site_yaml.read_text()) | {
        "retention": {"caches": 0, "replies": 0, "alerts": 0, "evidence": 0}
    }
    site.folder.site_yaml.write_text(json.dumps(values))
    site.start().event("connected")
    reply = coordinator.ask(coordinator.request(coordinator.job("kept"), "train", 1, model(SIZE)))
    assert not reply.has_error() and site.folder.asked_file.exists()
    assert site.stop() == 0
    stop(site, "kept")
    told_of(site, time.time() - 60, Alert("refused", "warning", "refused:FK541", 1.0, "PLANTED", "look", 1))
    evidence = quarantined(site, time.time() - 60)
    lift_site(site.folder, "it was found", time.time())
    site.folder.pause.take_away()
    time.sleep(1.1)
    site.start().event("connected")
    # A message is taken after what is due has been deleted.
    assert not coordinator.ask(coordinator.request(coordinator.job("next"), "train", 1, model(SIZE))).has_error()
    told = receipts(site)
    assert [(each["what"], each.get("run")) for each in told if each["what"] == "replies"] == [("replies", "kept")]
    assert {each.get("name") for each in told} >= {"asked.json", "plans.json", "alerts.sqlite", evidence.name}
    assert not evidence.exists() and b"PLANTED" not in site.folder.alerts.read_bytes()
    folder = open_site(site.folder.site_yaml).folder
    with Ledger(folder.ledger(DATASET), read_only=True, vault=folder.vault()) as ledger:
        runs = ledger.account(DATASET).runs
        assert runs["kept"].pruned and not runs["next"].pruned and ledger.verify() == 1
    words = [sys.executable, "-m", "fedkit", "client", "log", "verify", str(site.folder.site_yaml)]
    assert subprocess.run(words, capture_output=True).returncode == 0


def test_in_quarantine_nothing_is_deleted_for_it_may_be_evidence(made):
    train(made)
    stop(made)
    made.folder.quarantine.put("looked at", time.time())
    with pytest.raises(DeploymentError, match="FK787"):
        run_purge(made, time.time() + 60, replies=0)
    file = dataclasses.replace(made.keeper.file, retention=Retention({"replies": 0}))
    handle = answerer(file, made.folder)
    assert handle({"purge": "due", "now": time.time() + 60}, b"")[0] == {"problem": True}
    assert kept(made) == 1 and receipts(made) == []
    made.folder.quarantine.take_away()
    assert len(run_purge(made, time.time() + 60, replies=0)) == 1 and kept(made) == 0


@pytest.mark.parametrize("left", [False, True])
def test_a_signed_agreement_s_days_delete_a_site_s_replies_also_of_a_study_that_was_left(joined, left):  # noqa: F811
    study = sign(joined, retention_days=7)
    assert not isinstance(train_under(joined, agreement=study.digest), str)
    stop(joined)
    if left:
        call(joined, "study", "leave", "heart")
    now = time.time()
    assert run_purge(joined, now + 7 * DAY - 60) == [] and kept(joined) == 1
    (gone,) = run_purge(joined, now + 7 * DAY + 60)
    assert gone.reason == "study heart" and kept(joined) == 0
    (told,) = receipts(joined)
    assert told["what"] == "replies" and told["reason"] == "study heart"
