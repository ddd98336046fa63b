"""Whole runs of ``federation=ray``, beside the same of ``federation=local``; without Ray they are skipped."""

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import fedkit
from fedkit.config.experiment import FederationConfig, TrainingConfig
from fedkit.errors import FederationError
from fedkit.simulation import ray_probe
from fedkit.simulation.descendants import descendants, end, parents
from fedkit.simulation.population import Population, run_population
from fedkit.strategies.streaming import fed_avg
from fedkit.types import Task
from tests.simulation.conftest import write_table
from tests.training.builders import local_plan, privacy_plan, site

pytest.importorskip("ray", reason="Ray is not installed: pip install 'fedkit[ray]'")

FOUR = {"north": 90, "south": 60, "east": 120, "west": 75}


def run(tmp_path, name, *overrides, folder="my"):
    folder = tmp_path / folder
    if not folder.is_dir():
        write_table(folder, sizes=FOUR)
    words = ["data=icu", "federation.num_rounds=3", f"runs_dir={tmp_path / name}", *overrides]
    return fedkit.simulate(overrides=words, config_dir=folder)


def manifest(done):
    return json.loads((done.path / "manifest.json").read_text())


@pytest.mark.deploy
@pytest.mark.usefixtures("cluster")
def test_a_seeded_run_gives_the_local_model_and_its_epsilon_and_replays_without_ray(tmp_path):
    here = run(tmp_path, "local", "strategy=fedadam", "training.workers=1")
    there = run(tmp_path, "ray", "strategy=fedadam", "federation=ray", "federation.num_rounds=3", "training.workers=2")
    assert np.linalg.norm(here.parameters - there.parameters) <= 1e-6 * np.linalg.norm(here.parameters)
    assert there.result["outcome"] == "complete"
    for name in FOUR:
        assert there.result["sites"][name]["epsilon"] == here.result["sites"][name]["epsilon"] > 0
    told = manifest(there)["engine"]
    assert told["workers"] == 2 and "Ray" in told["workers_why"] and told["name"] == manifest(here)["engine"]["name"]
    found = fedkit.replay(there.path)
    assert found.identical and found.how == "retrained" and found.rounds == 3


@pytest.mark.deploy
@pytest.mark.usefixtures("cluster")
def test_what_is_recorded_or_sorted_travels_update_by_update_bit_for_bit(tmp_path):
    """Secure noise records every update, and a median reads each."""
    words = ["federation=ray", "federation.num_rounds=2", "strategy=fedmedian", "training.workers=1"]
    done = run(tmp_path, "secure", *words, "privacy.noise=secure")
    assert len(list((done.path / "updates").iterdir())) == 2
    found = fedkit.replay(done.path)
    assert found.identical and found.how == "refolded"
    plain = [*words, "privacy=none"]
    one = run(tmp_path, "one", *plain)
    other = run(tmp_path, "two", *plain, "federation=local", "federation.num_rounds=2")
    assert np.array_equal(one.parameters, other.parameters)


def made(name, place):
    return site(name, 12 + place % 5, place)


@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_a_population_is_made_in_the_actors_and_its_mean_is_the_local_one():
    model = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 1))
    plan = local_plan(2, learning_rate=0.1, privacy=privacy_plan("", steps=2, rounds=2), weight=12.0)
    finishes = []
    for kind in ("local", "ray"):
        torch.manual_seed(3)
        mine = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 1))
        mine.load_state_dict(model.state_dict())
        reports = []
        finish = run_population(
            Population(2000, made, plan),
            mine,
            Task("binary", ("no", "yes")),
            (5,),
            fed_avg(),
            TrainingConfig(0.1, local_steps=2, workers="2" if kind == "ray" else "1"),
            FederationConfig(kind, 2, fraction_train=0.05),
            lambda report, *_, reports=reports: reports.append(report),
            seed=1,
        )
        assert finish.outcome == "complete" and not finish.notes
        finishes.append((finish.parameters, [(r.trained, r.epsilon) for r in reports]))
    (here, told), (there, also) = finishes
    assert told == also and len(told[1][0]) == 100
    assert np.linalg.norm(here - there) <= 1e-6 * np.linalg.norm(here)


@pytest.fixture(scope="module")
def somebodys(tmp_path_factory):
    """A cluster as its owner starts one: its address and the variables of whoever may join it."""
    folder, port, token = tmp_path_factory.mktemp("ray"), free_port(), secrets.token_hex(32)
    variables = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token, "RAY_USAGE_STATS_ENABLED": "0"}
    words = ["start", "--head", "--block", "--port", str(port), "--num-cpus", "2", "--include-dashboard=false"]
    # A socket's path may have 107 characters.
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as short:
        with (folder / "log").open("w") as log:
            started = subprocess.Popen(
                [sys.executable, "-m", "ray.scripts.scripts", *words, "--temp-dir", f"{short}/ray"],
                env={**plain_environment(), **variables},
                start_new_session=True,
                stdout=log,
                stderr=log,
            )
        try:
            deadline = time.monotonic() + 60
            while "Ray runtime started" not in (told := (folder / "log").read_text()):
                assert started.poll() is None and time.monotonic() < deadline, told
                time.sleep(0.1)
            yield f"127.0.0.1:{port}", variables, started
        finally:
            family = descendants({started.pid})
            started.terminate()
            started.wait(30)
            end(family)


