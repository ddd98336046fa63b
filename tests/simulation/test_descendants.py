import os
import signal
import subprocess
import sys
import time

import pytest

from fedkit.simulation import descendants as family

pytestmark = pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="this system does not list its processes")

_DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
_PARENT = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {_DEAF!r}])"


def test_all_that_came_of_a_process_is_found_and_ended_when_it_does_not_leave(monkeypatch):
    started = subprocess.Popen([sys.executable, "-c", _PARENT], stdout=subprocess.PIPE)
    try:
        assert started.stdout.readline() == b"up\n"
        assert started.pid in family.children()
        found = family.descendants({started.pid})
        assert len(found) == 2 and started.pid in found
        monkeypatch.setattr(family, "_LEAVE_SECONDS", 0.2)
        for process in found:
            os.kill(process, signal.SIGTERM)
        family.end(found)
        deadline = time.monotonic() + 10
        while found & family.parents().keys():
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        started.kill()
        started.wait()
        started.stdout.close()


def test_what_has_left_is_waited_for_no_longer():
    begun = time.monotonic()
    family.end({2**22 + 1})
    assert time.monotonic() - begun < 1
