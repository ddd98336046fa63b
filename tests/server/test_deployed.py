"""The coordinator as a process, over real TLS: who gets in, what a kill leaves, what its log and command line tell."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from fedkit_server.lock import holder
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families

from fedkit.errors import DeploymentError
from fedkit.federation import enrolment as wire
from fedkit.federation.flower_node import NodeConnection
from fedkit.federation.invite import read_invitation
from tests.server.builders import SiteKeys, new_site, offer_text

pytestmark = pytest.mark.deploy


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def _other_address() -> str | None:
    """An address of this host that is not its loopback's; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("198.51.100.1", 9))
            found = str(probe.getsockname()[0])
        except OSError:
            return None
    return None if found.startswith("127.") else found


@dataclass
class Deployed:
    base: Path
    port: int
    grpc_port: int

    @property
    def folder(self) -> Path:
        return self.base / "coordinator"

    @property
    def profile(self) -> Path:
        return self.base / "heart-admin"

    @property
    def ca(self) -> bytes:
        return (self.profile / "ca.crt").read_bytes()

    def run(self, *words: object, status: int = 0) -> Any:
        environment = {**os.environ, "NO_PROXY": "*"}
        command = [sys.executable, "-m", "fedkit", "server", *map(str, words), "--json"]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=self.base)
        assert done.returncode == status, done.stdout + done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    def ask(self, *words: object, status: int = 0, profile: Path | None = None) -> Any:
        return self.run(*words, "--profile", profile or self.profile, status=status)

    def start(self) -> int:
        return int(self.run("start", self.folder, "--detach")["pid"])

    def get(self, path: str, host: str = "localhost", method: str = "GET", token: str = "") -> httpx.Response:
        context = ssl.create_default_context(cadata=self.ca.decode())
        with httpx.Client(verify=context, trust_env=False, timeout=20) as client:
            headers = {"authorization": f"Bearer {token}"} if token else {}
            return client.request(method, f"https://{host}:{self.port}{path}", headers=headers)

    def channel(self) -> Any:
        credentials = grpc.ssl_channel_credentials(root_certificates=self.ca)
        options = [("grpc.enable_http_proxy", 0)]
        return grpc.secure_channel(f"localhost:{self.grpc_port}", credentials, options=options)

    def call(self, method: str, request: dict[str, Any]) -> dict[str, Any]:
        with self.channel() as channel:
            try:
                answer = channel.unary_unary(f"/{wire.SERVICE}/{method}")(wire.encode(request), timeout=20)
            except grpc.RpcError as error:
                raise wire.read_error(error.details()) or error from None
        return wire.decode(answer, "the answer")

    def secret(self, site: str, hours: float = 1) -> str:
        file = Path(self.ask("invite", site, "--hours", hours, "--out", "invitations")["invitations"][0]["file"])
        line = (self.base / file).read_text()
        (self.base / file).unlink()
        return read_invitation(line).secret

    def join(self, site: str) -> SiteKeys:
        keys = new_site()
        self.call(wire.JOIN, keys.request(site, self.secret(site)))
        return keys

    @contextmanager
    def connect(self, keys: SiteKeys) -> Iterator[NodeConnection]:
        connection = NodeConnection(f"localhost:{self.port}", self.ca, keys.node, wait=1.0)
        try:
            yield connection
        finally:
            connection.close()

    def state_of(self, site: str) -> str:
        return next(each["state"] for each in self.ask("sites")["sites"] if each["name"] == site)


def _init(base: Path) -> Deployed:
    made = Deployed(base, _free_port(), _free_port())
    words = ["--name", "heart", "--host", "localhost", "--port", made.port, "--grpc-port", made.grpc_port]
    if other := _other_address():
        words += ["--host", other]
    made.run("init", made.folder, *words)
    return made


def _make(base: Path) -> Deployed:
    made = _init(base)
    made.start()
    return made


@pytest.fixture(scope="module")
def deployed(tmp_path_factory):
    made = _make(tmp_path_factory.mktemp("deployed"))
    yield made
    made.run("halt", made.folder)


@pytest.fixture(scope="module")
def far(deployed):
    address = _other_address()
    if address is None:
        pytest.skip("this host has no address but its loopback's")
    return address


def test_it_answers_over_https_and_over_grpcs_own_health_check(deployed):
    assert deployed.get("/fedkit/v1/health").json()["status"] == "ok"
    with deployed.channel() as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for name in ("", wire.SERVICE):
            reply = stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=20)
            assert reply.status == health_pb2.HealthCheckResponse.SERVING


def test_nothing_older_than_tls_1_2_is_spoken(deployed):
    context = ssl.create_default_context(cadata=deployed.ca.decode())
    assert deployed.get("/fedkit/v1/ca").content == deployed.ca
    with (
        socket.create_connection(("localhost", deployed.port)) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as wrapped,
    ):
        assert wrapped.version() in ("TLSv1.2", "TLSv1.3")
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    with socket.create_connection(("localhost", deployed.port)) as plain, pytest.raises((ssl.SSLError, OSError)):
        context.wrap_socket(plain, server_hostname="localhost")


