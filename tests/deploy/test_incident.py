"""A deployed run, looked at afterwards: what the site says has left is what the coordinator got, and no more."""

import json
import time

import pytest

from tests.deploy.federation import Federation, wait

pytestmark = [pytest.mark.deploy, pytest.mark.slow, pytest.mark.timeout(600)]
SITE = "cleveland"


@pytest.fixture
def federation(tmp_path):
    found = Federation(tmp_path, sites=(SITE, "hungary"))
    try:
        yield found.make().start_sites()
    finally:
        found.close()


def received(federation):
    lines = [json.loads(line) for line in (federation.folder / "coordinator" / "audit.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == "received" and line["site"] == SITE and line["purpose"] != "end"]


def test_what_left_is_what_came_and_a_quarantined_site_is_missing_until_it_is_lifted(federation):
    file = f"{SITE}/site.yaml"
    run = federation.submit("federation.num_rounds=3")
    assert federation.finish(run)["outcome"] == "complete", federation.logs()
    told = federation.json("client", "quarantine", file, "--reason", "a drill with real processes")
    assert told["quarantined"] and told["problems"] == []
    found = federation.json("client", "incident", file, "--since", "1h", "--out", "incident")
    came = {(line["round"], line["purpose"], line["digest"], line["size"]) for line in received(federation)}
    left = {(each["round"], each["kind"], each["digest"], each["size"]) for each in found["answers"]}
    assert came and came == left
    (told,) = found["runs"]
    ledger = federation.spent(SITE)["datasets"][0] if "datasets" in federation.spent(SITE) else federation.spent(SITE)
    assert told["run"] == run and told["guarantee"]["guarantee"] == "dp"
    assert found["datasets"]["heart_disease"]["budget"]["epsilon_spent"] == pytest.approx(ledger["epsilon_spent"])
    assert told["submitter_key"] in {user["key"] for user in found["recipient"]["users"]}
    assert federation.json("client", "incident", file, "--verify", "incident")["good"]
    alerts = federation.fedkit("client", "alerts", file, "--json", check=False)
    keys = {each["key"] for each in json.loads(alerts.stdout)["alerts"]}
    assert "quarantined" in keys and any(key.startswith("config:") for key in keys)
    assert not any(key.startswith(("norm", "chain", "failures")) for key in keys)

    # Nothing of a second run leaves, and the coordinator hears no code of why.
    second = federation.submit("federation.num_rounds=1", deadline=600)
    time.sleep(15)
    assert not [line for line in received(federation) if line["run"] == second]
    assert federation.fedkit("client", "resume", file, check=False).returncode == 2
    federation.fedkit("client", "quarantine", file, "--lift", "--reason", "over")
    federation.fedkit("client", "resume", file)
    assert federation.finish(second)["outcome"] == "complete", federation.logs()
    wait(lambda: [line for line in received(federation) if line["run"] == second], 10, "nothing came")
