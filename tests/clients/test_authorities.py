"""Sites and users follow a CA that was replaced without joining anew: those that ran, and those that were away."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time

import pytest
from fedkit_client.authorities import chain_of, follow, trust_by_hand
from fedkit_client.folder import SiteFolder
from fedkit_client.join import join
from fedkit_client.trust import check_connection
from fedkit_server.pki import make_ca

from fedkit.errors import DeploymentError, FederationError
from fedkit.federation.authority import add_authority
from fedkit.federation.authority_file import as_told
from fedkit.storage.audit_verify import readable_lines
from fedkit.storage.keys import new_signing_key
from tests.clients.conftest import FEDKIT, NO_PROXY
from tests.clients.coordinator import SITE, free_port, model

AHEAD = 30 * 86_400


def replaced(coordinator, key=None):
    """A CA that the coordinator tells of."""
    second = make_ca("test", number=2)
    chain = add_authority((), coordinator.federation, second.certificate.decode(), int(time.time() + AHEAD),
                          key or coordinator.key, time.time())  # fmt: skip
    coordinator.authorities = json.dumps(
        as_told(chain, (key or coordinator.key).public), separators=(",", ":")
    ).encode()
    return second


@pytest.mark.deploy
def test_a_running_site_follows_and_answers_under_the_new_ca(running):
    coordinator, site = running()
    second = replaced(coordinator)
    coordinator.down()
    coordinator.up()
    end = time.monotonic() + 60
    while not (site.folder.path / "authorities.jsonl").exists():
        assert time.monotonic() < end, site.log()
        time.sleep(0.1)
    coordinator.down()
    coordinator.certify(second)
    coordinator.up()
    job = coordinator.job("run-1")
    answer = coordinator.ask(coordinator.request(job, "train", 1, model(5)))
    assert not answer.has_error(), answer.error
    (line,) = [line for line in readable_lines(site.folder.audit, ("authority",)) if line.kind == "authority"]
    assert line.fields["serial"] == 1
    assert site.stop() == 0
    # And again from a start, whose announcement goes over gRPC.
    site.start().event("connected")
    assert len(coordinator.offers) == 2


def fedkit(base, *words, status=0):
    environment = {**os.environ, **NO_PROXY, "NO_PROXY": "localhost,127.0.0.1"}
    done = subprocess.run(
        [*FEDKIT, *map(str, words), "--json"], cwd=base, capture_output=True, text=True, env=environment
    )
    assert done.returncode == status, (words, done.stdout, done.stderr)
    found = json.loads(done.stdout)
    return {"error": found["error"]["message"]} if status else found


@pytest.mark.deploy
def test_a_deployed_federations_ca_is_replaced_and_whoever_was_away_comes_back(tmp_path):
    port = free_port()
    fedkit(tmp_path, "server", "init", "c", "--name", "heart", "--host", "localhost", "--port", port, "--grpc-port",
           free_port(), "--profile", "admin")  # fmt: skip
    admin, start = ("--profile", "admin"), ("server", "start", "c", "--bind", "127.0.0.1", "--detach")

    def joined(site):
        fedkit(tmp_path, "server", "invite", site, "--out", "invitations", *admin)
        (file,) = (tmp_path / "invitations").glob(f"{site}*")
        return join(f"localhost:{port}", file.read_text(), tmp_path / site).folder

    def reaches(folder):
        check_connection("localhost", port, folder.authority())

    fedkit(tmp_path, *start)
    try:
        north, south, west = joined("north"), joined("south"), joined("west")
        shutil.copytree(tmp_path / "admin", tmp_path / "away")
        fedkit(tmp_path, "server", "halt", "c")
        made = fedkit(tmp_path, "server", "rotate", "c", "--authority", 30)
        assert made["authority"] == 1
        assert "FK723" in fedkit(tmp_path, "server", "rotate", "c", "--authority", 30, status=2)["error"]
        fedkit(tmp_path, *start)
        # The days in which both count: nobody notices, and whoever connects follows.
        for folder in (north, south, west):
            reaches(folder)
        assert follow(north).count(b"BEGIN CERTIFICATE") == 2
        assert fedkit(tmp_path, "server", "trust", *admin)["trusted"] == 1
        fedkit(tmp_path, "server", "halt", "c")
        fedkit(tmp_path, "server", "rotate", "c")
        assert not (tmp_path / "c" / "ca" / "ca.key").exists()
        # A coordinator's next key signs the statement anew, for who has not heard.
        fedkit(tmp_path, "server", "rotate", "c", "--coordinator-key")
        fedkit(tmp_path, *start)
        reaches(north)
        assert fedkit(tmp_path, "server", "status", *admin)["name"] == "heart"
        for folder in (south, west):
            with pytest.raises(DeploymentError, match=r"FK743.*`fedkit client trust"):
                reaches(folder)
        assert "trust --file" in fedkit(tmp_path, "server", "status", "--profile", "away", status=2)["error"]
        # South knows the key of before: what answers at that address cannot convince it, the operator's file can.
        with pytest.raises(FederationError, match="FK541"):
            trust_by_hand(south, None)
        fedkit(tmp_path, "server", "authority", "c", "--out", "heart.authorities")
        fedkit(tmp_path, "client", "trust", "south/site.yaml", "--file", "heart.authorities")
        reaches(south)
        fedkit(tmp_path, "server", "trust", "--profile", "away", "--file", "heart.authorities")
        assert fedkit(tmp_path, "server", "status", "--profile", "away")["name"] == "heart"
        # Who joins now pins the same federation.
        east = joined("east")
        reaches(east)
        assert east.enrolment().federation == north.enrolment().federation and len(chain_of(east)) == 1
        fedkit(tmp_path, "server", "backup", "c", "monday")
    finally:
        fedkit(tmp_path, "server", "halt", "c")
    fedkit(tmp_path, "server", "restore", "monday", "again")
    assert "FK707" in fedkit(tmp_path, "server", "rotate", "again", "--authority", 0, status=2)["error"]


def test_a_ca_that_another_key_names_is_followed_by_nobody(bench):
    made = bench()
    folder, coordinator = made.folder, made.coordinator.up()
    try:
        replaced(coordinator, key=new_signing_key())
        before = folder.authority()
        assert follow(folder) == before and chain_of(folder) == ()
        with pytest.raises(FederationError, match="FK541"):
            trust_by_hand(folder, None)
        coordinator.authorities = b"junk"
        assert follow(folder) == before
        with pytest.raises(FederationError, match="FK540"):
            trust_by_hand(folder, None)
        coordinator.authorities = b""
        with pytest.raises(DeploymentError, match=r"FK742.*--file"):
            trust_by_hand(folder, None)
        replaced(coordinator)
        assert trust_by_hand(folder, None) == 1 and trust_by_hand(folder, None) == 0
        assert SiteFolder(folder.path).authority().count(b"BEGIN CERTIFICATE") == 2
        kept = folder.path / "authorities.jsonl"
        kept.write_text(kept.read_text().replace('"until', '"Until'))
        with pytest.raises(FederationError, match="FK54"):
            folder.authority()
    finally:
        coordinator.down()
    assert folder.enrolment().site == SITE


def test_who_has_the_first_cas_key_and_keeps_silent_about_the_next_gets_no_secret_of_a_new_invitation(tmp_path, bench):
    """The replaced CA's key was stolen: whoever has it stands between, with a certificate that the first CA issued."""
    coordinator = bench().coordinator.up()
    try:
        for told in (b"", b"junk", json.dumps(as_told((), coordinator.key.public), separators=(",", ":")).encode()):
            coordinator.authorities = told
            line = coordinator.invite("east", authorities=1)
            with pytest.raises(DeploymentError, match=r"FK742.*0 CAs.*knows of 1"):
                join(f"localhost:{coordinator.port}", line, tmp_path / "east")
            assert "east" in coordinator.secrets and not (tmp_path / "east").exists()
        replaced(coordinator)
        folder = join(f"localhost:{coordinator.port}", line, tmp_path / "east").folder
        assert len(chain_of(folder)) == 1
    finally:
        coordinator.down()
