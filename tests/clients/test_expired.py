"""A request that expires while a site works on it: the work is given up, its charge stays, the next one is served."""

import sys
import time
from pathlib import Path

import pytest

from tests.clients.coordinator import model

# The coordinator of these tests ends beside clients that still speak to it: what uvicorn leaves open is its own affair.
pytestmark = [pytest.mark.deploy, pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")]
SLOW = Path(__file__).with_name("slow_site.py")


def test_work_is_given_up_when_its_order_expires_and_what_was_charged_stays_charged(running, tmp_path):
    (tmp_path / "hold").touch()
    coordinator, site = running(command=(sys.executable, str(SLOW), str(tmp_path)))
    job, parameters = coordinator.job(), model(5)
    began = time.time()
    order = coordinator.order(job, "train", 1, parameters, lifetime=10.0)
    message_id = coordinator.send(coordinator.request(job, "train", 1, parameters, order=order.text))
    reply = coordinator.reply(message_id, 40.0)
    assert reply.has_error() and reply.error.reason == "FK543"
    # Five seconds later than it says, lest a clock that is ahead cut off what is still awaited; and not much later.
    assert 13.0 < time.time() - began < 30.0
    assert (tmp_path / "training").exists() and "child" not in site.children()
    spent = site.charged()
    assert spent > 0
    (tmp_path / "hold").unlink()
    assert not coordinator.ask(coordinator.request(job, "train", 1, parameters)).has_error()
    assert site.charged() == spent
