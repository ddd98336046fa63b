"""A notice reaches real receivers: signed, over a trusted TLS alone, through the proxy, over every syslog transport."""

import hashlib
import hmac
import json
import re
import socket

import pytest
from fedkit_client.alert import Alert
from fedkit_client.alert_book import notice
from fedkit_client.alert_channels import SIGNATURE, log, post

from fedkit.errors import DeploymentError
from fedkit.governance.alert_terms import Syslog, Webhook
from tests.clients.receivers import Hook, proxy, stream

SECRET = "0123456789abcdef-secret"
BODY = notice(Alert("budget", "critical", "budget:icu:0.95", 5.0, "95 % is spent", "look"), "raised", "north", 9.0)
RFC5424 = re.compile(rb"<(\d+)>1 (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z) (\S+) fedkit (\d+) (\S+) - @cee: (\{.*\})")


@pytest.fixture
def hook(tmp_path):
    found = Hook(tmp_path)
    yield found
    found.close()


@pytest.fixture
def webhook(hook, tmp_path):
    (tmp_path / "secret").write_text(SECRET + "\n")
    (tmp_path / "secret").chmod(0o600)
    return Webhook(hook.url, tmp_path / "secret", None, hook.ca_file)


def test_a_webhook_gets_the_notice_under_a_signature_that_it_can_compare(hook, webhook):
    post(webhook, BODY, 1_700_000_000.7)
    ((headers, body),) = hook.taken
    assert body.decode() == BODY and headers["Content-Type"] == "application/json"
    at, _, given = headers[SIGNATURE].partition(",v1=")
    assert at == "t=1700000000"
    assert given == hmac.new(SECRET.encode(), b"1700000000." + body, hashlib.sha256).hexdigest()
    assert SECRET not in str(headers) + body.decode()


def test_the_secret_may_be_in_the_environment_and_is_read_at_each_attempt(hook, monkeypatch):
    webhook = Webhook(hook.url, None, "ALERT_SECRET", hook.ca_file)
    given = []
    for secret in (SECRET, SECRET[::-1]):
        monkeypatch.setenv("ALERT_SECRET", secret)
        post(webhook, BODY, 1.0)
        given.append(hook.taken[-1][0][SIGNATURE])
    assert given[0] != given[1]


@pytest.mark.parametrize("status", [302, 400, 404, 500])
def test_whatever_is_not_2xx_did_not_take_it_and_no_redirect_is_followed(hook, webhook, status):
    hook.status = status
    with pytest.raises(DeploymentError, match=f"HTTP {status}") as caught:
        post(webhook, BODY, 1.0)
    assert caught.value.code == "FK786" and len(hook.taken) == 1


def test_a_receiver_by_another_ca_is_told_nothing(hook, tmp_path):
    (tmp_path / "secret").write_text(SECRET)
    (tmp_path / "secret").chmod(0o600)
    with pytest.raises(DeploymentError, match="certificate is not trusted"):
        post(Webhook(hook.url, tmp_path / "secret", None), BODY, 1.0)
    assert hook.taken == []


def test_a_webhook_is_reached_through_the_proxy_of_the_environment(hook, webhook, monkeypatch):
    with proxy() as (address, asked):
        monkeypatch.setenv("HTTPS_PROXY", address)
        monkeypatch.setenv("no_proxy", "")
        monkeypatch.setenv("NO_PROXY", "")
        post(webhook, BODY, 1.0)
    assert asked == [f"localhost:{hook.port}"] and len(hook.taken) == 1


@pytest.mark.parametrize("secret", [None, "short"])
def test_without_a_secret_nothing_is_sent(hook, tmp_path, secret):
    if secret is not None:
        (tmp_path / "secret").write_text(secret)
        (tmp_path / "secret").chmod(0o600)
    with pytest.raises(DeploymentError, match="secret"):
        post(Webhook(hook.url, tmp_path / "secret", None, hook.ca_file), BODY, 1.0)
    assert hook.taken == []


def test_a_secret_that_others_can_read_is_refused(hook, webhook):
    webhook.secret_file.chmod(0o644)
    with pytest.raises(DeploymentError, match="others on this machine"):
        post(webhook, BODY, 1.0)
    assert hook.taken == []


def test_a_receiver_that_is_not_there_is_told_by_name_of_the_failure_and_no_secret(webhook, hook):
    hook.close()
    with pytest.raises(DeploymentError) as caught:
        post(webhook, BODY, 1.0)
    assert caught.value.code == "FK786" and SECRET not in str(caught.value)
    hook.server.server_close()


def _parsed(message):
    found = RFC5424.fullmatch(message)
    assert found, message
    assert int(found[1]) == 16 * 8 + 2 and found[2] == b"1970-01-01T00:00:09.000000Z"
    assert found[5] == b"budget" and json.loads(found[6]) == json.loads(BODY)
    return found


def test_syslog_over_udp():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        receiver.settimeout(5)
        log(Syslog("udp", "127.0.0.1", receiver.getsockname()[1]), BODY, 9.0)
        _parsed(receiver.recv(65536))


def test_syslog_over_tcp_is_counted():
    with stream() as (place, taken):
        log(Syslog("tcp", *place), BODY, 9.0)
    (whole,) = taken
    length, _, message = whole.partition(b" ")
    assert int(length) == len(message)
    _parsed(message)


def test_syslog_over_tls_hangs_on_the_named_ca(hook):
    with stream(context=hook.context) as (place, taken):
        log(Syslog("tls", "localhost", place[1], hook.ca_file), BODY, 9.0)
        with pytest.raises(DeploymentError, match="certificate is not trusted"):
            log(Syslog("tls", "localhost", place[1]), BODY, 9.0)
    _parsed(next(each for each in taken if each).partition(b" ")[2])


def test_syslog_over_a_unix_socket_of_either_kind(tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "datagrams"))
        receiver.settimeout(5)
        log(Syslog("unix", str(tmp_path / "datagrams")), BODY, 9.0)
        _parsed(receiver.recv(65536))
    with stream(socket.AF_UNIX, str(tmp_path / "stream")) as (_, taken):
        log(Syslog("unix", str(tmp_path / "stream")), BODY, 9.0)
    _parsed(taken[0].removesuffix(b"\n"))


def test_syslog_that_nobody_takes_is_told():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with pytest.raises(DeploymentError) as caught:
        log(Syslog("tcp", "127.0.0.1", port), BODY, 9.0)
    assert caught.value.code == "FK786"
    with pytest.raises(DeploymentError):
        log(Syslog("unix", "/nonexistent/log"), BODY, 9.0)
