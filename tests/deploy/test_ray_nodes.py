"""``federation=ray`` over several machines: nodes of Ray in network namespaces, each with its address and name.

A head without a CPU for work, a node with one and a node with two; the simulation runs on the head.
"""

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

import fedkit
from fedkit.simulation.descendants import descendants, end
from tests.deploy.federation import wait
from tests.deploy.network import Network, missing
from tests.simulation.test_ray_runs import plain_environment

pytest.importorskip("ray", reason="Ray is not installed: pip install 'fedkit[ray]'")
pytestmark = [pytest.mark.deploy, pytest.mark.slow, pytest.mark.timeout(600)]

PORT = 6390
CPUS = {"head": 0, "one": 1, "two": 2}
SMALL = ["federation.num_rounds=3", "training.local_steps=3", "strategy=fedmedian"]
GIVEN = """
import sys
import numpy as np
import fedkit
rng = np.random.default_rng(0)
data = {f"s{k}": (rng.normal(size=(20_000, 64)).astype(np.float32), rng.integers(0, 2, 20_000)) for k in range(6)}
words = ["privacy=none", "training.local_epochs=null", "training.local_steps=2", "federation.evaluate_every=100"]
run = fedkit.simulate(data=data, overrides=[*words, *sys.argv[1:]])
print(run.path)
"""


class Nodes:
    """Ray's nodes, and what runs beside them."""

    def __init__(self, network, folder):
        self.network, self.folder, self.started = network, folder, {}
        self.address = f"{network.address('head')}:{PORT}"
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_USAGE_STATS_ENABLED": "0"}
        self.environment = {**plain_environment(), **token}

    def make(self):
        """Start them all."""
        network, folder = self.network, self.folder
        for name in CPUS:
            words = ["--address", self.address] if name != "head" else ["--head", "--port", str(PORT)]
            words += ["--include-dashboard=false"] if name == "head" else []
            words += ["--num-cpus", str(CPUS[name]), "--node-ip-address", network.address(name)]
            words += ["--temp-dir", str(folder / name), "--object-store-memory", "200000000"]
            with (folder / f"{name}.log").open("w") as log:
                self.started[name] = self.begin(
                    name, "-m", "ray.scripts.scripts", "start", "--block", *words, stdout=log, stderr=log
                )
            wait(lambda log=folder / f"{name}.log": "Ray runtime started" in log.read_text(), 90, f"no node {name}")
        return self

    def begin(self, party, *words, **options):
        """Python where a party is."""
        # Nobody else's machine has its folders.
        others = [str(self.folder / name) for name in CPUS] if party == "stranger" else []
        hide = "".join(f"mkdir -p {path}; mount -t tmpfs tmpfs {path}; " for path in others)
        inside = [*self.network.inside(party), "unshare", "-um", "sh", "-c", f'{hide}hostname {party}; exec "$@"', "sh"]
        command = [*inside, sys.executable, *words]
        return subprocess.Popen(command, env=self.environment, start_new_session=True, text=True, **options)

    def fedkit(self, *words, party="head"):
        """The command line, joined to the nodes."""
        words = ["-m", "fedkit.cli.main", *words, "federation=ray", f"federation.address={self.address}", "--json"]
        return self.begin(party, *words, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def received(self, party):
        """Bytes that have come in at a party."""
        words = [*self.network.inside(party), "ip", "-s", "-j", "link", "show", "eth0"]
        found = subprocess.run(words, check=True, capture_output=True, text=True, timeout=20)
        return json.loads(found.stdout)[0]["stats64"]["rx"]["bytes"]

    def kill(self, name):
        """As a machine that loses its power."""
        for process in descendants({self.started[name].pid}):
            if b"raylet/raylet" in Path(f"/proc/{process}/cmdline").read_bytes():
                os.kill(process, signal.SIGKILL)

    def close(self):
        family = descendants({process.pid for process in self.started.values()})
        for process in self.started.values():
            process.terminate()
        end(family)
        for process in self.started.values():
            process.wait(20)


@pytest.fixture(scope="module")
def nodes():
    if why := missing():
        pytest.skip(why)
    if shutil.which("unshare") is None:
        pytest.skip("unshare is not installed")
    network = Network(*CPUS, "stranger")
    # A socket's path may have 107 characters.
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        found = Nodes(network, Path(folder))
        try:
            yield found.make()
        finally:
            found.close()
            network.close()


def told(path, name="manifest.json"):
    return json.loads((Path(path) / name).read_text())


def test_several_machines_give_the_model_of_one_process(nodes, tmp_path):
    process = nodes.fedkit("simulate", "heart_disease", *SMALL, f"runs_dir={tmp_path / 'there'}")
    output, error = process.communicate(timeout=200)
    assert process.returncode == 0, error
    there = Path(json.loads(output)["run_dir"])
    engine = told(there)["engine"]
    assert engine["workers"] == 3 and "on 3 machines, joined" in engine["workers_why"]
    here = fedkit.simulate("heart_disease", overrides=[*SMALL, f"runs_dir={tmp_path / 'here'}"])
    assert (there / "model.safetensors").read_bytes() == (here.path / "model.safetensors").read_bytes()
    assert told(there)["epsilon"] == told(here.path)["epsilon"]


def test_records_travel_to_each_machine_once_whatever_trains_there(nodes, tmp_path):
    (tmp_path / "given.py").write_text(GIVEN)
    before = {name: nodes.received(name) for name in ("one", "two")}
    words = ["federation=ray", f"federation.address={nodes.address}", "federation.num_rounds=5"]
    process = nodes.begin("head", str(tmp_path / "given.py"), *words, f"runs_dir={tmp_path}", stdout=subprocess.PIPE)
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 0 and told(output.split()[-1])["engine"]["workers"] == 3
    # Three quarters of the rows of six sites train; 64 features of four bytes each.
    rows = 6 * 20_000 * 0.75 * 64 * 4
    came = {name: nodes.received(name) - before[name] for name in before}
    assert all(0.9 * rows < bytes_ < 1.2 * rows for bytes_ in came.values()), (rows, came)


def test_a_machine_that_is_none_of_the_clusters_is_told_so(nodes, tmp_path):
    begun = time.monotonic()
    process = nodes.fedkit("simulate", "heart_disease", *SMALL, f"runs_dir={tmp_path}", party="stranger")
    output, error = process.communicate(timeout=120)
    assert process.returncode == 2 and "FK551" in output + error and "this machine is none of its" in output + error
    assert time.monotonic() - begun < 60 and not list(tmp_path.iterdir())


def test_a_machine_that_is_lost_in_a_round_costs_no_update_and_none_counts_twice(nodes, tmp_path):
    """Last: its node is gone."""
    words = ["privacy=none", "training.local_epochs=null", "training.local_steps=1000", "federation.num_rounds=12"]
    # Compiled code would be through before a machine can be lost.
    words += ["training.workers=3", "training.engine=reference"]
    process = nodes.fedkit("simulate", "heart_disease", *words, f"runs_dir={tmp_path}")
    wait(lambda: any(each.read_text().count("\n") > 2 for each in tmp_path.glob("*/metrics.jsonl")), 120, "no rounds")
    nodes.kill("two")
    output, error = process.communicate(timeout=300)
    assert process.returncode == 0, error
    run = Path(json.loads(output)["run_dir"])
    lost = [note for note in told(run)["notes"] if "was lost" in note]
    assert lost and all("of two)" in note and "were trained again" in note for note in lost)
    assert told(run)["outcome"] == "complete" and fedkit.replay(run).identical
