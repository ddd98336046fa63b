"""The coordinator's runner over a real link: order, refusals, stop, resume, and what a restart takes up."""

from __future__ import annotations

import time

import pytest
from fedkit_server.log_of_run import EVENTS, RunLog
from flwr.app import MetricRecord

from fedkit.errors import DeploymentError, FedkitError
from fedkit.federation.events import Event
from fedkit.storage.keys import new_signing_key
from tests.server.sites import Held, honest, job_text

SLOW = pytest.mark.slow  # what waits for whole runs; test_runner_durable.py has some for the fast tests


def trained(world, run):
    return [number for asked, kind, number in world.sites["north"].asked if (asked, kind) == (run, "train")]


def told(world, run):
    return [(event["kind"], event["round"], event["site"]) for event in world.runner.events(run, 0)]


def wait(done, seconds=30.0):
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end
        time.sleep(0.02)


def refusing(code, *rounds):
    def answer(site, order, request):
        refuses = order["kind"] == "train" and (not rounds or order["round"] in rounds)
        return code if refuses else honest(site, order, request)

    return answer


@pytest.mark.deploy
@SLOW
def test_runs_go_one_at_a_time_in_the_order_in_which_they_were_submitted(world):
    held = world.sites["north"].answer = Held(run="first")
    for run in ("first", "second", "third"):
        assert world.runner.submit(job_text(run)) == run
    assert held.reached.wait(30)
    assert [world.runner.status(run)["state"] for run in ("first", "second", "third")] == [
        "running",
        "queued",
        "queued",
    ]
    assert world.runner.status("second") | {"submitted_at": 0} == {
        "run": "second", "name": "heart_disease", "submitter": "anna", "submitted_at": 0, "state": "queued",
        "outcome": None, "before": ["first"], "round": 0, "rounds": 2, "bytes": 0,
    }  # fmt: skip
    held.free.set()
    assert [world.over(run)["outcome"] for run in ("first", "second", "third")] == ["complete"] * 3
    runs = [run for run, _, _ in world.sites["south"].asked]
    assert runs == sorted(runs, key=["first", "second", "third"].index)
    # Each ends with a goodbye, which frees what remains of the run's hold.
    assert [asked for asked in world.sites["south"].asked if asked[1] == "end"] == [
        ("first", "end", 2), ("second", "end", 2), ("third", "end", 2),
    ]  # fmt: skip


def test_a_run_that_is_known_or_names_a_stranger_is_refused_and_nobody_is_asked(world):
    world.store.revoke_site("south", time.time())
    with pytest.raises(DeploymentError, match=r"FK731.*south is not enrolled; the federation has north"):
        world.runner.submit(job_text("r"))
    with pytest.raises(FedkitError, match="FK541"):
        world.runner.submit(job_text("r", key=new_signing_key()))
    assert world.store.runs() == []
    assert world.sites["north"].asked == []


@pytest.mark.slow
@SLOW
def test_a_run_is_never_begun_twice(world):
    world.runner.submit(job_text("r"))
    with pytest.raises(DeploymentError, match="FK730"):
        world.runner.submit(job_text("r", study="another"))
    assert world.over("r")["outcome"] == "complete"
    with pytest.raises(DeploymentError, match="FK730"):
        world.runner.submit(job_text("r"))
    assert trained(world, "r") == [1, 2]


@pytest.mark.parametrize("call", ["stop", "resume", "status"])
def test_an_unknown_run_is_named_with_those_that_there_are(world, call):
    with pytest.raises(DeploymentError, match=r"FK732.*no run 'x'; the newest are none"):
        getattr(world.runner, call)("x")


@pytest.mark.slow
@SLOW
def test_a_run_that_is_stopped_before_its_turn_asks_nobody_to_train(world):
    held = world.sites["north"].answer = Held(run="first")
    for run in ("first", "second"):
        world.runner.submit(job_text(run))
    assert held.reached.wait(30)
    world.runner.stop("second")
    held.free.set()
    assert (world.over("first")["outcome"], world.over("second")["outcome"]) == ("complete", "stopped")
    assert trained(world, "second") == []
    with pytest.raises(DeploymentError, match="FK733"):
        world.runner.stop("second")


@pytest.mark.slow
@SLOW
def test_a_run_that_is_stopped_in_a_round_keeps_the_model_so_far(world):
    held = world.sites["north"].answer = Held(round=2)
    world.runner.submit(job_text("r"))
    assert held.reached.wait(30)
    world.runner.stop("r")
    found = world.over("r")
    held.free.set()
    assert (found["state"], found["outcome"]) == ("finished", "stopped")
    assert world.json("r", "manifest.json")["rounds_done"] == 1
    assert (world.folder / "runs" / "r" / "model.safetensors").is_file()


@pytest.mark.slow
@SLOW
def test_a_run_below_its_quorum_fails_names_the_site_and_goes_on_where_it_failed(world):
    world.sites["south"].answer = refusing("FK567", 2)
    world.runner.submit(job_text("r"))
    assert world.over("r")["state"] == "failed"
    refused = [event for event in world.runner.events("r", 0) if event["kind"] == "refused"]
    assert [(event["round"], event["site"], event["detail"]) for event in refused] == [(2, "south", "FK567")]
    assert any("south: FK567" in note for note in world.json("r", "manifest.json")["notes"])
    # Nothing is told to the sites: their holds stay, so that the run can go on.
    assert [asked for asked in world.sites["north"].asked if asked[1] == "end"] == []
    world.sites["south"].answer = honest
    told: list[str] = []
    world.runner.resume("r", lambda: told.append(world.store.run("r").state))
    assert world.until("r", "finished")["outcome"] in ("complete", "degraded")
    assert trained(world, "r").count(1) == 1
    with pytest.raises(DeploymentError, match="FK733"):
        world.runner.resume("r", lambda: told.append("refused"))
    # Once, before anything happened, and not for the one that was refused.
    assert told == ["failed"]


