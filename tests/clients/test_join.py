"""Joining pins one federation, says what is wrong before anything secret is sent, and leaves nothing half made."""

import json
import socket
import ssl
import stat
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from types import SimpleNamespace

import pytest
from fedkit_client import trust
from fedkit_client.doctor import checks_of_address
from fedkit_client.folder import SiteFolder
from fedkit_client.join import join, read_token
from fedkit_client.start import open_site
from fedkit_client.trouble import untrusted
from fedkit_server.pki import make_ca, make_server

from fedkit.cli.main import main
from fedkit.errors import ConfigError, DeploymentError, FederationError
from tests.clients.coordinator import SITE, Coordinator, site_yaml


@pytest.fixture
def closed_port():
    """A port that nobody listens at, and that nobody else is given meanwhile."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


@pytest.fixture(scope="module")
def coordinator(tmp_path_factory):
    made = Coordinator(tmp_path_factory.mktemp("coordinator")).up()
    yield made
    made.down()


def _address(coordinator):
    return f"127.0.0.1:{coordinator.port}"


def _leaves_nothing(path):
    assert [child.name for child in path.iterdir()] == []


def _refused(tmp_path, coordinator, code, token=None, address=None, kind=DeploymentError):
    with pytest.raises(kind) as caught:
        join(address or _address(coordinator), token or coordinator.invite(), tmp_path / "site")
    assert caught.value.code == code
    assert caught.value.remedy or kind is ConfigError
    _leaves_nothing(tmp_path)
    return caught.value


def test_a_joined_folder_is_whole_closed_and_pins_the_invitation(coordinator, tmp_path):
    done = join(_address(coordinator), f"  {coordinator.invite()}\n", tmp_path / "site")
    assert done.enrolment.federation == coordinator.federation and done.blank
    assert done.folder.keyring().statements == coordinator.keyring.statements
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in done.folder.path.iterdir()}
    assert modes.pop("ledgers") == 0o700 == stat.S_IMODE(done.folder.path.stat().st_mode)
    assert set(modes) == {
        "audit.jsonl",
        "ca.crt",
        "enrolment.json",
        "keyring.jsonl",
        "node.key",
        "signing.key",
        "site.yaml",
        "vault.json",
    }
    assert set(modes.values()) == {0o600}
    key = tmp_path / "site.key"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["site", key.name]
    assert stat.S_IMODE(key.stat().st_mode) == 0o600 and str(key) in done.key


def test_the_template_leaves_every_decision_blank(coordinator, tmp_path):
    done = join(_address(coordinator), coordinator.invite(), tmp_path / "site")
    with pytest.raises(ConfigError) as caught:
        open_site(done.folder.site_yaml)
    for key in (
        "declaration",
        "source",
        "records",
        "unit",
        "max_epsilon",
        "delta",
        "models",
        "strategies",
        "policy.purposes",
        "policy.studies",
        "policy.submitters",
        "policy.release",
        "policy.approval",
        "policy.max_rounds",
    ):
        assert f".{key} " in str(caught.value)


def test_a_site_file_is_copied_and_must_be_the_invited_site_s(coordinator, tmp_path):
    (tmp_path / "given.yaml").write_text(site_yaml(tmp_path))
    done = join(_address(coordinator), coordinator.invite(), tmp_path / "site", tmp_path / "given.yaml")
    assert not done.blank and open_site(done.folder.site_yaml).file.site == SITE
    with pytest.raises(DeploymentError, match="south"):
        join(_address(coordinator), coordinator.invite("south"), tmp_path / "other", tmp_path / "given.yaml")


def test_an_existing_folder_is_left_alone(coordinator, tmp_path):
    (tmp_path / "site").mkdir()
    with pytest.raises(DeploymentError, match="exists") as caught:
        join(_address(coordinator), coordinator.invite(), tmp_path / "site")
    assert caught.value.code == "FK740"


def test_an_invitation_works_once(coordinator, tmp_path):
    token = coordinator.invite()
    join(_address(coordinator), token, tmp_path / "site").folder.path.rename(tmp_path.parent / f"{tmp_path.name}-site")
    (tmp_path / "site.key").unlink()
    _refused(tmp_path, coordinator, "FK730", token)


def test_an_expired_invitation_asks_nobody(coordinator, tmp_path):
    _refused(tmp_path, coordinator, "FK543", coordinator.invite(lifetime=-60), "192.0.2.1:1", FederationError)


def test_half_an_invitation_is_none(coordinator, tmp_path):
    _refused(tmp_path, coordinator, "FK540", coordinator.invite()[:-20], kind=FederationError)


def test_another_ca_than_the_invitation_s_ends_it_before_the_secret_is_sent(coordinator, tmp_path):
    token = coordinator.invite(federation="sha256:" + "0" * 64)
    error = _refused(tmp_path, coordinator, "FK742", token)
    assert coordinator.federation in str(error) and SITE in coordinator.secrets


@pytest.mark.parametrize("pin", ["coordinator", "root"])
def test_another_key_than_the_invitation_s_is_refused(coordinator, tmp_path, pin):
    token = coordinator.invite(**{pin: "sha256:" + "0" * 64})
    _refused(tmp_path, coordinator, "FK541", token, kind=FederationError)


def test_nobody_there_and_no_such_name(coordinator, tmp_path, closed_port):
    _refused(tmp_path, coordinator, "FK747", address=f"127.0.0.1:{closed_port}")
    _refused(tmp_path, coordinator, "FK746", address="no-such-host.invalid:8443")
    _refused(tmp_path, coordinator, "FK746", address="https://fl.example.org/")


@contextmanager
def _serving(folder, pair, answer):
    """A TLS server of another certificate that answers every request with the same bytes."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    for name, content in (("crt", pair.certificate), ("key", pair.key)):
        (folder / f"other.{name}").write_bytes(content)
    context.load_cert_chain(folder / "other.crt", folder / "other.key")
    server = socket.create_server(("127.0.0.1", 0))
    heard = []

    def serve():
        while True:
            try:
                raw, _ = server.accept()
            except OSError:
                return
            try:
                with context.wrap_socket(raw, server_side=True) as connection:
                    heard.append(connection.recv(65536))
                    connection.sendall(answer)
            except OSError:
                continue

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield server.getsockname()[1], heard
    finally:
        server.close()


