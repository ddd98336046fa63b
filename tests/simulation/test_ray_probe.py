"""What is refused before any work; but for the silent port, without Ray."""

import importlib.util
import socket
import time

import pytest

import fedkit
from fedkit.errors import FederationError, FedkitError, PrivacyError
from fedkit.simulation import ray_crew, ray_probe
from fedkit.simulation.ray_cluster import Cluster
from fedkit.simulation.ray_errors import refused
from tests.simulation.conftest import write_table


@pytest.fixture
def installed(monkeypatch):
    monkeypatch.setattr(ray_probe, "require_ray", lambda: None)


def run(tmp_path, *overrides):
    folder = write_table(tmp_path / "my", sizes={"north": 60, "south": 60})
    words = ["data=icu", "federation=ray", f"runs_dir={tmp_path / 'runs'}", *overrides]
    return fedkit.simulate(overrides=words, config_dir=folder)


def test_without_ray_the_error_names_what_to_install_and_no_run_is_begun(tmp_path, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "ray" else found(name, *a))
    with pytest.raises(FederationError) as caught:
        run(tmp_path)
    assert caught.value.code == "FK550" and caught.value.remedy == "pip install 'fedkit[ray]'"
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").iterdir())


@pytest.mark.usefixtures("installed")
def test_an_address_where_nothing_listens_is_refused_at_once_and_no_run_is_begun(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    begun = time.monotonic()
    with pytest.raises(FederationError, match=f"federation.address=127.0.0.1:{port} does not answer") as caught:
        run(tmp_path, f"federation.address=127.0.0.1:{port}")
    assert caught.value.code == "FK551" and "federation.address=null" in caught.value.remedy
    assert time.monotonic() - begun < 20
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").iterdir())


def test_something_that_listens_and_is_no_ray_is_given_up(monkeypatch):
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'fedkit[ray]'")
    assert ray_probe.SECONDS <= 30
    monkeypatch.setattr(ray_probe, "SECONDS", 2.0)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(5)
        begun = time.monotonic()
        with pytest.raises(FederationError, match="did not answer as Ray does within 2 s") as caught:
            ray_probe.check(f"127.0.0.1:{silent.getsockname()[1]}")
    assert caught.value.code == "FK551" and time.monotonic() - begun < 10


def test_what_ray_quotes_of_its_own_code_is_not_told():
    """As Ray 2.60 raises it where something else than Ray listens."""
    cause = RuntimeError(
        "Failed to connect to GCS. Last connection error: Traceback (most recent call last):\n"
        '  File "site-packages/ray/_private/node.py", line 996, in _init_gcs_client\n    client = GcsClient(\n'
        "ray.exceptions.RpcError: RPC error: Received http2 header with status: 404\n"
    )
    error = ConnectionError("Failed to connect to Ray cluster at 10.0.0.1:6379")
    error.__cause__ = cause
    told = refused("10.0.0.1:6379", error, "2.60.0")
    assert told.code == "FK551"
    assert told.message.endswith("joined at 10.0.0.1:6379: RpcError: RPC error: Received http2 header with status: 404")
    assert "on this machine" in ray_probe._silent("auto", "did not answer").remedy


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("said", "told"),
    [
        (
            "[1 C 2 3] raylet_ipc_client.cc:85: Failed to connect to socket\n*** StackTrace ***\n_start",
            "this machine is none of its",
        ),
        ("Traceback\nOSError: no space left", r"cannot be joined \(OSError: no space left\)"),
    ],
)
def test_a_process_that_ends_over_the_question_is_told_in_a_line(monkeypatch, said, told):
    """As Ray 2.60 ends one on a machine that no node of the cluster runs on."""
    monkeypatch.setattr(
        ray_probe, "_ASK", f"import os, sys; sys.stderr.write({said!r}); sys.stderr.flush(); os.abort()"
    )
    monkeypatch.setattr(ray_probe, "_ANSWERED", {})
    with socket.socket() as open_port:
        open_port.bind(("127.0.0.1", 0))
        open_port.listen(1)
        with pytest.raises(FederationError, match=told) as caught:
            ray_probe.check(f"127.0.0.1:{open_port.getsockname()[1]}")
    assert caught.value.code == "FK551" and caught.value.remedy and "_start" not in caught.value.message


@pytest.mark.parametrize(
    ("free", "asked", "most", "count"),
    [(8, "auto", 5, 5), (3, "auto", 5, 3), (8, "6", 5, 5), (2, "2", 5, 2), (2, "4", 2, 2)],
)
def test_there_are_as_many_actors_as_free_processors_sites_and_memory_allow(free, asked, most, count):
    assert ray_crew._count(Cluster(free, 1, "2"), asked, most, 5)[0] == count


@pytest.mark.parametrize(("free", "asked", "code"), [(0, "auto", "FK554"), (2, "3", "FK418"), (0, "1", "FK418")])
def test_more_actors_than_processors_are_refused(free, asked, code):
    with pytest.raises(FedkitError) as caught:
        ray_crew._count(Cluster(free, 1, "2"), asked, 5, 5)
    assert caught.value.code == code and caught.value.remedy


def test_sites_with_ledgers_are_not_trained_in_a_cluster(tmp_path):
    with pytest.raises(PrivacyError, match="federation=ray trains in other processes") as caught:
        run(tmp_path, "privacy.noise=secure", f"ledgers_dir={tmp_path}")
    assert caught.value.code == "FK356"
