"""A hospital pauses in the middle of a run of real processes: the run waits for it, and goes on to the end."""

import json

import pytest

from fedkit.simulation.replay import replay
from tests.deploy.federation import Federation, wait

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(600)]


@pytest.fixture
def federation(tmp_path):
    found = Federation(tmp_path, sites=("cleveland", "va"))
    try:
        yield found.make().start_sites()
    finally:
        found.close()


def test_a_site_that_pauses_within_a_run_is_waited_for_and_charged_once(federation):
    run = federation.submit("federation.num_rounds=12", deadline=120)
    wait(lambda: federation.begun(run) >= 3, 120, "round 3 does not begin", 0.02)
    assert federation.json("client", "pause", "va/site.yaml", "--reason", "a question of ours")["quiet"]
    held = federation.begun(run)

    def deferred():
        return [event for event in federation.events(run) if event["kind"] == "deferred"]

    wait(deferred, 60, "nobody hears of the pause")
    assert {(event["site"], event["detail"]) for event in deferred()} == {("va", "FK580")}
    answered = federation.state("va")["answered"]
    # Of the round that the pause fell into nothing comes but the code; another one cannot begin without it.
    federation.kill("va")
    federation.start_site("va")
    assert federation.begun(run) <= held + 1 and federation.state("va")["answered"] <= answered
    assert federation.json("client", "status", "va/site.yaml")["paused"]["reason"] == "a question of ours"
    assert federation.json("client", "resume", "va/site.yaml")["was_paused"]
    found = federation.finish(run)
    assert found["state"] == "finished" and found["outcome"] == "complete", (found, federation.logs())
    pulled = federation.pull(run)
    assert json.loads((pulled / "result.json").read_text())["outcome"] == "complete"
    assert replay(pulled).identical
    assert "a question of ours" not in "".join(
        path.read_text(errors="replace") for path in (federation.folder / "coordinator").rglob("*.log")
    ) + json.dumps(federation.events(run))
    for site in federation.sites:
        paid = federation.charged(site, run)
        assert len(paid) == len(set(paid)) and {number for number, purpose in paid if purpose == "train"} == {
            *range(1, 13)
        }


def test_a_site_that_stays_paused_is_missing_by_name_and_the_run_ends_without_it(federation):
    federation.fedkit("client", "pause", "va/site.yaml")
    run = federation.submit("federation.num_rounds=1", min_sites=1, deadline=15)
    found = federation.finish(run)
    assert found["state"] == "finished" and found["outcome"] == "degraded", (found, federation.logs())
    missing = [event for event in federation.events(run) if event["kind"] == "missing" and event["purpose"] == "train"]
    assert [(event["site"], event["detail"]) for event in missing] == [
        ("va", "its last answer was FK580; no other within 15 s")
    ]
    assert federation.charged("va", run) == []