def _response(body, **headers):
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n{lines}\r\n".encode() + body


def test_tls_interception_is_named_with_the_certificate_that_was_seen(coordinator, tmp_path, tmp_path_factory):
    box = make_server(make_ca("Corporate Inspection"), ["127.0.0.1"])
    # The proxy passes the coordinator's own CA through, as it passes every page.
    with _serving(tmp_path_factory.mktemp("box"), box, _response(coordinator.ca.certificate)) as (port, heard):
        error = _refused(tmp_path, coordinator, "FK743", address=f"127.0.0.1:{port}")
    assert "Corporate Inspection" in str(error)
    assert not any(b"secret" in request or b"BEGIN" in request for request in heard)


def test_a_server_that_is_no_coordinator_is_named(coordinator, tmp_path, tmp_path_factory):
    pair = make_server(coordinator.ca, ["127.0.0.1"])
    with _serving(tmp_path_factory.mktemp("box"), pair, _response(b"<html>Welcome</html>")) as (port, _):
        _refused(tmp_path, coordinator, "FK750", address=f"127.0.0.1:{port}")


@pytest.mark.parametrize(
    ("why", "code"),
    [
        ("Hostname mismatch, certificate is not valid for 'fl'.", "FK749"),
        ("IP address mismatch, certificate is not valid for '192.0.2.1'.", "FK749"),
        ("certificate has expired", "FK744"),
        ("certificate is not yet valid", "FK744"),
        ("self-signed certificate in certificate chain", "FK743"),
        ("unable to get local issuer certificate", "FK743"),
    ],
)
def test_what_tls_finds_wrong_has_a_code_and_a_remedy_of_its_own(why, code):
    error = untrusted("fl.example.org:8443", why)
    assert error.code == code and error.remedy


