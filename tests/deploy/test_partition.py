"""A hospital behind a link that fails: a network namespace of its own, whose cable is pulled in the middle of a run."""

import json
import os
import shutil
import subprocess
import time

import pytest

from tests.deploy.federation import Federation, wait
from tests.deploy.test_kills import charged, metrics

SPACE, OUT, IN = f"fk{os.getpid() % 10000}", f"fko{os.getpid() % 10000}", f"fki{os.getpid() % 10000}"
HOST, SITE = "10.231.71.1", "10.231.71.2"

pytestmark = [pytest.mark.deploy, pytest.mark.slow, pytest.mark.timeout(600)]


def ip(*words, check=True):
    return subprocess.run(["ip", *words], check=check, capture_output=True, text=True)


@pytest.fixture
def cable():
    """A namespace with one link to this host; gives a function that pulls the cable and puts it back."""
    if shutil.which("ip") is None:
        pytest.skip("ip (iproute2) is not installed: no network namespace can be made")
    if ip("netns", "add", SPACE, check=False).returncode:
        pytest.skip("this user may make no network namespace")
    try:
        ip("link", "add", OUT, "type", "veth", "peer", "name", IN, "netns", SPACE)
        ip("addr", "add", f"{HOST}/24", "dev", OUT)
        ip("link", "set", OUT, "up")
        ip("-n", SPACE, "addr", "add", f"{SITE}/24", "dev", IN)
        for name in (IN, "lo"):
            ip("-n", SPACE, "link", "set", name, "up")
        yield lambda *, up: ip("link", "set", OUT, "up" if up else "down")
    finally:
        ip("netns", "del", SPACE, check=False)
        ip("link", "del", OUT, check=False)


@pytest.fixture
def federation(tmp_path, cable):
    inside = {"va": ("ip", "netns", "exec", SPACE)}
    found = Federation(tmp_path, sites=("cleveland", "va"), host=HOST, inside=inside)
    try:
        yield found.make().start_sites()
    finally:
        cable(up=True)
        found.close()


def test_a_site_that_was_cut_off_answers_the_same_round_when_it_is_back(federation, cable):
    run = federation.submit("federation.num_rounds=12", deadline=240)
    wait(lambda: (federation.status(run).get("round") or 0) >= 3, 120, "the run does not begin")
    # The coordinator's own commands go to the address on the link, and are not asked while it is down.
    cable(up=False)
    time.sleep(20)
    cable(up=True)
    found = federation.finish(run)
    assert (found["state"], found["outcome"]) == ("finished", "complete"), (found, federation.logs())
    rounds = metrics(federation.pull(run))
    assert all(line["trained"] == ["cleveland", "va"] for line in rounds[1:])
    for site in federation.sites:
        paid = charged(federation, site, run)
        assert len(paid) == len(set(paid)) == 13


def test_a_site_that_stays_cut_off_is_missing_by_name(federation, cable):
    run = federation.submit("federation.num_rounds=2", min_sites=1, deadline=30)
    # The coordinator has torch to import before it asks anybody.
    cable(up=False)
    events = federation.folder / "coordinator" / "runs" / run / "events.jsonl"
    wait(lambda: events.exists() and '"finished"' in events.read_text(), 150, "the run does not end")
    cable(up=True)
    found = federation.finish(run)
    notes = json.loads((federation.pull(run) / "result.json").read_text())["notes"]
    assert found["outcome"] == "degraded" and any("va missing" in note for note in notes), (found, notes)
