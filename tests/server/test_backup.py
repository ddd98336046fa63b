"""A coordinator's folder is copied while runs go on, and made anew from the copy."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from fedkit_server import backup
from fedkit_server.backup import make_backup, put_back_coordinator
from fedkit_server.folder import open_folder
from fedkit_server.rotation import renew_coordinator_key
from fedkit_server.store import Store

from fedkit.cli.main import main
from fedkit.errors import DeploymentError, FederationError
from fedkit.federation import statements
from fedkit.runs.journal import open_journal
from fedkit.runs.resume import resume_point
from fedkit.storage.audit import Log
from fedkit.storage.audit_line import Event
from fedkit.storage.audit_verify import readable_lines, verify
from fedkit.storage.keys import new_signing_key
from fedkit.types import ClientUpdate
from tests.server.builders import make_server_folder

MODEL = np.arange(50_000, dtype=np.float32)


@pytest.fixture
def root():
    return new_signing_key()


@pytest.fixture
def folder(tmp_path, root):
    made = make_server_folder(tmp_path / "coordinator", root)
    store = Store(made.database)
    store.add_run("run-1", "{}", "heart", "anna", 1.0)
    store.put_site("north", 7, b"node", b"k" * 32, 1.0)
    store.close()
    Log(made.audit, made.key()).append(Event("started", {"version": "0.1.0"}))
    return made


def rounds(folder, over, most):
    """A run that goes on: each round deletes the model and the updates of the one before."""
    with open_journal(folder / "journal") as journal:
        journal.begin({"seed": 1}, MODEL, {})
        for number in range(1, most + 1):
            journal.ask(number, "train", ["north"], {})
            journal.keep_update(number, 0, ClientUpdate("north", MODEL, 1.0))
            journal.close_phase(number, "train", {})
            journal.keep_model(number, MODEL + number, {})
            journal.end(number, {}, [], degraded=False)
            time.sleep(0.02)
    over.set()


def test_a_run_that_goes_on_is_copied_as_a_kill_would_have_left_it(folder, tmp_path):
    over, copies = threading.Event(), 0
    (folder.runs / "run-1").mkdir()
    worker = threading.Thread(target=rounds, args=(folder.runs / "run-1", over, 60))
    worker.start()
    seen = []
    while not over.is_set() or copies < 3:
        make_backup(folder, tmp_path / f"copy-{copies}")
        put_back_coordinator(tmp_path / f"copy-{copies}", tmp_path / f"again-{copies}")
        again = open_folder(tmp_path / f"again-{copies}")
        if (again.runs / "run-1" / "journal" / "steps.jsonl").exists():
            point = resume_point(again.runs / "run-1" / "journal")
            if point is not None:
                assert np.array_equal(point.parameters, MODEL + (point.round if point.aggregated else point.round - 1))
                seen.append(point.round)
        copies += 1
    worker.join()
    assert seen == sorted(seen) and seen[-1] >= 60


def test_a_run_that_outpaces_every_copy_is_refused_with_what_to_do(folder, tmp_path, monkeypatch):
    with open_journal(folder.runs / "run-1" / "journal") as journal:
        journal.begin({"seed": 1}, MODEL, {})
    copy, number = backup.copy_file, iter(range(1, 1000))

    def outpaced(source, target):
        copy(source, target)
        if source.name == "steps.jsonl":
            with open_journal(folder.runs / "run-1" / "journal") as journal:
                journal.load()
                journal.keep_model(each := next(number), MODEL, {})
                journal.end(each, {}, [], degraded=False)

    monkeypatch.setattr(backup, "copy_file", outpaced)
    with pytest.raises(DeploymentError, match=r"FK766.*run-1.*halt"):
        make_backup(folder, tmp_path / "copy")
    assert not (tmp_path / "copy").exists() and not list(tmp_path.glob(".copy*"))


def test_what_was_put_back_is_the_same_federation_and_its_log_says_so(folder, tmp_path):
    (folder.path / "link.db").write_bytes(b"flower's")
    (folder.path / "tracking").mkdir(mode=0o700)
    (folder.path / "tracking" / "tensorboard.json").write_text("{}", encoding="utf-8")
    made = make_backup(folder, tmp_path / "copy")
    # With what was told and without what was mirrored, runs would be missing from the mirror for good.
    assert made["tracking"] and not [name for name in made["files"] if name.startswith(("link.db", "tracking"))]
    done = put_back_coordinator(tmp_path / "copy", tmp_path / "again")
    again = open_folder(tmp_path / "again")
    assert again.keyring().statements == folder.keyring().statements and not again.link.exists()
    store = Store(again.database)
    assert [run.run for run in store.runs()] == ["run-1"] and store.site_keys() == {"north": b"k" * 32}
    store.close()
    verify(again.audit, [again.key().public])
    (line,) = [line for line in readable_lines(again.audit, ("restored",)) if line.kind == "restored"]
    assert line.fields["made_at"] == done["made_at"]
    for path in [again.path, *again.path.rglob("*")]:
        assert path.stat().st_mode & 0o077 == 0, path


def test_keys_that_were_exchanged_while_they_were_copied_make_no_backup(folder, tmp_path, monkeypatch):
    copy = backup.copy_file

    def late(source, target):
        copy(source, target)
        if source.name == "coordinator.key":
            renew_coordinator_key(folder, time.time())

    monkeypatch.setattr(backup, "copy_file", late)
    with pytest.raises(DeploymentError, match=r"FK766.*try again"):
        make_backup(folder, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
    monkeypatch.undo()
    make_backup(folder, tmp_path / "copy")


def test_a_newer_chain_of_a_site_is_taken_and_another_is_not(folder, root, tmp_path):
    make_backup(folder, tmp_path / "copy")
    newer = statements.add(folder.keyring(), "ben", "viewer", new_signing_key().public, root, time.time())
    (tmp_path / "north.jsonl").write_text("".join(f"{text}\n" for text in newer.statements))
    put_back_coordinator(tmp_path / "copy", tmp_path / "again", tmp_path / "north.jsonl")
    assert open_folder(tmp_path / "again").keyring().statements == newer.statements
    other = make_server_folder(tmp_path / "other", new_signing_key())
    with pytest.raises(FederationError, match="FK54"):
        put_back_coordinator(tmp_path / "copy", tmp_path / "third", other.keyring_file)
    assert not (tmp_path / "third").exists()


def test_a_sites_backup_is_no_coordinators(folder, tmp_path):
    make_backup(folder, tmp_path / "copy")
    listed = (tmp_path / "copy" / "backup.json").read_text()
    (tmp_path / "copy" / "backup.json").write_text(listed.replace('"coordinator"', '"site"'))
    with pytest.raises(DeploymentError, match=r"FK766.*a backup of a site"):
        put_back_coordinator(tmp_path / "copy", tmp_path / "again")


def test_the_command_says_what_is_not_copied(folder, tmp_path, capsys):
    with pytest.raises(SystemExit) as left:
        main(["server", "backup", str(folder.path), str(tmp_path / "copy")])
    told = capsys.readouterr().out
    assert not left.value.code and "not copied: Flower's link.db" in told and "tracking" not in told