@pytest.mark.parametrize(("ahead", "word"), [(400, "behind"), (-60, "ahead of")])
def test_clocks_that_are_apart_are_told(coordinator, tmp_path, monkeypatch, ahead, word):
    # The site's clock alone: the coordinator of this process dates its answers by the time of the module itself.
    monkeypatch.setattr("fedkit_client.trust.time", SimpleNamespace(time=lambda: time.time() - ahead))
    token = coordinator.invite(lifetime=86_400)
    assert word in str(_refused(tmp_path, coordinator, "FK745", token))


def test_an_interrupted_join_leaves_nothing(coordinator, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("fedkit_client.enrol.call", interrupt)
    with pytest.raises(KeyboardInterrupt):
        join(_address(coordinator), coordinator.invite(), tmp_path / "site")
    _leaves_nothing(tmp_path)


@contextmanager
def _proxy(password=""):
    """An HTTP proxy that knows CONNECT and counts its tunnels."""
    server = socket.create_server(("127.0.0.1", 0))
    tunnels = []

    def pump(source, target):
        try:
            while data := source.recv(65536):
                target.sendall(data)
        except OSError:
            pass
        finally:
            for each in (source, target):
                with suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
            source.close()

    def serve():
        while True:
            try:
                client, _ = server.accept()
            except OSError:
                return
            head = b""
            while b"\r\n\r\n" not in head:
                head += client.recv(1024)
            if password and password.encode() not in head:
                client.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n")
                client.close()
                continue
            host, port = head.split(b" ")[1].decode().rsplit(":", 1)
            tunnels.append(f"{host}:{port}")
            remote = socket.create_connection((host, int(port)))
            client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            for pair in ((client, remote), (remote, client)):
                threading.Thread(target=pump, args=pair, daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield server.getsockname()[1], tunnels
    finally:
        server.close()


def test_a_proxy_of_the_environment_carries_all_of_it(coordinator, tmp_path, monkeypatch):
    with _proxy() as (port, tunnels):
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{port}")
        join(_address(coordinator), coordinator.invite(), tmp_path / "site")
        assert {_address(coordinator), f"127.0.0.1:{coordinator.grpc_port}"} == set(tunnels)


def test_a_proxy_that_refuses_is_told_without_its_password(coordinator, tmp_path, monkeypatch):
    with _proxy(password="no") as (port, _):
        monkeypatch.setenv("HTTPS_PROXY", f"http://user:hunter2@127.0.0.1:{port}")
        error = _refused(tmp_path, coordinator, "FK748")
    assert "407" in str(error) and "hunter2" not in str(error)


def test_the_invitation_is_read_from_a_file_or_told_to_be_absent(tmp_path):
    (tmp_path / "token").write_text("abc\n")
    assert read_token(str(tmp_path / "token")) == "abc\n"
    with pytest.raises(DeploymentError) as caught:
        read_token(str(tmp_path / "absent"))
    assert caught.value.code == "FK751"


def test_the_doctor_shows_an_address_before_anything_is_pinned(coordinator, closed_port):
    found = {each.name: each.state for each in checks_of_address(_address(coordinator), coordinator.grpc_port)}
    names = ("proxy", "DNS", "TCP", "TLS", "clock", "certificate", "enrolment port")
    assert found == dict.fromkeys(names, "ok")
    assert [each.state for each in checks_of_address(f"127.0.0.1:{closed_port}")][-1] == "fail"


def test_the_doctor_finds_a_closed_enrolment_port_before_joining(coordinator, closed_port):
    (last,) = [each for each in checks_of_address(_address(coordinator), closed_port) if each.state == "fail"]
    assert last.name == "enrolment port" and "FK747" in last.found and "--grpc-port" in last.remedy


def test_the_doctor_finds_clocks_that_are_apart_before_joining(coordinator, monkeypatch):
    monkeypatch.setattr("fedkit_client.trust.skew_of", lambda headers, now: -3600.0)
    found = checks_of_address(_address(coordinator), coordinator.grpc_port)
    (clock,) = [each for each in found if each.name == "clock"]
    assert clock.state == "fail" and "FK745" in clock.found and "3600 s ahead" in clock.found


def test_the_doctor_s_exit_status_says_that_a_check_failed(capsys, closed_port):
    with pytest.raises(SystemExit) as left:
        main(["client", "doctor", "--address", f"127.0.0.1:{closed_port}", "--json"])
    assert left.value.code == 1
    assert json.loads(capsys.readouterr().out)["ok"] is False


def test_a_certificate_that_is_none_is_refused():
    with pytest.raises(ValueError, match=r".*"):
        trust.certificate_fingerprint(b"nothing")


_HOLDER = """
import pathlib, sys, fedkit_client.lock
with fedkit_client.lock.hold(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def _held(pid_file):
    # The lock is a process's: this one would be let in again.
    with subprocess.Popen(
        [sys.executable, "-c", _HOLDER, pid_file], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout.readline() == b"held\n"
        yield
        other.stdin.close()


def _used(coordinator, path):
    done = join(_address(coordinator), coordinator.invite(), path)
    for name, text in {"ledgers/a.sqlite": "spent", "withdrawals.jsonl": "who", "pseudonym.key": "k"}.items():
        (path / name).write_text(text)
    (path / "paused.json").write_text("{}")
    return done


def test_whoever_joins_again_takes_what_was_spent_and_withdrawn_along_and_the_old_folder_never_runs_again(
    coordinator, tmp_path
):
    old = tmp_path / "old"
    _used(coordinator, old)
    done = join(_address(coordinator), coordinator.invite(), tmp_path / "new", old=old)
    assert coordinator.joined[-1]["again"] is True
    for name in ("ledgers/a.sqlite", "withdrawals.jsonl", "pseudonym.key", "paused.json"):
        assert (done.folder.path / name).read_text() == (old / name).read_text()
    assert done.folder.signing_key.read_bytes() != (old / "signing.key").read_bytes()
    with pytest.raises(DeploymentError, match="FK741"):
        SiteFolder(old).enrolment()
    with pytest.raises(DeploymentError, match=r"FK757.*taken over by a later joining"):
        join(_address(coordinator), coordinator.invite(), tmp_path / "third", old=old)


def test_a_folder_that_runs_or_is_none_is_not_taken_over_and_the_token_stays_good(coordinator, tmp_path):
    old = tmp_path / "old"
    _used(coordinator, old)
    token = coordinator.invite()
    before = len(coordinator.joined)
    with _held(SiteFolder(old).pid_file), pytest.raises(DeploymentError, match="FK753"):
        join(_address(coordinator), token, tmp_path / "new", old=old)
    for none in (tmp_path / "nothing", tmp_path):
        with pytest.raises(DeploymentError, match="FK757"):
            join(_address(coordinator), token, tmp_path / "new", old=none)
    assert len(coordinator.joined) == before and not (tmp_path / "new").exists()
    join(_address(coordinator), token, tmp_path / "new", old=old)


def test_a_joining_that_is_refused_leaves_the_old_folder_as_it_was(coordinator, tmp_path):
    old = tmp_path / "old"
    _used(coordinator, old)
    token = coordinator.invite()
    join(_address(coordinator), token, tmp_path / "new", empty_ledgers=True)
    with pytest.raises(DeploymentError):
        join(_address(coordinator), token, tmp_path / "third", old=old)
    assert SiteFolder(old).enrolment().site == SITE and not (tmp_path / "third").exists()


def test_a_first_joining_says_that_it_is_one(coordinator, tmp_path):
    join(_address(coordinator), coordinator.invite(), tmp_path / "a")
    assert coordinator.joined[-1]["again"] is False
    join(_address(coordinator), coordinator.invite(), tmp_path / "b", empty_ledgers=True)
    assert coordinator.joined[-1]["again"] is True
