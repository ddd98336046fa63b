"""A run's updates and journal go when the strictest bound has passed, with a receipt; model and evidence stay."""

import hashlib
import json
import time
from types import SimpleNamespace

import numpy as np
import pytest
from fedkit_server import retention
from fedkit_server.record import open_record
from fedkit_server.retention import due, purge
from fedkit_server.store import Store

from fedkit.cli.main import main
from fedkit.errors import DeploymentError, RunError
from fedkit.federation.job import open_job
from fedkit.federation.outcome import Finish
from fedkit.federation.rounds import digest
from fedkit.governance.retention import DAY
from fedkit.models.flat import pack
from fedkit.runs.deleted import DELETED
from fedkit.simulation.replay import replay
from fedkit.storage.audit import Log
from fedkit.storage.audit_line import Event
from fedkit.storage.audit_verify import readable_lines
from fedkit.storage.keys import new_signing_key
from fedkit.types import ClientUpdate, RoundReport
from tests.server.builders import make_server_folder
from tests.server.sites import FEDERATION, RECORDS, job_text, keyring

PLANTED = np.float32(7.0625)


@pytest.fixture
def here(tmp_path):
    """A coordinator's folder with a run that was finished now, whose updates are planted."""
    folder = make_server_folder(tmp_path / "coordinator", new_signing_key())
    log, text, now = Log(folder.audit, folder.key()), job_text("r"), time.time()
    job = open_job(text, keyring(), FEDERATION, now)
    made = open_record(folder.runs / "r", job)
    start = pack(made.prepared.model)
    size = len(start)
    sent = [ClientUpdate(name, np.zeros(size, np.float32), 10.0) for name in RECORDS]
    made.on_round(RoundReport(0, (), {}, {}, {}, digest(start), 0.1, {}), start, ())
    made.on_round(RoundReport(1, tuple(RECORDS), {}, {}, {}, digest(start), 0.1, {}), start, sent)
    made.finish(Finish(start, "complete", 1, ()), {})
    journal = folder.runs / "r" / "journal"
    journal.mkdir()
    (journal / "00001-update-0001.safetensors").write_bytes(np.full(size, PLANTED).tobytes())
    store = Store(folder.database)
    store.add_run("r", text, job.name, job.submitter, now - 50 * DAY)
    store.set_run("r", "finished", "complete")
    log.append(Event("run_ended", {"run": "r", "outcome": "complete"}))
    yield SimpleNamespace(folder=folder, store=store, log=log, job=job, run=folder.runs / "r", now=time.time())
    store.close()


def keep_for(here, days):
    values = json.loads(here.folder.settings_file.read_text()) | {"retention_days": days}
    here.folder.settings_file.write_text(json.dumps(values))


def run_purge(here, now):
    return purge(here.folder, here.store, now, here.log.append)


def test_updates_go_after_their_days_from_the_run_s_end_and_not_before_and_the_model_stays(here):
    assert run_purge(here, here.now + 1000 * DAY) == []
    assert replay(here.run).identical
    keep_for(here, 30)
    assert run_purge(here, here.now + 30 * DAY - 60) == []
    files = sorted(path for path in here.run.rglob("*") if path.is_file() and path.parent != here.run)
    size = sum(path.stat().st_size for path in files)
    (gone,) = run_purge(here, here.now + 30 * DAY + 60)
    assert not (here.run / "updates").exists() and not (here.run / "journal").exists()
    assert PLANTED.tobytes() * 4 not in b"".join(path.read_bytes() for path in here.run.rglob("*") if path.is_file())
    for name in ("model.safetensors", "manifest.json", "result.json", "metrics.jsonl", "report.html", "job.json"):
        assert (here.run / name).exists(), name
    (line,) = readable_lines(here.folder.audit, ("deleted",))
    assert line.fields["size"] == gone.size == size and line.fields["count"] == len(files) == gone.count
    assert line.fields["reason"] == "retention_days of server.json" and line.signed_by(here.folder.key().public)
    assert len(gone.digest) == len(hashlib.sha256().hexdigest())
    assert run_purge(here, here.now + 60 * DAY) == []


def test_a_replay_says_by_which_receipt_the_updates_were_deleted(here):
    keep_for(here, 0)
    run_purge(here, here.now + 60)
    (line,) = readable_lines(here.folder.audit, ("deleted",))
    with pytest.raises(RunError) as caught:
        replay(here.run)
    assert caught.value.code == "FK636"
    assert f"line {line.seq} ({line.digest})" in str(caught.value) and "retention_days of server.json" in str(
        caught.value
    )
    # Nor can it be gone on with.
    with pytest.raises(RunError, match="FK636"):
        open_record(here.run, here.job)


@pytest.mark.parametrize(("own", "agreed", "days", "why"), [
    (30, 10, 10, "agreement"), (10, 30, 10, "server.json"), (None, 10, 10, "agreement"),
])  # fmt: skip
def test_the_strictest_of_the_coordinator_and_the_agreement_counts(here, monkeypatch, own, agreed, days, why):
    keep_for(here, own)
    monkeypatch.setattr(
        retention.Studies,
        "newest",
        lambda self, name: SimpleNamespace(agreement=SimpleNamespace(retention_days=agreed)),
    )
    assert run_purge(here, here.now + days * DAY - 60) == []
    (gone,) = run_purge(here, here.now + days * DAY + 60)
    assert why in gone.reason


@pytest.mark.parametrize("state", ["queued", "running"])
def test_a_run_that_is_not_over_keeps_everything(here, state):
    keep_for(here, 0)
    here.store.set_run("r", state)
    assert run_purge(here, here.now + 1000 * DAY) == [] and (here.run / "updates").exists()


def test_a_run_that_is_resumed_between_receipt_and_deletion_keeps_everything(here):
    keep_for(here, 0)

    def tell(event):
        here.store.set_run("r", "queued")
        return here.log.append(event)

    assert purge(here.folder, here.store, here.now + 60, tell) == []
    assert (here.run / "updates").exists() and not (here.run / DELETED).exists()


def test_nothing_is_deleted_whose_receipt_cannot_be_written(here):
    keep_for(here, 0)

    def full(event):
        raise DeploymentError("no space", code="FK770")

    with pytest.raises(DeploymentError):
        purge(here.folder, here.store, here.now + 60, full)
    assert (here.run / "updates").exists()


def test_a_study_s_text_that_cannot_be_read_deletes_nothing(here):
    keep_for(here, 0)
    place = here.folder.path / "studies" / here.job.study
    place.mkdir(parents=True)
    (place / "1.json").write_text("{}")
    with pytest.raises(DeploymentError, match="FK705"):
        due(here.folder, here.store, here.now + 60)


@pytest.mark.parametrize("days", [-1, 1.5, "30", True, 36_501])
def test_a_bound_that_cannot_be_is_refused(here, days):
    keep_for(here, days)
    with pytest.raises(DeploymentError, match="FK705"):
        here.folder.settings()


def test_the_command_shows_first_and_then_deletes(here, capsys):
    keep_for(here, 0)
    time.sleep(1.1)

    def run(*words):
        with pytest.raises(SystemExit) as left:
            main(["server", "purge", str(here.folder.path), "--json", *words])
        assert left.value.code == 0
        return json.loads(capsys.readouterr().out)["deleted"]

    shown = run("--dry-run")
    assert [each["run"] for each in shown] == ["r"] and (here.run / "updates").exists()
    assert run() == shown and not (here.run / "updates").exists() and run() == []
