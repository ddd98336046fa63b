"""A coordinator's runs are mirrored by a thread that only reads, across restarts, whatever a tracker does."""

import json
import os
import subprocess
import sys

import pytest
from fedkit_server.tracking import Tracking, begin_tracking

from fedkit.errors import RunError
from fedkit.reporting.tracking import Mirror
from fedkit.runs.directory import MANIFEST, METRICS
from tests.reporting.conftest import Fabricated, write
from tests.reporting.test_tracking import Noted, outcome


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "runs", Fabricated(rounds=3))
    (tmp_path / "runs" / "asked").mkdir()
    return tmp_path


def tracking(folder, noted, told=None):
    return Tracking(folder / "runs", Mirror(noted, told or {}), folder / "memory.json")


def test_what_was_told_before_a_restart_is_not_told_again(folder, monkeypatch):
    noted = Noted()
    monkeypatch.setattr("fedkit_server.tracking.open_tracker", lambda kind, place: noted)
    run = next(each for each in (folder / "runs").iterdir() if (each / MANIFEST).exists())
    whole = (run / METRICS).read_text().splitlines(keepends=True)
    outcome(run, "running")
    (run / METRICS).write_text("".join(whole[:2]))
    begin_tracking("mlflow", folder).look()
    (run / METRICS).write_text("".join(whole))
    outcome(run, "complete")
    again = begin_tracking("mlflow", folder)
    again.look()
    again.look()
    steps = [call[2] for call in noted.of("scalars")]
    assert steps[: len(whole)] == list(range(len(whole))) and len(noted.of("end")) == len(noted.of("begin")) == 1
    memory = folder / "tracking" / "mlflow.json"
    assert memory.stat().st_mode & 0o077 == 0 and (folder / "tracking").stat().st_mode & 0o077 == 0


def test_a_run_that_failed_and_was_resumed_is_told_to_its_end(folder):
    noted = Noted()
    run = next(each for each in (folder / "runs").iterdir() if (each / MANIFEST).exists())
    made = tracking(folder, noted)
    for each in ("failed", "running", "complete"):
        outcome(run, each)
        made.look()
    assert [call[2] for call in noted.of("end")] == ["failed", "complete"]


def test_a_run_that_cannot_be_told_holds_up_no_other_and_is_tried_less_and_less(folder):
    noted = Noted()
    run = next(each for each in (folder / "runs").iterdir() if (each / MANIFEST).exists())
    broken = folder / "runs" / "0-broken"
    broken.mkdir()
    (broken / MANIFEST).write_text("{")
    os.symlink(run, folder / "runs" / "1-link")
    made = tracking(folder, noted)
    tries = []
    real = made._mirror.catch_up
    made._mirror.catch_up = lambda path: tries.append(path.name) or real(path)
    for _ in range(40):
        made.look()
    assert tries.count("0-broken") == 6 and "1-link" not in tries
    assert [call[2] for call in noted.of("end")] == ["complete"]


def test_a_thread_tells_what_came_last_before_the_end(folder):
    noted = Noted()
    made = tracking(folder, noted)
    made.start()
    made.close()
    assert [call[2] for call in noted.of("end")] == ["complete"] and not made._thread.is_alive()


def test_a_memory_that_cannot_be_read_is_refused_before_anything_is_served(folder, monkeypatch):
    monkeypatch.setattr("fedkit_server.tracking.open_tracker", lambda kind, place: Noted())
    begin_tracking("mlflow", folder)
    (folder / "tracking" / "mlflow.json").write_text(json.dumps({"run": {"other": 1}}))
    with pytest.raises(RunError, match="FK611"):
        begin_tracking("mlflow", folder)


@pytest.mark.slow
def test_a_coordinator_in_the_background_is_refused_with_the_trackers_own_error(tmp_path):
    fedkit, folder = [sys.executable, "-m", "fedkit", "server"], tmp_path / "coordinator"
    line = [
        *fedkit,
        "init",
        str(folder),
        "--name",
        "heart",
        "--host",
        "localhost",
        "--profile",
        str(tmp_path / "admin"),
    ]
    subprocess.run(line, check=True, capture_output=True)
    line = [*fedkit, "start", str(folder), "--bind", "127.0.0.1", "--detach", "--track", "wandb"]
    done = subprocess.run(line, capture_output=True, text=True)
    assert done.returncode == 2 and "FK617" in done.stderr
    told = subprocess.run([*fedkit, "halt", str(folder), "--json"], check=True, capture_output=True, text=True)
    assert json.loads(told.stdout)["halted"] is False
