"""The small parts of a site: the executor over forks, the lock, the pace, what it remembers, its command line."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fedkit_client import cli, frames, lock
from fedkit_client.address import parted
from fedkit_client.executor import Executor
from fedkit_client.folder import SiteFolder
from fedkit_client.limits import HEADROOM, require_disk, require_memory
from fedkit_client.pace import Pace
from fedkit_client.state import State, read_state
from fedkit_client.trouble import skew_of

from fedkit.cli.main import main
from fedkit.errors import DeploymentError
from fedkit.governance.site_file import read_site_file
from fedkit.governance.terms import Limits

ROOT = Path(__file__).resolve().parents[2]


def _handle(header, body):
    match header.get("do"):
        case "die":
            os.kill(os.getpid(), signal.SIGKILL)
        case "leave":
            os._exit(3)
        case "wait":
            time.sleep(60)
        case "random":
            return {"random": os.urandom(8).hex(), "pid": os.getpid()}, b""
    return {"length": len(body)}, bytes(body)[::-1]


@pytest.fixture
def executor():
    made = Executor.start(lambda: None, _handle)
    made.wait_ready()
    yield made
    made.close()


def test_a_request_goes_to_a_child_of_its_own_and_comes_back(executor):
    body = os.urandom(3 << 20)
    done = executor.ask({"a": 1}, body)
    assert done.header["length"] == len(body) and done.body == bytes(body)[::-1]
    assert done.usage.cpu_seconds >= 0 and done.usage.peak_bytes > 0
    pids = {executor.ask({"do": "random"}, b"").header["pid"] for _ in range(3)}
    assert len(pids) == 3


@pytest.mark.parametrize(("how", "word"), [("die", "SIGKILL"), ("leave", "status 3")])
def test_a_child_that_dies_is_told_and_the_next_one_answers(executor, how, word):
    done = executor.ask({"do": how}, b"")
    assert done.header is None and word in done.why
    assert executor.ask({}, b"abc").body == b"cba"


@pytest.mark.slow
def test_a_zygote_that_dies_is_replaced_by_the_keeper(executor):
    before = executor.zygote
    os.kill(before, signal.SIGKILL)
    executor.ask({}, b"abc")
    assert executor.ask({}, b"abc").body == b"cba" and executor.zygote not in (0, before)


def test_work_is_abandoned_when_the_caller_says_so(executor):
    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        executor.ask({"do": "wait"}, b"", stop)
    assert executor.child == 0
    assert executor.ask({}, b"abc").body == b"cba"


def test_signs_of_life_go_on_while_a_child_works(executor):
    calls = []

    def idle():
        calls.append(executor.child)
        if len(calls) == 2:
            os.kill(executor.child, signal.SIGKILL)

    assert executor.ask({"do": "wait"}, b"", idle).header is None
    assert len(calls) >= 2 and all(calls[:2])


@pytest.mark.slow
def test_an_import_that_fails_is_told_at_the_start():
    def fail():
        raise ImportError("no such library")

    made = Executor.start(fail, _handle)
    try:
        with pytest.raises(DeploymentError, match="no such library") as caught:
            made.wait_ready(30)
        assert caught.value.code == "FK767"
    finally:
        made.close()


@pytest.mark.slow
def test_no_process_outlives_the_one_that_started_it():
    script = (
        "import os, sys, time\nfrom fedkit_client.executor import Executor\n"
        "made = Executor.start(lambda: None, lambda header, body: (time.sleep(60), b''))\nmade.wait_ready()\n"
        "print(made.keeper, made.zygote, flush=True)\nos.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    pids = [int(word) for word in done.stdout.split()]
    end = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < end
        time.sleep(0.05)


def test_what_is_no_frame_is_refused():
    import socket

    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b"\x80\x04\x95 a pickle, for one")
        with pytest.raises(DeploymentError) as caught:
            frames.read(ours)
        assert caught.value.code == "FK769"
        theirs.close()
        with pytest.raises(frames.Gone):
            frames.read(ours)


def test_a_lock_keeps_a_second_process_out_and_goes_with_its_holder(tmp_path):
    pid_file = tmp_path / "client.pid"
    script = (
        "import sys, time\nfrom pathlib import Path\nfrom fedkit_client import lock\n"
        "with lock.hold(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(60)\n"
    )
    other = subprocess.Popen([sys.executable, "-c", script, str(pid_file)], stdout=subprocess.PIPE, text=True)
    with other:
        assert other.stdout.readline() == "held\n"
        assert lock.holder(pid_file) == other.pid
        with pytest.raises(DeploymentError) as caught, lock.hold(pid_file):
            pass
        assert caught.value.code == "FK753" and str(other.pid) in str(caught.value)
        other.kill()
    assert lock.holder(pid_file) is None
    with lock.hold(pid_file):
        pass


def test_the_pace_never_lets_more_pass_than_its_rate_and_one_burst():
    clock = [0.0]
    pace = Pace(100.0, burst=2.0, clock=lambda: clock[0], sleep=lambda s: clock.__setitem__(0, clock[0] + s))
    passed = 0
    for size in (50, 300, 10, 10, 700, 1):
        pace(size)
        passed += size
        assert passed <= 100 * (clock[0] + 2) + 1e-6
    clock[0] += 1000
    before = clock[0]
    pace(200)
    assert clock[0] == before


def test_a_limit_that_cannot_be_met_names_the_least(tmp_path):
    with pytest.raises(DeploymentError, match=r"1\.38GiB is the least") as caught:
        require_memory(Limits(memory=2**30), 2**30)
    assert caught.value.code == "FK760" and HEADROOM == 384 * 2**20
    require_memory(Limits(memory=2**31), 2**30)
    (tmp_path / "ledger").write_bytes(bytes(2 << 20))
    require_disk(Limits(disk=3 << 20), tmp_path)
    with pytest.raises(DeploymentError) as caught:
        require_disk(Limits(disk=3 << 20), tmp_path, 2 << 20)
    assert caught.value.code == "FK762" and "takes 2.0MiB and would take 4.0MiB" in caught.value.message
    with pytest.raises(DeploymentError) as caught:
        require_disk(Limits(disk=10 << 10), tmp_path)
    assert "takes 2.0MiB; limits.disk is 10.0KiB" in caught.value.message
    assert caught.value.remedy.startswith("set limits.disk above 2.0MiB")


def test_the_state_is_written_whole_and_says_what_changed(tmp_path):
    state = State(tmp_path / "state.json", 7, "1")
    assert state.enter("connected") and not state.enter("connected")
    problem = DeploymentError("away", code="FK747", remedy="wait")
    assert state.enter("retrying", problem) and not state.enter("retrying", problem)
    state.took("train", "r", 1, "FK500")
    told = read_state(tmp_path / "state.json")
    assert told["problem"]["code"] == "FK747" and told["refused"] == 1 and told["last"]["code"] == "FK500"


def test_the_clock_of_an_answer_is_read_or_left():
    assert skew_of({"date": "Thu, 01 Jan 1970 00:01:40 GMT"}, 40.0) == 60.0
    assert skew_of({"date": "yesterday"}, 0.0) is None and skew_of({}, 0.0) is None


@pytest.mark.parametrize("address", ["", "a b", "http://a", "a:0", "a:99999", "a/b", "[::1"])
def test_what_is_no_address_is_refused(address):
    with pytest.raises(DeploymentError):
        parted(address, 8443)


def test_a_folder_that_is_no_site_s_is_told(tmp_path):
    with pytest.raises(DeploymentError) as caught:
        SiteFolder(tmp_path).enrolment()
    assert caught.value.code == "FK741"


def test_the_example_of_a_site_file_is_one():
    file = read_site_file(ROOT / "clients" / "site.example.yaml")
    assert file.data["heart_disease"].max_epsilon == 3.0 and file.limits.memory == 4 << 30


COMMANDS = ("join", "start", "stop", "status", "doctor", "init", "hash", "explain", "requests", "approve", "deny")


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_an_example_and_json(name, capsys):
    cli.app([name, "--help"], prog_name="fedkit client", standalone_mode=False)
    printed = capsys.readouterr().out
    assert f"Example: fedkit client {name}" in " ".join(printed.split()) and "--json" in printed


def test_no_option_takes_a_secret(capsys):
    cli.app(["join", "--help"], prog_name="fedkit client", standalone_mode=False)
    assert "--token-file" in (out := capsys.readouterr().out) and "--token " not in out and "--secret" not in out


def test_help_is_quick_and_loads_nothing_heavy():
    script = (
        "import sys\nfrom fedkit.cli.main import main\ntry:\n    main(['client', '--help'])\nexcept SystemExit:\n"
        "    pass\nheavy = ('torch', 'flwr', 'numpy', 'grpc', 'httpx', 'yaml')\n"
        "print('loaded:', *[name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "loaded:"


def test_a_template_is_written_once_and_closed(tmp_path, capsys):
    out = tmp_path / "site.yaml"
    with pytest.raises(SystemExit) as left:
        main(["client", "init", "north", "--out", str(out), "--json"])
    assert not left.value.code and json.loads(capsys.readouterr().out) == {"file": str(out)}
    assert out.stat().st_mode & 0o777 == 0o600
    with pytest.raises(SystemExit) as left:
        main(["client", "init", "north", "--out", str(out)])
    assert left.value.code == 2


@pytest.mark.parametrize(("site", "rows"), [("cleveland", 303), ("hungary", 294)])
def test_an_example_is_a_whole_site_file_of_the_built_in_table(site, rows, tmp_path, capsys):
    out = tmp_path / "site.yaml"
    with pytest.raises(SystemExit) as left:
        main(["client", "init", site, "--example", "--out", str(out)])
    assert not left.value.code and "fill in" not in capsys.readouterr().out
    file = read_site_file(out)
    assert file.site == site and file.data["heart_disease"].records == rows
    with pytest.raises(SystemExit) as left:
        main(["client", "init", "north", "--example", "--out", str(tmp_path / "other.yaml")])
    assert left.value.code == 2 and "cleveland or hungary" in capsys.readouterr().err
    assert not (tmp_path / "other.yaml").exists()
