"""A running coordinator deletes its own copies when their deadline has passed, by a clock that the test owns."""

import json
import subprocess
import sys
import threading
import time

import pytest
from fedkit_server.studies import Studies
from fedkit_server.upkeep import EVERY, Upkeep

from fedkit.errors import DeploymentError
from fedkit.federation.study import make_study
from fedkit.governance.retention import DAY
from fedkit.storage.audit_verify import readable_lines
from fedkit.storage.keys import new_signing_key
from tests.clients.coordinator import free_port
from tests.governance.cases import STUDY
from tests.governance.conftest import agreed
from tests.server.test_retention import here, keep_for  # noqa: F401


def until(true, seconds=30.0):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def receipts(here):  # noqa: F811
    return [line for line in readable_lines(here.folder.audit, ("deleted",))]


def agree(here, days):  # noqa: F811
    """A signed agreement of the run's study."""
    key = new_signing_key()
    terms = agreed({**STUDY, "study": here.job.study, "parties": {"cleveland": key.fingerprint}}, retention_days=days)
    federation = here.folder.settings().federation
    Studies(here.folder.path / "studies", federation).write(make_study(terms, federation, "anna", key, here.now))


@pytest.mark.parametrize("bound", ["the agreement of heart", "retention_days of server.json"])
def test_what_is_due_goes_once_the_clock_says_so_and_no_hand_is_laid_on_it(here, bound):  # noqa: F811
    if "agreement" in bound:
        agree(here, 30)
    else:
        keep_for(here, 30)
    now, looked = [here.now], threading.Semaphore(0)

    def clock():
        looked.release()
        return now[0]

    def look():
        # The one after the next has begun after the next has ended.
        assert looked.acquire(timeout=10) and looked.acquire(timeout=10) and looked.acquire(timeout=10)

    upkeep = Upkeep(here.folder, here.store, here.log.append, clock=clock, look=0.01)
    upkeep.start()
    try:
        look()
        now[0] = here.now + 30 * DAY - 60
        look()
        assert (here.run / "updates").exists() and receipts(here) == []
        now[0] += EVERY
        until(lambda: not (here.run / "journal").exists())
    finally:
        upkeep.close()
    (line,) = receipts(here)
    assert line.fields["run"] == "r" and line.fields["reason"] == bound
    assert line.signed_by(here.folder.key().public)
    assert not (here.run / "updates").exists() and (here.run / "model.safetensors").exists()
    assert not any(thread.name == "fedkit-upkeep" for thread in threading.enumerate())


def test_what_cannot_be_deleted_stops_nothing_and_is_tried_again_an_hour_later(here):  # noqa: F811
    keep_for(here, 0)
    now, full = [here.now + 60], [True]

    def tell(event):
        if full[0]:
            raise DeploymentError("no space", code="FK770")
        return here.log.append(event)

    upkeep = Upkeep(here.folder, here.store, tell, clock=lambda: now[0])
    upkeep.look()
    full[0] = False
    upkeep.look()
    assert (here.run / "updates").exists()
    now[0] += EVERY
    upkeep.look()
    assert not (here.run / "updates").exists() and len(receipts(here)) == 1


def test_a_clock_that_is_set_back_keeps_nothing_from_being_looked_at(here):  # noqa: F811
    keep_for(here, 30)
    now = [here.now + 10 * 365 * DAY]
    upkeep = Upkeep(here.folder, here.store, here.log.append, clock=lambda: now[0])
    here.store.set_run("r", "running")
    upkeep.look()
    here.store.set_run("r", "finished")
    now[0] = here.now + 31 * DAY
    upkeep.look()
    assert len(receipts(here)) == 1


@pytest.mark.slow
def test_a_real_coordinator_deletes_by_itself_and_its_log_verifies(here):  # noqa: F811
    port, grpc_port = free_port(), free_port()
    values = json.loads(here.folder.settings_file.read_text())
    values |= {"retention_days": 0, "port": port, "grpc_port": grpc_port, "bind": "127.0.0.1"}
    here.folder.settings_file.write_text(json.dumps(values))
    here.store.close()
    time.sleep(1.1)
    command = [sys.executable, "-m", "fedkit", "server", "start", str(here.folder.path)]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until(lambda: receipts(here) and not (here.run / "updates").exists() and not (here.run / "journal").exists())
    finally:
        child.terminate()
        child.wait(30)
    assert len(receipts(here)) == 1
    verify = [sys.executable, "-m", "fedkit", "server", "log", "verify", str(here.folder.path)]
    assert subprocess.run(verify, capture_output=True).returncode == 0
