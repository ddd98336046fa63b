"""Each alert happens for real in a site's folder, and is told to a real webhook and a real syslog socket."""

import json
import socket
from contextlib import suppress

import pytest
from fedkit_client.alert_rules import RULES
from fedkit_client.alert_watch import Pulse, watch_of
from fedkit_client.audit import Trail, record
from fedkit_client.quarantining import quarantine_site
from fedkit_client.start import open_site
from fedkit_client.state import State

from fedkit.errors import DeploymentError
from fedkit.storage.keys import load_signing_key
from tests.clients.coordinator import DATASET, SITE
from tests.clients.receivers import Hook
from tests.clients.test_alert_watch import Owned, channel, train

DAY = 86_400.0


class Place:
    """A site's folder and what watches it, by the test's clock."""

    def __init__(self, made):
        self.made, self.clock = made, Owned()
        self.key = load_signing_key(made.folder.signing_key)
        self.state = State(made.folder.state_file, 1, "0")
        self.watch = watch_of(open_site(made.folder.site_yaml), self.key.public, self.state)
        self.watch.clock, self.watch.pulse = self.clock, Pulse(self.clock)
        self.watch.shown = lambda: self.clock.now + 300 * DAY
        # How things stand before.
        self.watch.once()

    def refused(self, code, times=1):
        for number in range(times):
            record(self.made.folder, "refused", run=f"r{number}", purpose="train", round=1, code=code)

    def started(self, digest="a" * 64, times=1):
        for _ in range(times):
            Trail(self.made.folder, SITE, self.key).started("0", self.made.folder.site_yaml, digest)

    def released(self, norm):
        dp = {"guarantee": "dp", "epsilon": 1.0, "delta": 1e-5, "unit": "record"}
        bounds = {"norm": norm, "norm_least": 1.0, "norm_most": 2.0}
        record(self.made.folder, "released", run="r", purpose="train", round=1, size=1, digest="0" * 64, **dp, **bounds)


def _waiting(place):
    place.refused("FK577")


def _failures(place):
    place.refused("FK500", 3)


def _burn(place):
    job = place.made.coordinator.job("run-a")
    for number in range(1, 20):
        train(place.made, job, number)
        place.watch.once()
        if place.watch.figures.facts.budgets[DATASET].spent > 0.26:
            return
    raise AssertionError("it is not spent that fast")


def _certificate(place):
    end = place.clock.now + 3 * DAY
    place.watch.shown = lambda: end
    place.clock.now += DAY
    place.watch.pulse.beat()


def _silent(place):
    place.clock.now += 15 * 60


def _chain(place):
    place.refused("FK570", 2)
    place.watch.once()
    log = place.made.folder.audit
    log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:-1]))


def _channel(place):
    def away(body, now):
        raise DeploymentError("it is away", code="FK786")

    send, place.watch.channels["webhook"] = place.watch.channels["webhook"], away
    place.refused("FK541")
    place.watch.once()
    place.watch.channels["webhook"] = send


MADE = {
    "refused": lambda place: place.refused("FK541"),
    "waiting": _waiting,
    "failures": _failures,
    "restarts": lambda place: place.started(times=5),
    "config": lambda place: train(place.made, place.made.coordinator.job("run-a")),
    "site-file": lambda place: (place.started("a" * 64), place.started("b" * 64)),
    "budget": lambda place: train(place.made, place.made.coordinator.job("run-a")),
    "burn": _burn,
    "norm": lambda place: place.released(2.5),
    "certificate": _certificate,
    "enrolment": lambda place: place.state.enter("waiting", DeploymentError("it does not know the site", code="FK736")),
    "silent": _silent,
    "chain": _chain,
    "contradicted": lambda place: record(place.made.folder, "contradicted", party="coordinator"),
    "quarantined": lambda place: quarantine_site(place.made.folder, "a stolen laptop", place.clock.now, seconds=1.0),
    "channel": _channel,
}


@pytest.fixture
def hook(tmp_path):
    found = Hook(tmp_path)
    yield found
    found.close()


@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES)
def test_each_rule_is_told_to_both(bench, hook, tmp_path, rule):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as syslog:
        syslog.bind(("127.0.0.1", 0))
        syslog.settimeout(0.5)
        terms = channel(hook, tmp_path)
        terms["webhook"]["least"] = "info"
        terms["syslog"] = {"address": f"udp://127.0.0.1:{syslog.getsockname()[1]}", "least": "info"}
        terms |= {"budget": [0.01, 0.999], "silent": 15, "failures": 3}
        place = Place(bench(data={"max_epsilon": 4.0}, alerts=terms))
        assert hook.taken == [], "nothing stands before"
        MADE[rule](place)
        place.watch.once()
        told, heard = [json.loads(body) for _, body in hook.taken], []
        with suppress(TimeoutError):
            while True:
                heard.append(json.loads(syslog.recv(65536).partition(b"@cee:")[2]))
    for receiver, notices in (("webhook", told), ("syslog", heard)):
        mine = [each for each in notices if each["rule"] == rule and each["state"] == "raised"]
        # Of its own failure a channel is told nothing; the others are.
        assert mine or (rule, receiver) == ("channel", "webhook"), (rule, receiver, notices)
        assert all(each["site"] == SITE and each["remedy"] and each["severity"] for each in mine)


def test_none_is_left_out():
    assert set(MADE) == set(RULES)
