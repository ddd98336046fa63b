"""Alerts of a running site: they reach a receiver, outlive a kill -9, and hold up no answer."""

import json
import time

import pytest

from tests.clients.coordinator import free_port, model
from tests.clients.receivers import Hook
from tests.clients.test_alert_watch import _scrape, channel

SIZE = 5


@pytest.fixture
def hook(tmp_path):
    found = Hook(tmp_path)
    yield found
    found.close()


def _until(done, seconds=90.0):
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end
        time.sleep(0.1)


def _configs(hook):
    return [told for _, body in hook.taken if (told := json.loads(body))["rule"] == "config"]


@pytest.mark.deploy
def test_a_new_config_is_told_and_a_kill_between_loses_nothing_while_answers_go_on(running, hook, tmp_path):
    port = free_port()
    hook.status = 503
    hook.answering.clear()
    alerts = {**channel(hook, tmp_path), "prometheus": f"127.0.0.1:{port}"}
    coordinator, site = running(alerts=alerts)
    job = coordinator.job("told")
    assert not coordinator.ask(coordinator.request(job, "train", 1, model(SIZE))).has_error()
    _until(lambda: _configs(hook))
    # The receiver hangs, then fails, and rounds are answered all the same.
    assert not coordinator.ask(coordinator.request(job, "train", 2, model(SIZE))).has_error()
    hook.answering.set()
    tried = _configs(hook)
    site.kill()
    hook.taken.clear()
    hook.status = 200
    site.start().event("connected")
    _until(lambda: _configs(hook))
    (told,) = _configs(hook)
    assert told["id"] == tried[0]["id"] and told["about"]["run"] == "told" and told["site"] == "north"
    _until(lambda: 'fedkit_site_alerts{rule="config",severity="warning"}' in _scrape(port))
    assert _scrape(port)['fedkit_site_requests_total{code="answered"}'] == "2.0"
    assert site.stop() == 0
