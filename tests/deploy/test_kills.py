"""kill -9 of coordinator and sites at random moments of a run: nothing is charged twice, nobody is lost in silence."""

import random
import time
from statistics import median

import pytest

from fedkit.simulation.replay import replay
from tests.deploy.federation import Federation, wait

KILLS = 50
# A kill holds up the round that it falls into, so the run is never more than a few rounds ahead of its kills.
ROUNDS = KILLS + 6

pytestmark = [pytest.mark.deploy, pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.fixture
def federation(tmp_path):
    found = Federation(tmp_path, sites=("cleveland", "hungary", "va"))
    try:
        yield found.make().start_sites()
    finally:
        found.close()


def plan(dice, sites):
    """All kills, drawn beforehand so that no speed changes them: (waits for its round, pause, victim, another)."""
    names = ["coordinator", *sites]
    return [
        (dice.random() < 0.75, dice.uniform(0.0, 1.2), dice.choice(names), dice.choice(sites)) for _ in range(KILLS)
    ]


def usual_answer(federation, run):
    """Seconds between a question and its reply, in the middle of those so far."""
    return median([event["seconds"] for event in federation.events(run) if "seconds" in event] or [1.0])


def test_a_killed_coordinator_goes_on_and_no_site_pays_twice(federation):
    run = federation.submit(f"federation.num_rounds={ROUNDS}", deadline=120)
    opened = spared = 0
    for number, (waits, pause, victim, other) in enumerate(plan(random.Random(7), federation.sites), start=1):
        # Paced by the run's rounds, not by the clock: it cannot end before its kills, however fast the machine is.
        # The kills that wait for no round hit a federation of which something is still starting.
        if waits:
            wait(lambda number=number: federation.begun(run) >= number, 150, f"round {number} does not begin", 0.02)
        time.sleep(pause * usual_answer(federation, run))
        told = federation.events(run)
        assert not any(event["kind"] == "finished" for event in told), f"the run was over at kill {number}"
        if victim == "coordinator":
            # A run whose opening ends its coordinator twice fails by name, as it should.
            spared = spared + 1 if len(told) == opened else 0
            victim = other if spared > 1 else victim
        assert federation.alive(victim), f"{victim} ended by itself\n{federation.logs()}"
        federation.kill(victim)
        if victim == "coordinator":
            opened = len(federation.events(run))
            federation.start_coordinator(wait_up=False)
        else:
            federation.start_site(victim, wait_online=False)
    found = federation.finish(run)
    assert found["state"] == "finished" and found["outcome"] in ("complete", "degraded"), federation.logs()
    result, rounds = federation.results(run)
    assert [line["round"] for line in rounds] == list(range(ROUNDS + 1))
    for line in rounds[1:]:
        # Whoever is not in the sum is named.
        assert set(line["trained"]) | set(line["failed"]) >= set(federation.sites)
        assert all(any(site in note and f"round {line['round']}" in note for note in result["notes"])
                   for site in line["failed"])  # fmt: skip
    assert (found["outcome"] == "complete") == (not any(line["failed"] for line in rounds[1:]))
    assert replay(federation.folder / "pulled" / run).identical
    for site in federation.sites:
        wait(lambda site=site: federation.state(site).get("phase") == "connected", 60, f"{site} is away")
        paid = federation.charged(site, run)
        # Each round once, whatever was killed; a round that a kill cut off between charge and reply stays one charge.
        assert len(paid) == len(set(paid)) <= ROUNDS + 1
        trained = {line["round"] for line in rounds[1:] if site in line["trained"]}
        assert trained <= {number for number, purpose in paid if purpose == "train"}


def test_a_site_that_stays_away_is_absent_by_name_and_the_round_goes_on(federation):
    federation.kill("va")
    run = federation.submit("federation.num_rounds=2", min_sites=2, deadline=40)
    found = federation.finish(run)
    assert found["state"] == "finished" and found["outcome"] == "degraded", federation.logs()
    notes = federation.results(run)[0]["notes"]
    assert any("degraded 2/3: va missing (25.1 % of the declared records)" in note for note in notes), notes


def test_below_its_quorum_a_run_fails_by_name_and_can_be_resumed_when_the_site_is_back(federation):
    federation.kill("va")
    run = federation.submit("federation.num_rounds=2", deadline=40)
    failed = federation.finish(run)
    assert failed["state"] == "failed", failed
    assert any("va" in str(event) for event in federation.events(run))
    federation.start_site("va")
    federation.remote("resume", run)
    found = federation.finish(run)
    assert found["state"] == "finished" and found["outcome"] == "complete", (found, federation.logs())
    for site in federation.sites:
        paid = federation.charged(site, run)
        assert sorted(paid) == sorted(set(paid)) and len(paid) == 3


def test_a_stopped_run_frees_what_it_holds(federation):
    run = federation.submit("federation.num_rounds=60")
    wait(lambda: (federation.status(run).get("round") or 0) >= 2, 120, "the run does not begin")
    federation.remote("stop", run)
    found = federation.finish(run)
    assert found["outcome"] == "stopped"
    (account,) = federation.spent("va")["datasets"]
    assert account["held"] == 0 < account["spent"], account
