"""kill -9 of coordinator and sites at random moments of a run: nothing is charged twice, nobody is lost in silence."""

import json
import random
import time

import pytest

from fedkit.simulation.replay import replay
from tests.deploy.federation import Federation, wait

KILLS = 50
ROUNDS = 25

pytestmark = [pytest.mark.deploy, pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.fixture
def federation(tmp_path):
    found = Federation(tmp_path, sites=("cleveland", "hungary", "va"))
    try:
        yield found.make().start_sites()
    finally:
        found.close()


def charged(federation, site, run):
    """(round, purpose) of every reservation of a run in a site's ledger."""
    exported = federation.folder / f"{site}-export.json"
    exported.unlink(missing_ok=True)
    ledger = federation.folder / site / "ledgers" / "heart_disease.sqlite"
    federation.fedkit("ledger", "verify", "--ledger", ledger)
    federation.fedkit("ledger", "export", "--ledger", ledger, "--out", exported)
    entries = [json.loads(entry["body"]) for entry in json.loads(exported.read_text())["entries"]]
    return [(e["round"], e["purpose"]) for e in entries if e.get("kind") == "reserve" and e.get("run") == run]


def test_a_killed_coordinator_goes_on_and_no_site_pays_twice(federation):
    run = federation.submit(f"federation.num_rounds={ROUNDS}", deadline=120)
    dice, kills = random.Random(7), 0
    while federation.status(run).get("state") not in ("finished", "failed"):
        time.sleep(dice.uniform(0.3, 2.5))
        if kills < KILLS:
            name = dice.choice(["coordinator", *federation.sites])
            federation.kill(name)
            kills += 1
            time.sleep(dice.uniform(0.0, 0.5))
            if name == "coordinator":
                federation.start_coordinator()
            else:
                federation.start_site(name, wait_online=False)
    assert kills >= 10
    found = federation.finish(run)
    assert found["state"] == "finished" and found["outcome"] in ("complete", "degraded"), federation.logs()
    pulled = federation.pull(run)
    result, rounds = json.loads((pulled / "result.json").read_text()), metrics(pulled)
    assert [line["round"] for line in rounds] == list(range(ROUNDS + 1))
    for line in rounds[1:]:
        # Whoever is not in the sum is named.
        assert set(line["trained"]) | set(line["failed"]) >= set(federation.sites)
        assert all(any(site in note and f"round {line['round']}" in note for note in result["notes"])
                   for site in line["failed"])  # fmt: skip
    assert (found["outcome"] == "complete") == (not any(line["failed"] for line in rounds[1:]))
    assert replay(pulled).identical
    for site in federation.sites:
        wait(lambda site=site: federation.state(site).get("phase") == "connected", 60, f"{site} is away")
        paid = charged(federation, site, run)
        # Each round once, whatever was killed; a round that a kill cut off between charge and reply stays one charge.
        assert len(paid) == len(set(paid)) <= ROUNDS + 1
        trained = {line["round"] for line in rounds[1:] if site in line["trained"]}
        assert trained <= {number for number, purpose in paid if purpose == "train"}


def metrics(path):
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def test_a_site_that_stays_away_is_absent_by_name_and_the_round_goes_on(federation):
    federation.kill("va")
    run = federation.submit("federation.num_rounds=2", min_sites=2, deadline=40)
    found = federation.finish(run)
    assert found["state"] == "finished" and found["outcome"] == "degraded", federation.logs()
    notes = json.loads((federation.pull(run) / "result.json").read_text())["notes"]
    assert any("degraded 2/3: va missing (25.1 % of the declared records)" in note for note in notes), notes


def test_below_its_quorum_a_run_fails_by_name_and_can_be_resumed_when_the_site_is_back(federation):
    federation.kill("va")
    run = federation.submit("federation.num_rounds=2", deadline=40)
    failed = federation.finish(run)
    assert failed["state"] == "failed", failed
    assert any("va" in str(event) for event in events(federation, run))
    federation.start_site("va")
    federation.remote("resume", run)
    found = federation.finish(run)
    assert found["state"] == "finished" and found["outcome"] == "complete", (found, federation.logs())
    for site in federation.sites:
        paid = charged(federation, site, run)
        assert sorted(paid) == sorted(set(paid)) and len(paid) == 3


def events(federation, run):
    text = (federation.folder / "coordinator" / "runs" / run / "events.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def test_a_stopped_run_frees_what_it_holds(federation):
    run = federation.submit("federation.num_rounds=60")
    wait(lambda: (federation.status(run).get("round") or 0) >= 2, 120, "the run does not begin")
    federation.remote("stop", run)
    found = federation.finish(run)
    assert found["outcome"] == "stopped"
    (account,) = federation.spent("va")["datasets"]
    assert account["held"] == 0 < account["spent"], account
