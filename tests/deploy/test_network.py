"""A site whose network fails: the cable is pulled for a while or for long, or delays and loses what goes through it."""

import time

import pytest

from tests.deploy.federation import Federation, wait
from tests.deploy.network import Network, missing

SITES = ("cleveland", "hungary", "va")

pytestmark = [pytest.mark.deploy, pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def network(request):
    slow = getattr(request, "param", None)
    if why := missing(slow=slow is not None):
        pytest.skip(why)
    found = Network("coordinator", "va", slow=slow)
    try:
        yield found
    finally:
        found.close()


@pytest.fixture
def federation(network, tmp_path):
    places = {name: network.inside("coordinator") for name in ("coordinator", *SITES)}
    found = Federation(
        tmp_path, sites=SITES, host=network.address("coordinator"), inside=places | {"va": network.inside("va")}
    )
    try:
        yield found.make().start_sites()
    finally:
        found.close()


def cut(network, federation, **how):
    network.pull("va", **how)
    # Without this a test of a cut would also pass where nothing is cut.
    assert not federation.reaches("va") and federation.reaches("hungary")


@pytest.mark.parametrize("near", [False, True])
def test_a_cable_that_is_back_before_the_deadline_costs_nothing(network, federation, near):
    rounds = 12
    run = federation.submit(f"federation.num_rounds={rounds}", deadline=120)
    wait(lambda: federation.begun(run) >= 3, 60, "the run does not begin", 0.02)
    cut(network, federation, near=near)
    held = federation.begun(run) + 1
    time.sleep(12)
    # The site may have answered the round in which it was cut off; no later one.
    assert federation.begun(run) <= held < rounds
    network.plug("va")
    began = time.monotonic()
    wait(lambda: federation.begun(run) > held, 60, "the site does not come back", 0.05)
    print(f"back after {time.monotonic() - began:.1f} s")
    found = federation.finish(run)
    assert found["state"] == "finished" and found["outcome"] == "complete", (found, federation.logs())
    for site in SITES:
        paid = federation.charged(site, run)
        assert len(paid) == len(set(paid)) == rounds + 1


def test_a_site_that_is_cut_off_past_the_deadline_is_missing_by_name_and_takes_part_again_later(network, federation):
    rounds, deadline = 40, 15
    run = federation.submit(f"federation.num_rounds={rounds}", min_sites=2, deadline=deadline)
    wait(lambda: federation.begun(run) >= 3, 60, "the run does not begin", 0.02)
    cut(network, federation)

    def told(kind):
        return [e["round"] for e in federation.events(run) if e["kind"] == kind and e["site"] == "va"]

    wait(lambda: len(told("missing")) >= 2, 4 * deadline, "nobody is missed")
    gone = told("missing")
    network.plug("va")
    began = time.monotonic()
    wait(lambda: max(told("received")) > gone[-1], 120, "the site does not come back", 0.05)
    print(f"back after {time.monotonic() - began:.1f} s")
    found = federation.finish(run)
    assert found["state"] == "finished" and found["outcome"] == "degraded", (found, federation.logs())
    result, lines = federation.results(run)
    trained = {line["round"] for line in lines[1:] if "va" in line["trained"]}
    failed = {line["round"] for line in lines[1:] if "va" in line["failed"]}
    assert trained | failed == set(range(1, rounds + 1)) and not trained & failed
    assert failed == set(told("missing")) and max(trained) > max(failed)
    for number in failed:
        note = f"round {number}: degraded 2/3: va missing (25.1 % of the declared records)"
        assert any(note in each for each in result["notes"]), result["notes"]
    for site in SITES:
        paid = federation.charged(site, run)
        assert len(paid) == len(set(paid)) <= rounds + 1
    # What the site gave is paid for; so is a round that it trained for nothing, but no round of which it never heard.
    paid = {number for number, purpose in federation.charged("va", run) if purpose == "train"}
    assert trained <= paid and len(paid) < rounds


@pytest.mark.parametrize("network", [(0.1, 0.03)], indirect=True)
def test_a_slow_line_that_loses_packets_loses_nothing(network, federation):
    rounds = 5
    run = federation.submit(f"federation.num_rounds={rounds}", deadline=120)
    found = federation.finish(run)
    assert found["state"] == "finished" and found["outcome"] == "complete", (found, federation.logs())
    # There and back take 0.2 s, and a round several of them; at once, it would not have gone over the line.
    assert min(e["seconds"] for e in federation.events(run) if e["kind"] == "received" and e["site"] == "va") > 0.6
    paid = federation.charged("va", run)
    assert len(paid) == len(set(paid)) == rounds + 1