def test_flowers_control_api_needs_an_admins_token(deployed):
    for path in ("list-runs", "start-run", "register-node", "list-nodes"):
        assert deployed.get(f"/v1/control/{path}", method="POST").status_code == 401
        assert deployed.get(f"/v1/control/{path}", method="POST", token="x").status_code == 401


def test_flowers_runtime_api_is_closed_to_this_host_too(deployed, far):
    for path in ("acquire-task", "get-nodes", "pull-object"):
        assert deployed.get(f"/v1/runtime/{path}", far, method="POST").status_code == 403
        assert deployed.get(f"/v1/runtime/{path}", method="POST").status_code == 403


def test_metrics_parse_and_are_for_this_host_or_a_token(deployed, far):
    names = {family.name for family in text_string_to_metric_families(deployed.get("/metrics").text)}
    assert {"fedkit_sites_enrolled", "fedkit_sites_online", "fedkit_runs", "fedkit_failed_logins"} <= names
    token = (deployed.profile / "token").read_text().strip()
    assert deployed.get("/metrics", far).status_code == 401
    assert deployed.get("/metrics", far, token=token).status_code == 200


def test_a_node_that_has_the_authority_but_did_not_join_is_refused(deployed):
    with deployed.connect(new_site()) as connection, pytest.raises(httpx.HTTPStatusError):
        connection.activate()


def test_flowers_own_supernode_that_did_not_join_is_refused(deployed, tmp_path):
    from cryptography.hazmat.primitives import serialization

    key = new_site().node.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )
    (tmp_path / "key").write_bytes(key)
    (tmp_path / "key").chmod(0o600)
    program = Path(sys.executable).with_name("flower-supernode")
    command = [program, "--superlink", f"localhost:{deployed.port}", "--root-certificates", deployed.profile / "ca.crt"]
    command += ["--auth-supernode-private-key", tmp_path / "key", "--port", str(_free_port()), "--isolation", "process"]
    environment = {**os.environ, "NO_PROXY": "*", "FLWR_TELEMETRY_ENABLED": "0", "FLWR_HOME": str(tmp_path)}
    with (tmp_path / "said").open("wb") as said:
        child = subprocess.Popen(command, stdout=said, stderr=said, env=environment)
        try:
            assert child.wait(120) != 0
        finally:
            child.kill()
            child.wait()
    assert deployed.ask("status")["sites"]["online"] == 0


def test_a_site_joins_connects_offers_and_is_seen(deployed):
    keys = deployed.join("north")
    with deployed.connect(keys) as connection:
        connection.activate()
        deployed.call(wire.ANNOUNCE, {"offer": offer_text("north", keys.signing, time.time()), "wire": "1.0"})
        found = next(site for site in deployed.ask("sites")["sites"] if site["name"] == "north")
        assert found["state"] == "online" and found["offer"]["datasets"]["heart_disease"]["records"] == 303
        assert connection.receive() is None


def test_an_invitation_works_once_for_its_own_site_and_for_its_time(deployed):
    secret = deployed.secret("south")
    with pytest.raises(DeploymentError, match="FK716"):
        deployed.call(wire.JOIN, new_site().request("west", secret))
    deployed.call(wire.JOIN, new_site().request("south", secret))
    with pytest.raises(DeploymentError, match="FK714"):
        deployed.call(wire.JOIN, new_site().request("south", secret))
    with pytest.raises(DeploymentError, match="FK715"):
        deployed.call(wire.JOIN, new_site().request("late", deployed.secret("late", hours=1e-7)))
    with pytest.raises(DeploymentError, match="FK718"):
        deployed.call(wire.JOIN, new_site().request("late", secret, wire="7.0"))


def test_a_revoked_site_is_out_at_once_and_cannot_come_back(deployed):
    keys = deployed.join("east")
    with deployed.connect(keys) as connection:
        connection.activate()
        assert deployed.ask("revoke", "east")["revoked"]
        assert deployed.state_of("east") == "revoked"
        with pytest.raises(httpx.HTTPStatusError):
            connection.receive()
    with deployed.connect(keys) as connection, pytest.raises(httpx.HTTPStatusError):
        connection.activate()


def test_a_viewer_looks_and_runs_nothing(deployed):
    deployed.run("user", "key", "vera.key")
    deployed.ask("user", "add", "vera", "--role", "viewer", "--key", "vera.key.pub")
    profile = deployed.base / "vera-profile"
    (deployed.base / "vera.key").rename(profile / "signing.key")
    assert deployed.ask("status", profile=profile)["you"] == {"name": "vera", "role": "viewer"}
    for words in (["invite", "x"], ["revoke", "north"], ["user", "token", "admin", "--out", "t"]):
        assert deployed.ask(*words, profile=profile, status=2)["error"]["code"] == "FK721"
    deployed.ask("user", "rotate", profile=profile)
    deployed.ask("status", profile=profile)
    deployed.ask("user", "revoke", "vera")
    assert deployed.ask("status", profile=profile, status=2)["error"]["code"] == "FK720"


