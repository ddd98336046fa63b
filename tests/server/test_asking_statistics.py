"""A question over a real link: each site asked once, its answer kept as it came, no model and no goodbye."""

from __future__ import annotations

import base64
import threading

import numpy as np
import pytest
from flwr.app import ConfigRecord, RecordDict

from fedkit.federation import wire
from fedkit.governance.statistics import Statistics
from fedkit.types import ClientUpdate
from tests.server.sites import RECORDS, Held, job_text, make_world

ASKED = Statistics(("num",), 10, 8.0, 1e-5)


@pytest.fixture
def world(here, tmp_path):
    found = make_world(here, tmp_path / "coordinator")
    for site in found.sites.values():
        site.answer = counted
    found.start()
    yield found
    found.close_runner()
    for site in found.sites.values():
        site.close()
    here.hang_up()
    found.store.close()


def counted(site, order, request):
    assert order["kind"] == "statistics" and len(request.parameters) == 0
    return wire.pack_statistics(np.frombuffer(site.encode(), np.uint8))


def submit(world, run, **changes):
    world.runner.submit(job_text(run, statistics=ASKED, **{"min_sites": 1, **changes}))
    return world.over(run)


def answers(world, run):
    return {site: base64.b64decode(text) for site, text in world.json(run, "statistics.json")["answers"].items()}


def test_every_site_is_asked_once_and_its_answer_is_kept_as_it_came(world):
    found = submit(world, "all")
    assert found["outcome"] == "complete" and found["rounds"] == 0
    assert answers(world, "all") == {name: name.encode() for name in RECORDS}
    for name, site in world.sites.items():
        assert site.asked == [("all", "statistics", 0)], name
    events = [(event["kind"], event["purpose"]) for event in world.runner.events("all", 0) if event["site"] == "north"]
    assert events == [("asked", "statistics"), ("received", "statistics")]
    assert not (world.folder / "runs" / "all" / "journal").exists()


@pytest.mark.slow
def test_a_refusal_is_told_by_its_code_and_one_that_may_change_is_asked_again(world):
    codes = iter(["FK577"])
    world.sites["north"].answer = lambda *said: next(codes, None) or counted(*said)
    world.sites["south"].answer = lambda *said: "FK575"
    found = submit(world, "some")
    assert found["outcome"] == "degraded" and answers(world, "some") == {"north": b"north"}
    assert world.json("some", "statistics.json")["failed"] == {"south": "FK575"}
    kinds = [event["kind"] for event in world.runner.events("some", 0) if event["site"] == "north"]
    assert kinds == ["asked", "deferred", "received"]


@pytest.mark.parametrize(
    "reply",
    [
        wire.pack_update(ClientUpdate("north", np.ones(3, np.float32), 5.0)),
        RecordDict({"config": ConfigRecord({"ended": True})}),
    ],
)
def test_what_is_no_answer_is_its_sites_failure_and_nobody_elses(world, reply):
    world.sites["north"].answer = lambda *said: reply
    run = f"bad-{len(reply)}-{'arrays' in reply}"
    assert submit(world, run)["outcome"] == "degraded" and set(answers(world, run)) == {"south"}
    assert set(world.json(run, "statistics.json")["failed"]) == {"north"}


def test_without_an_answer_it_has_failed_and_can_be_resumed_for_those_who_had_none(world):
    for site in world.sites.values():
        site.answer = lambda *said: "FK372"
    assert submit(world, "none")["state"] == "failed"
    world.sites["north"].answer = counted
    world.runner.resume("none")
    world.until("none", "finished")
    assert answers(world, "none") == {"north": b"north"}
    assert world.json("none", "statistics.json")["failed"] == {"south": "FK372"}


def test_a_coordinator_that_is_stopped_asks_those_who_have_not_answered(world):
    free = threading.Event()
    held = Held("statistics", 0, free=free)
    world.sites["south"].answer = lambda *said: (held.reached.set(), free.wait(60), counted(*said))[2]
    world.runner.submit(job_text("kept", statistics=ASKED, min_sites=1))
    assert held.reached.wait(30)
    world.restart()
    free.set()
    world.until("kept", "finished")
    assert set(answers(world, "kept")) == set(RECORDS)
    assert len([asked for asked in world.sites["north"].asked if asked[0] == "kept"]) <= 2
