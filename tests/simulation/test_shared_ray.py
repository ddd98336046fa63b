"""Sweeps over ``federation=ray``: cells side by side in one Ray; without Ray they are skipped."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

import fedkit
from fedkit.errors import FederationError
from fedkit.reporting.sweep_progress import SweepProgress
from fedkit.simulation.descendants import descendants, parents
from fedkit.simulation.forked import CannotStart
from fedkit.simulation.shared_ray import SharedRay, shared_ray
from fedkit.simulation.sweep import sweep
from tests.simulation.conftest import write_table
from tests.simulation.test_ray_runs import plain_environment

pytest.importorskip("ray", reason="Ray is not installed: pip install 'fedkit[ray]'")

WORDS = ["data=icu", "federation=ray", "federation.num_rounds=2", "privacy=none", "seed=1,2,3"]


@pytest.fixture
def short():
    """A folder for temporary files that Ray's sockets fit into."""
    with tempfile.TemporaryDirectory(prefix="f", dir="/tmp") as made:
        yield Path(made)


@pytest.fixture
def started(tmp_path, short):
    """Starts the command line in a group of its own; what is left of it is killed."""
    write_table(tmp_path / "my", sizes={"north": 60, "south": 60})
    processes = []

    def start(*words):
        process = subprocess.Popen(
            [sys.executable, "-m", "fedkit.cli.main", *words, "--config-dir", str(tmp_path / "my")],
            env={**plain_environment(), "TMPDIR": str(short)},
            start_new_session=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        if process.poll() is None:
            process.kill()
            process.communicate()


def wait_for(what, process, seconds=120.0):
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline and (process is None or process.poll() is None), process.communicate()
        time.sleep(0.02)


def rounds(folder):
    return sum(each.read_text().count("\n") for each in folder.glob("sweep-*/*/*/metrics.jsonl"))


def test_cpus_are_shared_out_and_every_run_has_one():
    ray = SharedRay("10.0.0.1:6379", 7, 7)
    assert [ray.among(runs).each for runs in (1, 2, 3, 7, 9)] == [7, 3, 2, 1, 1]


@pytest.mark.deploy
@pytest.mark.usefixtures("cluster")
def test_in_a_process_that_has_a_ray_cells_come_one_after_another(tmp_path):
    with pytest.raises(CannotStart, match="connected to a Ray"), shared_ray(None, 1):
        pass
    write_table(tmp_path / "my", sizes={"north": 60, "south": 60})
    told = []
    done = sweep(
        None,
        [*WORDS, f"runs_dir={tmp_path / 'runs'}"],
        config_dir=tmp_path / "my",
        progress=SweepProgress(planned=lambda *words: told.append(words[2:])),
    )
    assert [cell["status"] for cell in done.cells] == ["ran"] * 3
    assert told == [(1, "this process is connected to a Ray")]


def test_a_cluster_that_does_not_answer_is_one_error_before_any_cell(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    write_table(tmp_path / "my", sizes={"north": 60, "south": 60})
    words = [*WORDS, f"federation.address=127.0.0.1:{port}", f"runs_dir={tmp_path / 'runs'}"]
    with pytest.raises(FederationError) as caught:
        sweep(None, words, config_dir=tmp_path / "my")
    assert caught.value.code == "FK551" and not list(tmp_path.glob("runs/*/*"))


@pytest.mark.deploy
@pytest.mark.usefixtures("cluster")
def test_cells_side_by_side_give_what_each_gives_alone_and_leave_nothing(tmp_path, short, started):
    process = started("sweep", *WORDS, f"runs_dir={tmp_path / 'runs'}", "--jobs", "2", "--json")
    output, error = process.communicate(timeout=200)
    assert process.returncode == 0, error
    cells = json.loads(output)["cells"]
    assert [cell["status"] for cell in cells] == ["ran"] * 3 and not list(short.iterdir())
    for cell in cells:
        path = Path(cell["result"]["run_dir"])
        told = json.loads((path / "manifest.json").read_text())["engine"]
        # Each cell has half of the CPUs.
        assert (
            told["workers"] == max(1, len(os.sched_getaffinity(0)) // 2)
            and "started for the sweep" in told["workers_why"]
        )
        alone = fedkit.simulate(
            overrides=[*WORDS[:-1], f"seed={cell['overrides']['seed']}", f"runs_dir={tmp_path / 'alone'}"],
            config_dir=tmp_path / "my",
        )
        assert (path / "model.safetensors").read_bytes() == (alone.path / "model.safetensors").read_bytes()


@pytest.mark.deploy
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_sweep_that_is_interrupted_or_killed_leaves_no_process_and_no_folder(tmp_path, short, started, number):
    words = [*WORDS, "federation.num_rounds=100000", f"runs_dir={tmp_path / 'runs'}"]
    words.remove("federation.num_rounds=2")
    process = started("sweep", *words, "--jobs", "2")
    wait_for(lambda: rounds(tmp_path / "runs") > 4, process)
    family = descendants({process.pid})
    assert len(family) > 8 and len(list(short.iterdir())) == 1
    if number == signal.SIGINT:
        # As a terminal sends it: to every process of the group.
        os.killpg(process.pid, number)
    else:
        os.kill(process.pid, number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == (130 if number == signal.SIGINT else -9), error
    wait_for(lambda: not family & parents().keys() and not list(short.iterdir()), None, 60)


@pytest.mark.deploy
def test_ctrl_c_while_ray_starts_leaves_no_folder(tmp_path, short, started):
    words = [*WORDS[:-1], f"runs_dir={tmp_path / 'runs'}", "training.workers=1"]
    process = started("simulate", *words)
    wait_for(lambda: list(short.iterdir()), process)
    os.killpg(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130 and "interrupted" in error and not list(short.iterdir())
