"""The dashboard over a coordinator that runs: a login, what its profile's role sees, and its end."""

import json
import os
import re
import signal
import socket
import subprocess
import sys

import httpx
import pyotp
import pytest

pytestmark = pytest.mark.deploy
PASSWORD = "correct horse battery"
FEDKIT = (sys.executable, "-m", "fedkit", "server")
ENVIRONMENT = {**os.environ, "NO_PROXY": "localhost,127.0.0.1"}


def fedkit(*words, stdin=""):
    line = [*FEDKIT, *map(str, words)]
    done = subprocess.run(line, input=stdin, capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_dashboard_shows_a_coordinator_that_runs_and_says_when_it_does_not(tmp_path):
    folder, profile = tmp_path / "coordinator", tmp_path / "admin"
    with socket.socket() as one, socket.socket() as two:
        one.bind(("127.0.0.1", 0))
        two.bind(("127.0.0.1", 0))
        ports = ["--port", one.getsockname()[1], "--grpc-port", two.getsockname()[1]]
    fedkit("init", folder, "--name", "heart", "--host", "localhost", "--profile", profile, *ports)
    fedkit("start", folder, "--bind", "127.0.0.1", "--detach")
    try:
        secret = json.loads(
            fedkit("dashboard-user", "add", "ana", "--profile", profile, "--json", stdin=f"{PASSWORD}\n")
        )["secret"]
        line = [*FEDKIT, "dashboard", "--profile", str(profile), "--json"]
        process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT)
        try:
            url = json.loads(process.stdout.readline())["url"]
            with httpx.Client(base_url=url, trust_env=False, timeout=60) as browser:
                token = re.search(r'name="token" value="([^"]+)"', browser.get("/login").text)[1]
                form = {"token": token, "name": "ana", "password": PASSWORD, "code": pyotp.TOTP(secret).now()}
                assert browser.post("/login", data=form).status_code == 303
                page = browser.get("/")
                assert page.status_code == 200 and ", admin" in page.text and "0 of 0" in page.text
                assert browser.get("/sites").status_code == browser.get("/runs").status_code == 200
                fedkit("halt", folder)
                page = browser.get("/")
                assert page.status_code == 409 and "FK712" in page.text
            process.send_signal(signal.SIGTERM)
            process.wait(20)
            said = process.stderr.read()
            assert "login: ana" in said and "Traceback" not in said and secret not in said
        finally:
            process.kill()
            process.wait(20)
            process.stdout.close()
            process.stderr.close()
    finally:
        subprocess.run([*FEDKIT, "halt", str(folder)], capture_output=True)
