"""``fedkit client console`` and ``console-user`` as processes."""

import json
import os
import pty
import signal
import socket
import subprocess
from contextlib import suppress

import httpx
import pyotp
import pytest

from fedkit.web.shield import HEADERS
from tests.clients.conftest import FEDKIT, NO_PROXY
from tests.clients.console.conftest import PASSWORD, TOKEN


@pytest.fixture
def site(bench):
    return bench().folder


def user(site, *words, stdin=f"{PASSWORD}\n"):
    line = [*FEDKIT, "client", "console-user", str(site.site_yaml), *words, "--json"]
    done = subprocess.run(line, input=stdin, capture_output=True, text=True, env={**os.environ, **NO_PROXY})
    return done.returncode, json.loads(done.stdout or "null"), done.stderr


def kinds(site):
    lines = map(json.loads, site.audit.read_text().splitlines())
    return [(line["kind"], line.get("action"), line.get("user", line.get("by"))) for line in lines]


@pytest.mark.slow
def test_users_are_added_changed_unlocked_and_removed_and_each_is_on_record(site):
    code, told, _ = user(site, "add", "ana")
    assert code == 0 and told["otpauth"].startswith("otpauth://totp/") and told["secret"] in told["otpauth"]
    code, _, err = user(site, "add", "ana")
    assert code == 2 and "FK796" in err
    code, again, _ = user(site, "password", "ana", stdin="another good password")
    assert code == 0 and again["secret"] != told["secret"]
    assert user(site, "unlock", "ana")[1] == {"user": "ana", "was_locked": False}
    assert list(user(site, "list")[1]["users"]) == ["ana"]
    assert user(site, "remove", "ana")[0] == 0 and user(site, "list")[1] == {"users": {}}
    acts = ["added", "password", "unlocked", "removed"]
    assert kinds(site) == [("console_user", act, "ana") for act in acts]
    assert PASSWORD not in site.audit.read_text() and told["secret"] not in site.audit.read_text()


@pytest.mark.parametrize(("words", "stdin", "code"), [
    (("add", "ana"), "short\n", "FK797"), (("add", "ana"), "", "FK797"), (("add", "Ana!"), f"{PASSWORD}\n", "FK797"),
    (("remove", "bo"), "", "FK796"), (("unlock", "bo"), "", "FK796"), (("password", "bo"), f"{PASSWORD}\n", "FK796"),
])  # fmt: skip
def test_what_cannot_be_is_refused_and_not_on_record(site, words, stdin, code):
    status, _, err = user(site, *words, stdin=stdin)
    assert status == 2 and code in err and not site.audit.exists() and not site.console_users.exists()


@pytest.mark.parametrize(("second", "status"), [(PASSWORD, 0), ("another good password", 2)])
def test_at_a_terminal_the_password_is_typed_twice_and_not_shown(site, second, status):
    child, terminal = pty.fork()
    if child == 0:
        os.execv(FEDKIT[0], [*FEDKIT, "client", "console-user", str(site.site_yaml), "add", "ana"])
    shown = b""
    try:
        for typed in (PASSWORD, second):
            while not shown.endswith((b"password: ", b"again: ")):
                shown += os.read(terminal, 1024)
            os.write(terminal, f"{typed}\n".encode())
            shown += b" "
        with suppress(OSError):
            # The end of a terminal whose program is gone is an error.
            while part := os.read(terminal, 1024):
                shown += part
    finally:
        _, left = os.waitpid(child, 0)
        os.close(terminal)
    assert os.waitstatus_to_exitcode(left) == status and b"horse" not in shown
    assert site.console_users.exists() is (status == 0) and (b"otpauth://" in shown) is (status == 0)


def test_a_console_without_a_user_does_not_start(site):
    done = subprocess.run([*FEDKIT, "client", "console", str(site.site_yaml)], capture_output=True, text=True)
    assert done.returncode == 2 and "FK796" in done.stderr and "console-user" in done.stderr


def test_a_port_that_is_taken_is_told(site):
    user(site, "add", "ana")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        line = [*FEDKIT, "client", "console", str(site.site_yaml), "--port", str(taken.getsockname()[1])]
        done = subprocess.run(line, capture_output=True, text=True)
    assert done.returncode == 2 and "FK798" in done.stderr


@pytest.mark.slow
def test_a_real_console_answers_on_loopback_alone_and_ends_when_asked(site, serving):
    secret = user(site, "add", "ana")[1]["secret"]
    url, process = serving(site)
    port = int(url.rstrip("/").rpartition(":")[2])
    assert {each.split()[1] for each in _listening(port)} == {f"0100007F:{port:04X}"}
    with httpx.Client(base_url=url, trust_env=False) as browser:
        token = TOKEN.search(browser.get("/login").text)[1]
        form = {"token": token, "name": "ana", "password": PASSWORD, "code": pyotp.TOTP(secret).now()}
        found = browser.post("/login", data=form)
        assert found.status_code == 303 and "server" not in found.headers
        assert {name: found.headers[name] for name in HEADERS} == HEADERS
        assert "Budgets" in browser.get("/").text
        assert browser.get("/", headers={"host": f"localhost:{port}"}).status_code == 421
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) in (0, -signal.SIGTERM, 143) and "Traceback" not in process.stderr.read()


def _listening(port):
    with open("/proc/net/tcp", encoding="ascii") as one, open("/proc/net/tcp6", encoding="ascii") as other:
        lines = [*one.readlines()[1:], *other.readlines()[1:]]
    return [each for each in lines if each.split()[1].endswith(f":{port:04X}") and each.split()[3] == "0A"]
