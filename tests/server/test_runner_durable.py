"""What the runner does when the disk is full, the coordinator is killed, or a model is too large."""

from __future__ import annotations

import sqlite3
import time

import pytest
from fedkit_server import admitting, runner
from fedkit_server.log_of_run import EVENTS, RunLog
from fedkit_server.store import Store

from fedkit.errors import DeploymentError
from fedkit.federation.events import Event
from tests.server.sites import Held, job_text
from tests.server.test_api import Api


@pytest.mark.slow
def test_a_store_that_takes_nothing_for_a_while_ends_no_thread(world, monkeypatch):
    monkeypatch.setattr(runner, "_PAUSE", 0.05)
    set_run, refused = Store.set_run, []

    def full(store, *said):
        if len(refused) < 3:
            refused.append(said)
            raise sqlite3.OperationalError("database or disk is full")
        set_run(store, *said)

    monkeypatch.setattr(Store, "set_run", full)
    world.runner.submit(job_text("r"))
    assert world.over("r")["outcome"] == "complete"
    assert len(refused) == 3 and world.runner.alive()


@pytest.mark.slow
def test_a_run_that_fails_while_nothing_can_be_told_ends_no_thread(world, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(RunLog, "add", full)
        world.runner.submit(job_text("r"))
        assert world.over("r")["state"] == "failed"
    world.runner.submit(job_text("s"))
    assert world.over("s")["outcome"] == "complete"


@pytest.mark.slow
def test_a_store_that_cannot_be_read_for_a_while_ends_no_thread(world, monkeypatch):
    monkeypatch.setattr(runner, "_PAUSE", 0.05)
    with monkeypatch.context() as patched:
        patched.setattr(Store, "runs", lambda _: 1 / 0)
        world.runner._wake()
        time.sleep(0.3)
    world.runner.submit(job_text("r"))
    assert world.over("r")["outcome"] == "complete"


def test_a_log_on_a_full_disk_is_written_later_and_skips_what_cannot_be_read(tmp_path):
    log = RunLog.open(tmp_path)
    log.add(Event("asked", 1, "train", "north"))
    with (tmp_path / EVENTS).open("a") as file:
        file.write('{"n": 2, "ki\n\xff\n[]\n{"n": 3}\n{"torn')
    again = RunLog.open(tmp_path)
    path, again.path = again.path, tmp_path / "nowhere" / EVENTS
    again.add(Event("asked", 2, "train", "north"))
    again.path = path
    again.add(Event("asked", 3, "train", "north"))
    for found in (again, RunLog.open(tmp_path)):
        assert [(entry["n"], entry["round"]) for entry in found.after(0)] == [(1, 1), (2, 2), (3, 3)]


def test_a_stop_is_remembered_by_the_next_process_which_asks_nobody(world):
    world.close_runner()
    world.store.add_run("r", job_text("r"), "heart_disease", "anna", time.time())
    world.store.begin_run("r")
    assert world.store.stop_run("r")
    world.start()
    assert world.over("r")["outcome"] == "stopped"
    assert {kind for _, kind, _ in world.sites["north"].asked} <= {"end"}
    assert not world.store.stop_run("r") and world.store.run("r").stopping == 0


def test_a_run_that_is_stopped_is_marked_on_disk_before_it_is_answered(world):
    held = world.sites["north"].answer = Held(round=1)
    world.runner.submit(job_text("r"))
    assert held.reached.wait(30)
    assert world.store.run("r").openings == 0
    seen = []

    class Watched(set):
        """The runner's own thread looks into it at any moment."""

        def add(self, run):
            seen.append(world.store.run(run).stopping)
            super().add(run)

    world.runner._stopping = Watched()
    world.runner.stop("r")
    assert seen == [1]
    held.free.set()
    assert world.over("r")["outcome"] == "stopped"


@pytest.mark.slow
def test_a_run_that_twice_ended_the_coordinator_is_not_begun_a_third_time(world):
    world.close_runner()
    world.store.add_run("r", job_text("r"), "heart_disease", "anna", time.time())
    for _ in range(2):
        world.store.take_up_run("r")
        world.store.begin_run("r")
    world.start()
    found = world.over("r")
    assert found["state"] == "failed" and "FK735" in found["outcome"]
    assert world.sites["north"].asked == []
    world.runner.resume("r")
    assert world.until("r", "finished")["outcome"] == "complete"


def test_a_model_of_too_many_parameters_is_refused_before_it_is_made(world, monkeypatch):
    monkeypatch.setattr(admitting, "MOST_PARAMETERS", 1000)
    with pytest.raises(DeploymentError, match=r"FK734.*1,501 parameters; 1,000 are the most. Remedy: choose a smaller"):
        world.runner.submit(job_text("r", "model=mlp", "model.hidden=[100]"))
    assert world.store.runs() == []


def test_a_model_that_this_host_cannot_hold_now_is_refused(world, monkeypatch):
    monkeypatch.setattr(admitting, "free_memory", lambda: 100)
    with pytest.raises(DeploymentError, match=r"FK734.*0\.0 GB are free"):
        world.runner.submit(job_text("r"))


def test_free_memory_is_the_least_that_the_kernel_and_the_container_say(tmp_path):
    meminfo = tmp_path / "meminfo"
    assert admitting.free_memory(meminfo, tmp_path) is None
    meminfo.write_text("MemTotal: 9 kB\nMemAvailable: 4 kB\n")
    assert admitting.free_memory(meminfo, tmp_path) == 4096
    for name, text in (("max", "3000\n"), ("current", "2000\n"), ("stat", "anon 5\ninactive_file 500\n")):
        (tmp_path / f"memory.{name}").write_text(text)
    assert admitting.free_memory(meminfo, tmp_path) == 1500
    (tmp_path / "memory.max").write_text("max\n")
    assert admitting.free_memory(meminfo, tmp_path) == 4096


def test_a_store_by_an_older_fedkit_is_opened_and_keeps_its_runs(tmp_path):
    old = sqlite3.connect(tmp_path / "fedkit.db")
    old.execute(
        "CREATE TABLE runs (run TEXT PRIMARY KEY, job TEXT NOT NULL, name TEXT NOT NULL, submitter TEXT NOT NULL,"
        " submitted_at REAL NOT NULL, state TEXT NOT NULL, outcome TEXT)"
    )
    old.execute("INSERT INTO runs VALUES ('r', '{}', 'n', 'anna', 1.0, 'running', NULL)")
    old.commit()
    old.close()
    for _ in range(2):
        store = Store(tmp_path / "fedkit.db")
        assert (store.run("r").state, store.run("r").stopping, store.run("r").openings) == ("running", 0, 0)
        store.close()


def test_health_and_metrics_tell_of_a_runner_that_is_no_more(coordinator):
    api = Api(coordinator, "127.0.0.1")
    assert "fedkit_runner_alive 1.0" in api.client.request("GET", "/metrics").text
    api.runs.asked.append(("dead",))
    assert "fedkit_runner_alive 0.0" in api.client.request("GET", "/metrics").text
    assert api.ask("GET", "/health", user=None).status_code == 503
