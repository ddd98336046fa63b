from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest
from fedkit_server.lock import halt, hold, holder

from fedkit.errors import DeploymentError

_HOLD = (
    "import sys, time\nfrom pathlib import Path\nfrom fedkit_server.lock import hold\n"
    "with hold(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(60)\n"
)


def _other(path):
    child = subprocess.Popen([sys.executable, "-c", _HOLD, str(path)], stdout=subprocess.PIPE, text=True)
    assert child.stdout.readline() == "held\n"
    return child


def test_a_second_holder_is_refused_by_the_firsts_process_id(tmp_path):
    refused = pytest.raises(DeploymentError, match=f"FK708.*process {os.getpid()}")
    with hold(tmp_path / "pid"), refused, hold(tmp_path / "pid"):
        pass
    assert holder(tmp_path / "pid") is None


def test_what_a_killed_process_left_is_taken_over(tmp_path):
    child = _other(tmp_path / "pid")
    assert holder(tmp_path / "pid") == child.pid
    child.send_signal(signal.SIGKILL)
    child.communicate()
    assert (tmp_path / "pid").read_text().strip() == str(child.pid)
    with hold(tmp_path / "pid"):
        assert holder(tmp_path / "pid") == os.getpid()


def test_halting_waits_until_the_holder_has_ended(tmp_path):
    child = _other(tmp_path / "pid")
    assert halt(tmp_path / "pid", 10.0) == child.pid
    assert child.wait(10.0) == -signal.SIGTERM
    child.stdout.close()
    assert halt(tmp_path / "pid", 10.0) is None
