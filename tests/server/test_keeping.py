"""A coordinator's folder is put back, and each of its keys exchanged, by the commands that the pages name."""

import json
import os
import shutil
import socket
import subprocess
import sys
from contextlib import closing

import pytest

FEDKIT = (sys.executable, "-m", "fedkit", "server")
ENVIRONMENT = {**os.environ, "NO_PROXY": "localhost,127.0.0.1"}


def fedkit(*words, status=0):
    line = [*FEDKIT, *map(str, words), "--json"]
    done = subprocess.run(line, capture_output=True, text=True, env=ENVIRONMENT)
    assert done.returncode == status, (line, done.stdout, done.stderr)
    return json.loads(done.stdout) if done.stdout.strip() else {"error": done.stderr}


def free_port():
    with closing(socket.create_server(("127.0.0.1", 0))) as made:
        return made.getsockname()[1]


@pytest.fixture
def place(tmp_path):
    ports = ("--port", free_port(), "--grpc-port", free_port())
    fedkit("init", tmp_path / "c", "--name", "heart", "--host", "localhost", "--profile", tmp_path / "admin", *ports)
    yield tmp_path
    for name in ("c", "restored"):
        subprocess.run([*FEDKIT, "halt", str(tmp_path / name)], capture_output=True, env=ENVIRONMENT)


@pytest.mark.deploy
def test_a_folder_that_was_put_back_serves_the_same_federation_and_new_keys_and_tokens_are_followed(place):
    admin, first, again = ("--profile", place / "admin"), place / "c", place / "restored"
    start = ("--bind", "127.0.0.1", "--detach")
    fedkit("start", first, *start)
    before = fedkit("status", *admin)
    fedkit("invite", "north", "--out", place / "north.token", *admin)
    fedkit("backup", first, place / "monday")
    fedkit("halt", first)
    first.rename(place / "lost")
    fedkit("restore", place / "monday", again)
    # Both of the coordinator's secrets, on the new machine.
    rotated = fedkit("rotate", again, "--coordinator-key")
    assert rotated["voided_invitations"] == 1
    fedkit("start", again, *start)
    after = fedkit("status", *admin)
    assert after["federation"] == before["federation"] and after["name"] == "heart"
    # The admin's token, then the admin's key: each is in force at once, and the one before is void.
    old = (place / "admin" / "token").read_text()
    fedkit("user", "token", "admin", "--out", place / "new.token", *admin)
    shutil.copy(place / "new.token", place / "admin" / "token")
    assert (place / "admin" / "token").read_text() != old and fedkit("status", *admin)["you"]["role"] == "admin"
    shutil.copytree(place / "admin", place / "stolen")
    (place / "stolen" / "token").write_text(old)
    assert "FK720" in str(fedkit("status", "--profile", place / "stolen", status=2))
    key = (place / "admin" / "signing.key").read_bytes()
    fedkit("user", "rotate", *admin)
    assert (place / "admin" / "signing.key").read_bytes() != key
    fedkit("invite", "south", "--out", place / "south.token", *admin)
