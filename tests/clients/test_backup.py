"""A site's folder is copied while it answers, and made anew from the copy: nothing that was charged is forgotten."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest
from fedkit_client.backup import make_backup
from fedkit_client.folder import SiteFolder
from fedkit_client.gatekeeper import Gatekeeper
from fedkit_client.ledgers import open_ledgers
from fedkit_client.recalled import require_withdrawals
from fedkit_client.restore import put_back_site
from fedkit_client.start import open_site

from fedkit.errors import DeploymentError, FedkitError
from fedkit.privacy.ledger.ledger import Ledger
from fedkit.storage.audit import Log
from fedkit.storage.audit_line import Event
from fedkit.storage.audit_verify import readable_lines, verify
from fedkit.storage.backup import read_list
from fedkit.storage.keys import load_signing_key
from tests.clients.conftest import FEDKIT, NO_PROXY
from tests.clients.coordinator import DATASET, SITE, model


def answer(made, job, number, keeper=None):
    """A round as the site's two processes have it: one charges and answers, the other's log tells of it."""
    found = (keeper or made.keeper).answer("train", made.coordinator.request(job, "train", number, model(5)))
    assert not isinstance(found, str), found
    run = {"run": made.coordinator.opened(job).run, "dataset": DATASET}
    Log(made.folder.audit, load_signing_key(made.folder.signing_key)).append(
        Event("admitted", run), Event("reserved", {**run, "purpose": "train", "round": number})
    )


def account(path):
    with Ledger(path, read_only=True) as ledger:
        return ledger.account(DATASET)


@pytest.fixture
def made(bench):
    return bench()


def test_the_copy_is_whole_closed_to_others_and_holds_no_table_and_no_process(made, tmp_path):
    answer(made, made.coordinator.job("run-1"), 1)
    (made.folder.path / "client.pid").write_text("7\n")
    done = make_backup(made.folder, SITE, tmp_path / "copy")
    assert done["left_out"] == ["table.csv"] and read_list(tmp_path / "copy", "site")["site"] == SITE
    names = {
        path.relative_to(tmp_path / "copy").as_posix() for path in (tmp_path / "copy").rglob("*") if path.is_file()
    }
    assert {"site.yaml", "node.key", "signing.key", "audit.jsonl", f"ledgers/{DATASET}.sqlite"} <= names
    assert not names & {"client.pid", "table.csv"} and not any(name.endswith(".lock") for name in names)
    for path in [tmp_path / "copy", *(tmp_path / "copy").rglob("*")]:
        assert path.stat().st_mode & 0o077 == 0, path
    assert account(tmp_path / "copy" / "ledgers" / f"{DATASET}.sqlite").spent == made.charged()


def test_nothing_is_overwritten_and_nothing_copied_into_the_folder_itself(made, tmp_path):
    (tmp_path / "there").mkdir()
    for target, code in (
        (tmp_path / "there", "FK704"),
        (made.folder.path / "copy", "FK704"),
        (tmp_path / "no" / "disk", "FK700"),
    ):
        with pytest.raises(DeploymentError) as refused:
            make_backup(made.folder, SITE, target)
        assert refused.value.code == code
    assert not list(tmp_path.rglob(".*unfinished*"))


def test_copies_that_are_made_while_rounds_are_charged_know_every_charge_of_their_own_log(made, tmp_path):
    job, over, problems = made.coordinator.job("run-1"), threading.Event(), []

    def train():
        try:
            for number in range(1, 6):
                answer(made, job, number)
        except BaseException as error:
            problems.append(error)
        finally:
            over.set()

    worker = threading.Thread(target=train)
    worker.start()
    copies = 0
    while not over.is_set() or copies < 3:
        # It opens each ledger, verifies its chain and refuses one that is behind the log.
        make_backup(made.folder, SITE, tmp_path / f"copy-{copies}")
        copies += 1
    worker.join()
    assert not problems
    # The last of those may have begun before the last round was charged.
    make_backup(made.folder, SITE, tmp_path / f"copy-{copies}")
    copies += 1
    rounds = []
    for number in range(copies):
        copied = SiteFolder(tmp_path / f"copy-{number}")
        verify(copied.audit, [load_signing_key(made.folder.signing_key).public]) if copied.audit.exists() else None
        rounds.append(len(account(copied.ledger(DATASET)).runs.get("run-1", _None()).reserved))
    assert rounds == sorted(rounds) and rounds[-1] == 5


class _None:
    reserved = ()


def test_a_charge_between_the_logs_copy_and_the_ledgers_is_in_the_ledger_at_most(made, tmp_path, monkeypatch):
    from fedkit_client import backup

    job, copy = made.coordinator.job("run-1"), backup.copy_file
    answer(made, job, 1)

    def late(source, target, **given):
        copy(source, target, **given)
        if source.name == "audit.jsonl":
            answer(made, job, 2)

    monkeypatch.setattr(backup, "copy_file", late)
    make_backup(made.folder, SITE, tmp_path / "copy")
    copied = SiteFolder(tmp_path / "copy")
    told = [line.fields["round"] for line in readable_lines(copied.audit, ("reserved",)) if line.kind == "reserved"]
    assert told == [1] and len(account(copied.ledger(DATASET)).runs["run-1"].reserved) == 2


def test_a_copy_in_the_other_order_would_be_refused_by_its_own_look(made, tmp_path, monkeypatch):
    from fedkit_client import backup

    job, copy = made.coordinator.job("run-1"), backup.copy_file
    answer(made, job, 1)

    def late(source, target, **given):
        copy(source, target, **given)
        if source.name == f"{DATASET}.sqlite":
            answer(made, job, 2)

    monkeypatch.setattr(backup, "copy_file", late)
    monkeypatch.setattr(backup, "_FIRST", backup._LAST)
    monkeypatch.setattr(backup, "_LAST", ("audit*",))
    with pytest.raises(FedkitError, match="FK332"):
        make_backup(made.folder, SITE, tmp_path / "copy")
    assert not (tmp_path / "copy").exists() and not list(tmp_path.glob(".copy*"))


def test_a_backup_that_is_killed_has_not_its_name(made, tmp_path):
    answer(made, made.coordinator.job("run-1"), 1)
    # Enough to copy for the kill to come in the middle of it.
    (made.folder.path / "client.log").write_bytes(bytes(300 << 20))
    command = [*FEDKIT, "client", "backup", str(made.folder.site_yaml), str(tmp_path / "copy")]
    process = subprocess.Popen(command, env={**os.environ, **NO_PROXY})
    while not (begun := list(tmp_path.glob(".copy.unfinished-*/client.log"))) or not begun[0].stat().st_size:
        assert process.poll() is None
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait(20)
    assert not (tmp_path / "copy").exists() and list(tmp_path.glob(".copy.unfinished-*"))
    with pytest.raises(DeploymentError, match="FK766"):
        read_list(next(tmp_path.glob(".copy.unfinished-*")), "site")
    (made.folder.path / "client.log").unlink()
    # The site's own folder is as it was.
    answer(made, made.coordinator.job("run-2"), 1)
    make_backup(made.folder, SITE, tmp_path / "copy")


CHANGES = {
    "a time of no calendar": {"made_at": 10**30},
    "no time": {"made_at": "monday"},
    "another format": {"format": "1"},
    "no site": {"site": None},
}


@pytest.mark.parametrize(
    "harm",
    ["a byte", "a file gone", "a file more", "the list", "a link", "a pipe", "the list a pipe", "an endless file",
     "a time of no calendar", "no time", "another format", "no site"],
)  # fmt: skip
def test_a_damaged_copy_is_never_put_back(made, tmp_path, harm):
    make_backup(made.folder, SITE, copy := tmp_path / "copy")
    if harm == "a byte":
        content = bytearray((copy / "keyring.jsonl").read_bytes())
        content[5] ^= 1
        (copy / "keyring.jsonl").write_bytes(content)
    elif harm == "a file gone":
        (copy / "ledgers" / f"{DATASET}.sqlite").unlink()
    elif harm == "a file more":
        (copy / "approvals.jsonl").write_text("{}\n")
    elif harm == "the list":
        (copy / "backup.json").write_text("{}")
    elif harm in ("a pipe", "the list a pipe"):
        place = copy / ("backup.json" if "list" in harm else "ca.crt")
        place.unlink()
        os.mkfifo(place)
    elif harm == "an endless file":
        os.truncate(copy / "ca.crt", 2**42)
    elif harm in CHANGES:
        values = json.loads((copy / "backup.json").read_text())
        (copy / "backup.json").write_text(json.dumps({**values, **CHANGES[harm]}))
    else:
        (copy / "ca.crt").rename(tmp_path / "elsewhere")
        (copy / "ca.crt").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DeploymentError, match="FK766"):
        put_back_site(copy, tmp_path / "again", (), time.time())
    assert not (tmp_path / "again").exists()


def test_a_copy_that_changes_between_the_look_and_the_copying_is_not_put_back(made, tmp_path, monkeypatch):
    from fedkit_client import restore

    make_backup(made.folder, SITE, copy := tmp_path / "copy")
    look = restore.read_list

    def changed_after(*given):
        found = look(*given)
        (copy / "keyring.jsonl").write_bytes(b"{}\n")
        return found

    monkeypatch.setattr(restore, "read_list", changed_after)
    with pytest.raises(DeploymentError, match="FK766"):
        put_back_site(copy, tmp_path / "again", (), time.time())
    assert not (tmp_path / "again").exists() and not list(tmp_path.glob(".again*"))


def test_why_a_site_was_paused_before_its_backup_is_not_forgotten(made, tmp_path):
    for number, reason in enumerate(("the ethics board has questions", "x" * 500)):
        made.folder.pause.put(reason, time.time())
        make_backup(made.folder, SITE, tmp_path / f"copy-{number}")
        put_back_site(tmp_path / f"copy-{number}", tmp_path / f"again-{number}", (), time.time())
        told = SiteFolder(tmp_path / f"again-{number}").pause.read()
        assert not told.problem and "backup" in told.reason and reason[:300] in told.reason


@pytest.mark.parametrize("newest_last", [True, False])
def test_of_several_exports_of_a_ledger_each_counts_in_whatever_order(made, tmp_path, newest_last):
    job = made.coordinator.job("run-1")
    answer(made, job, 1)
    make_backup(made.folder, SITE, tmp_path / "copy")
    exports = []
    for number in (2, 3):
        answer(made, job, number)
        exports.append(tmp_path / f"head-{number}.json")
        with Ledger(made.folder.ledger(DATASET)) as ledger:
            exports[-1].write_text(json.dumps(ledger.export().to_dict()))
    done = put_back_site(tmp_path / "copy", tmp_path / "again", exports if newest_last else exports[::-1], time.time())
    assert done["ledgers"][DATASET]["charged"] == 2
    assert account(tmp_path / "again" / "ledgers" / f"{DATASET}.sqlite").spent == made.charged()


def test_what_was_spent_since_is_charged_by_the_export_and_the_rest_of_the_run_goes_on_top(made, tmp_path):
    job = made.coordinator.job("run-1")
    answer(made, job, 1)
    make_backup(made.folder, SITE, tmp_path / "copy")
    answer(made, job, 2)
    with Ledger(made.folder.ledger(DATASET)) as ledger:
        (tmp_path / "head.json").write_text(json.dumps(ledger.export().to_dict()))
    spent = made.charged()
    made.folder.path.rename(tmp_path / "burnt")
    done = put_back_site(tmp_path / "copy", made.folder.path, [tmp_path / "head.json"], time.time())
    assert done["ledgers"][DATASET]["charged"] == 1 and made.charged() == spent
    (tmp_path / "burnt" / "table.csv").rename(made.folder.path / "table.csv")
    site = open_site(made.folder.site_yaml)
    open_ledgers(site.file, site.folder)
    require_withdrawals(site.file, site.folder)
    # Paused, and the log says since when it knows nothing.
    assert site.folder.pause.there() and "backup" in site.folder.pause.read().reason
    (line,) = [line for line in readable_lines(site.folder.audit, ("restored",)) if line.kind == "restored"]
    assert line.fields["made_at"] == done["made_at"] and line.fields["exports"] == 1
    keeper = Gatekeeper(site.file, site.folder)
    assert site.folder.pause.refusal() == "FK580"
    site.folder.pause.path.unlink()
    answer(made, job, 3, keeper)
    assert made.charged() > spent
    # What left before the machine was lost is not computed a second time under the old charge.
    assert isinstance(keeper.answer("train", made.coordinator.request(job, "train", 2, model(5))), str)


def test_a_round_without_an_answer_at_the_backup_is_answered_by_nobody_afterwards(made, tmp_path, monkeypatch):
    job = made.coordinator.job("run-1")

    def killed(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(Ledger, "commit", killed)
    with pytest.raises(KeyboardInterrupt):
        made.keeper.answer("train", made.coordinator.request(job, "train", 1, model(5)))
    monkeypatch.undo()
    monkeypatch.setattr("fedkit_client.gatekeeper.apply", lambda file, size=0: None)
    reserved = account(made.folder.ledger(DATASET)).runs["run-1"].reserved
    assert reserved and all(each.commit is None for each in reserved.values())
    make_backup(made.folder, SITE, tmp_path / "copy")
    done = put_back_site(tmp_path / "copy", tmp_path / "again", (), time.time())
    assert done["ledgers"][DATASET] == {"export": False, "charged": 0, "closed": 1}


def test_a_foreign_export_is_refused_and_no_folder_is_made(made, tmp_path):
    make_backup(made.folder, SITE, tmp_path / "copy")
    with Ledger.create(tmp_path / "other.sqlite") as other:
        other.create_budget(DATASET, unit="record", limit=1.0, delta=1e-5)
        (tmp_path / "head.json").write_text(json.dumps(other.export().to_dict()))
    with pytest.raises(FedkitError, match="FK766"):
        put_back_site(tmp_path / "copy", tmp_path / "again", [tmp_path / "head.json"], time.time())
    assert not (tmp_path / "again").exists() and not list(Path(tmp_path).glob(".again*"))


@pytest.mark.deploy
def test_a_site_that_answers_is_backed_up_put_back_and_goes_on_with_the_run(running, tmp_path):
    coordinator, site = running()
    folder, job = site.folder, coordinator.job("run-1")
    first = coordinator.ask(coordinator.request(job, "train", 1, model(5)))
    assert not first.has_error()
    # At work on the second round while its folder is copied.
    waiting = coordinator.send(coordinator.request(job, "train", 2, model(5)))
    done = fedkit("backup", folder.site_yaml, tmp_path / "copy")
    assert done["ledgers"][DATASET]["entries"] > 0 and "table.csv" in done["left_out"]
    assert not coordinator.reply(waiting).has_error()
    export = [
        *FEDKIT,
        "ledger",
        "export",
        "--ledger",
        str(folder.ledger(DATASET)),
        "--out",
        str(tmp_path / "head.json"),
    ]
    subprocess.run(export, check=True, capture_output=True)
    spent = site.charged()
    site.kill()
    folder.path.rename(tmp_path / "burnt")
    fedkit("restore", tmp_path / "copy", folder.path, "--export", tmp_path / "head.json")
    assert site.charged() == spent
    (tmp_path / "burnt" / "table.csv").rename(folder.path / "table.csv")
    # Its key lies beside the folder, as always: it starts, enrolled as before, and says nothing until it may.
    site.start().event("connected")
    assert coordinator.code(coordinator.request(job, "train", 3, model(5))) == "FK580"
    fedkit("resume", folder.site_yaml)
    third = coordinator.ask(coordinator.request(job, "train", 3, model(5)))
    assert not third.has_error(), third.error
    assert site.charged() > spent
    told = fedkit("inventory", folder.site_yaml)
    assert told["datasets"][DATASET]["released"]


def fedkit(*words):
    command = [*FEDKIT, "client", *map(str, words), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **NO_PROXY})
    assert done.returncode == 0, (words, done.stdout, done.stderr)
    return json.loads(done.stdout)