def test_a_run_of_sites_that_do_not_offer_it_is_refused_before_it_is_submitted(deployed):
    refused = deployed.ask("run", "heart_disease", "--sites", "north,nowhere", status=2)
    assert refused["error"]["code"] == "FK728" and "nowhere" in refused["error"]["message"]
    assert deployed.ask("status")["runs"] == []


def test_a_second_start_is_refused(deployed):
    pid = holder(deployed.folder / "server.pid")
    assert deployed.run("start", deployed.folder, status=2)["error"]["code"] == "FK708"
    assert deployed.run("start", deployed.folder, "--detach", status=2)["error"]["code"] == "FK708"
    assert holder(deployed.folder / "server.pid") == pid


def test_no_secret_is_in_the_log_or_on_the_command_line(deployed):
    secret = deployed.secret("quiet")
    deployed.get("/fedkit/v1/status", token="fedkit-token-1." + "A" * 43)
    token = (deployed.profile / "token").read_text().strip()
    process = Path("/proc", str(holder(deployed.folder / "server.pid")))
    texts = [(process / "cmdline").read_bytes(), (process / "environ").read_bytes()]
    texts += [path.read_bytes() for path in deployed.folder.glob("server.log*")]
    keys = [path.read_bytes().splitlines()[1] for path in (deployed.folder / "keys").iterdir()]
    for hidden in (secret.encode(), token.split(".")[1].encode(), b"A" * 43, *keys):
        assert not any(hidden in text for text in texts)
    assert b"had no valid token" in b"".join(texts)


def test_telemetry_and_installs_are_off(deployed):
    # In a process of its own: Flower reads the switch when it is first imported.
    told = "import fedkit_server.service; from flwr.supercore import telemetry; print(telemetry.FLWR_TELEMETRY_ENABLED)"
    found = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["0"]
    children = Path("/proc", str(holder(deployed.folder / "server.pid")), "task")
    started = [(child / "children").read_text() for child in children.iterdir()]
    assert "".join(started).strip() == ""


def test_nobody_else_may_read_what_a_running_coordinator_has_written(deployed):
    modes = {path: path.stat().st_mode & 0o077 for path in [deployed.folder, *deployed.folder.rglob("*")]}
    assert {path: mode for path, mode in modes.items() if mode} == {}


def test_a_kill_loses_no_site_and_a_rotation_locks_none_out(tmp_path):
    deployed = _make(tmp_path)
    try:
        keys = deployed.join("north")
        os.kill(holder(deployed.folder / "server.pid"), signal.SIGKILL)
        while holder(deployed.folder / "server.pid") is not None:
            time.sleep(0.02)
        deployed.start()
        with deployed.connect(keys) as connection:
            connection.activate()
            assert deployed.state_of("north") == "online"

        secret = deployed.secret("late")
        assert deployed.run("rotate", deployed.folder, status=2)["error"]["code"] == "FK708"
        deployed.run("halt", deployed.folder)
        assert deployed.run("rotate", deployed.folder, "--coordinator-key")["voided_invitations"] == 1
        deployed.start()
        with deployed.connect(keys) as again:
            again.activate()
            assert deployed.state_of("north") == "online"
        told = deployed.call(wire.ANNOUNCE, {"offer": offer_text("north", keys.signing, time.time()), "wire": "1.0"})
        assert [json.loads(json.loads(text)["payload"])["action"] for text in told["keyring"]] == [
            "root", "coordinator", "coordinator",
        ]  # fmt: skip
        with pytest.raises(DeploymentError, match="FK714"):
            deployed.call(wire.JOIN, new_site().request("late", secret))
    finally:
        deployed.run("halt", deployed.folder)


def test_a_foreground_start_says_that_it_is_up_and_ends_with_0_on_sigterm(tmp_path):
    made = _init(tmp_path)
    command = [sys.executable, "-m", "fedkit", "server", "start", made.folder, "--json"]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert json.loads(child.stdout.readline())["pid"] == child.pid
    assert made.get("/fedkit/v1/health").status_code == 200
    child.send_signal(signal.SIGTERM)
    _, err = child.communicate(timeout=30)
    assert (child.returncode, err) == (0, "")


def test_a_taken_port_is_said(tmp_path):
    made = _init(tmp_path)
    for port in (made.port, made.grpc_port):
        with socket.create_server(("0.0.0.0", port)):
            assert made.run("start", made.folder, "--detach", status=2)["error"]["code"] == "FK709"