@pytest.mark.deploy
def test_somebodys_cluster_is_joined_with_its_token_and_left_as_it_was(tmp_path, somebodys):
    address, variables, owner = somebodys
    write_table(tmp_path / "my", sizes=FOUR)
    words = ["simulate", "data=icu", "federation=ray", f"federation.address={address}", "federation.num_rounds=2"]
    words += ["--config-dir", str(tmp_path / "my"), f"runs_dir={tmp_path / 'runs'}", "--json", "training.workers=1"]
    done = command(words, **variables)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["outcome"] == "complete"
    told = json.loads(next((tmp_path / "runs").glob("*/manifest.json")).read_text())["engine"]
    assert told["workers"] == 1 and "joined" in told["workers_why"]
    family = descendants({owner.pid})
    assert owner.poll() is None and len(family) > 3
    assert not [pid for pid in family if b"ray::Seat" in Path(f"/proc/{pid}/cmdline").read_bytes()]


@pytest.mark.slow
def test_whoever_has_no_token_is_not_let_in_and_does_not_wait_for_long(monkeypatch, somebodys):
    address, variables, *_ = somebodys
    monkeypatch.setattr(ray_probe, "SECONDS", 3.0)
    monkeypatch.setattr(ray_probe, "_ANSWERED", {})
    for name, value in {**variables, "RAY_AUTH_TOKEN": "0" * 64}.items():
        monkeypatch.setenv(name, value)
    begun = time.monotonic()
    with pytest.raises(FederationError) as caught:
        ray_probe.check(address)
    assert caught.value.code == "FK551" and time.monotonic() - begun < 10
    monkeypatch.setenv("RAY_AUTH_TOKEN", variables["RAY_AUTH_TOKEN"])
    monkeypatch.setattr(ray_probe, "SECONDS", 22.0)
    ray_probe.check(address)


def test_a_cluster_of_another_ray_is_refused(monkeypatch, somebodys):
    address, variables, *_ = somebodys
    monkeypatch.setattr(ray_probe, "_ANSWERED", {})
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(ray_probe, "_ASK", "import ray; ray.__version__ = '2.1.0'; " + ray_probe._ASK)
    with pytest.raises(FederationError, match=r"of another version than this one: .*2\.60") as caught:
        ray_probe.check(address)
    assert caught.value.code == "FK552"


@pytest.mark.deploy
def test_ctrl_c_leaves_no_process_no_folder_and_no_port_was_open_to_others(tmp_path):
    write_table(tmp_path / "my", sizes=FOUR)
    words = ["simulate", "data=icu", "federation=ray", "federation.num_rounds=1000", "privacy=none"]
    words += ["--config-dir", str(tmp_path / "my"), f"runs_dir={tmp_path / 'runs'}", "training.workers=1"]
    short = Path(tempfile.mkdtemp(prefix="f", dir="/tmp"))
    started = subprocess.Popen(
        [sys.executable, "-m", "fedkit.cli.main", *words],
        env={**plain_environment(), "TMPDIR": str(short)},
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        deadline = time.monotonic() + 120
        while not any(each.read_text().count("\n") > 3 for each in tmp_path.glob("runs/*/metrics.jsonl")):
            assert started.poll() is None and time.monotonic() < deadline, started.communicate()
            time.sleep(0.1)
        family = descendants({started.pid})
        assert len(family) > 4 and list(short.iterdir())
        assert all(each.stat().st_mode & 0o077 == 0 for each in short.iterdir())
        assert {address for address in listening(family)} == {"127.0.0.1"}
        # As a terminal sends it: to every process of the group.
        os.killpg(started.pid, signal.SIGINT)
        output, _ = started.communicate(timeout=60)
    finally:
        if started.poll() is None:
            started.kill()
    assert started.returncode == 130 and "interrupted after round" in output
    assert not family & parents().keys() and not list(short.iterdir())
    short.rmdir()


def listening(processes):
    """The addresses that some processes listen at."""
    sockets = set()
    for process in processes:
        for each in Path(f"/proc/{process}/fd").glob("*"):
            try:
                target = os.readlink(each)
            except OSError:
                continue
            if target.startswith("socket:["):
                sockets.add(target[8:-1])
    for kind in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{kind}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and fields[9] in sockets:
                number = fields[1].partition(":")[0]
                yield ".".join(str(byte) for byte in reversed(bytes.fromhex(number[-8:])))


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def plain_environment():
    """This process' variables without those of its cluster."""
    return {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}


def command(words, **variables):
    return subprocess.run(
        [sys.executable, "-m", "fedkit.cli.main", *words],
        env={**plain_environment(), **variables},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