@pytest.mark.slow
@SLOW
def test_a_run_that_failed_can_be_ended_for_good(world):
    world.sites["south"].answer = refusing("FK567")
    world.runner.submit(job_text("r"))
    assert world.over("r")["state"] == "failed"
    world.runner.stop("r")
    assert world.until("r", "finished")["outcome"] == "stopped"
    # The goodbye goes out now.
    assert ("r", "end", 0) in world.sites["north"].asked


@pytest.mark.slow
@SLOW
def test_a_run_with_a_missing_site_is_degraded_and_says_whose_part_is_missing(world):
    world.sites["south"].answer = refusing("FK563")
    world.runner.submit(job_text("r", min_sites=1))
    assert world.over("r")["outcome"] == "degraded"
    (note, *_) = world.json("r", "manifest.json")["notes"]
    assert "round 1: degraded 1/2: south missing" in note and "south: FK563" in note


@pytest.mark.slow
@SLOW
def test_a_runner_that_is_closed_goes_on_after_its_restart_and_asks_nothing_twice(world):
    held = world.sites["north"].answer = Held(round=2)
    world.runner.submit(job_text("r"))
    assert held.reached.wait(30)
    wait(lambda: ("received", 2, "south") in told(world, "r"))
    world.close_runner()
    assert world.store.run("r").state == "queued"
    held.free.set()
    world.start()
    assert world.over("r")["outcome"] == "complete"
    # What is in the journal is asked of nobody again; what was on its way is.
    assert trained(world, "r") == [1, 2, 2]
    assert [number for _, kind, number in world.sites["south"].asked if kind == "train"] == [1, 2]
    lines = (world.folder / "runs" / "r" / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == 3


@pytest.mark.slow
@SLOW
def test_a_run_that_was_running_when_its_coordinator_was_killed_is_taken_up(world):
    world.close_runner()
    world.store.add_run("r", job_text("r"), "heart_disease", "anna", time.time())
    world.store.set_run("r", "running")
    world.start()
    assert world.over("r")["outcome"] == "complete"


@pytest.mark.slow
@SLOW
def test_the_status_of_a_run_is_true_after_a_restart(world):
    world.runner.submit(job_text("r"))
    before = world.over("r")
    assert (before["round"], before["rounds"]) == (2, 2) and before["bytes"] > 0
    world.restart()
    assert world.runner.status("r") == before
    assert [event["kind"] for event in world.runner.events("r", 0)][-1] == "finished"


@pytest.mark.slow
@SLOW
def test_what_sites_disclose_is_added_up_and_what_cannot_be_is_left_out(world):
    def disclosing(site, order, request):
        reply = honest(site, order, request)
        reply["usage"] = MetricRecord({"cpu-seconds": 2.0, "peak-bytes": 100.0 + order["round"]})
        return reply

    def lying(site, order, request):
        reply = honest(site, order, request)
        reply["usage"] = MetricRecord({"cpu-seconds": float("nan"), "peak-bytes": -1.0})
        return reply

    world.sites["north"].answer, world.sites["south"].answer = disclosing, lying
    world.runner.submit(job_text("r"))
    world.over("r")
    usage = world.json("r", "result.json")["usage"]
    # Two updates and the metrics of rounds 0, 1 and 2.
    assert usage["disclosed"] == {"north": {"cpu_seconds": 10.0, "peak_bytes": 102.0}}
    assert usage["bytes_received"].keys() == {"north", "south"}
    report = (world.folder / "runs" / "r" / "report.html").read_text()
    assert "10.0 CPU seconds, at most 102 bytes of memory" in report


@pytest.mark.slow
@SLOW
def test_a_queued_job_that_was_altered_fails_and_the_next_one_has_its_turn(world):
    world.close_runner()
    text = job_text("r").replace("logistic", "mlp")
    world.store.add_run("r", text, "heart_disease", "anna", time.time())
    world.start()
    world.runner.submit(job_text("s"))
    found = world.over("r")
    assert found["state"] == "failed" and "FK541" in found["outcome"]
    assert [event["kind"] for event in world.runner.events("r", 0)] == ["finished"]
    assert world.over("s")["outcome"] == "complete" and trained(world, "r") == []


def test_the_log_of_a_run_passes_over_a_torn_last_line_and_goes_on_counting(tmp_path):
    log = RunLog.open(tmp_path)
    for site in ("north", "south"):
        log.add(Event("asked", 1, "train", site))
    with (tmp_path / EVENTS).open("a") as file:
        file.write('{"n": 3, "kind": "rec')
    again = RunLog.open(tmp_path)
    assert [event["site"] for event in again.after(0)] == ["north", "south"]
    again.add(Event("received", 1, "train", "north"))
    assert [event["n"] for event in RunLog.open(tmp_path).after(1)] == [2, 3]
    assert again.wait(3, 0.01) == []
