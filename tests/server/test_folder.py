from __future__ import annotations

import json
import stat

import pytest
from fedkit_server import pki
from fedkit_server.folder import ServerFolder, open_folder

from fedkit.errors import DeploymentError, FederationError
from fedkit.storage.keys import fingerprint, new_signing_key
from tests.server.builders import make_server_folder


@pytest.fixture
def folder(tmp_path):
    return make_server_folder(tmp_path / "coordinator", new_signing_key())


def test_nobody_else_may_read_anything_in_a_new_folder(folder):
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in [folder.path, *folder.path.rglob("*")]}
    assert {mode for path, mode in modes.items() if path.is_dir()} == {0o700}
    assert {mode for path, mode in modes.items() if path.is_file()} == {0o600}


def test_the_federation_id_is_the_fingerprint_of_the_authority(folder):
    assert folder.settings().federation == pki.certificate_fingerprint(folder.read(folder.ca))


def test_the_keyring_begins_with_the_admin_and_introduces_the_coordinators_key(folder):
    keyring = folder.keyring()
    assert [json.loads(json.loads(text)["payload"])["action"] for text in keyring.statements] == ["root", "coordinator"]
    assert keyring.named("anna").role == "admin"
    assert fingerprint(keyring.coordinator) == folder.key().fingerprint


def test_the_admins_private_key_is_nowhere_in_the_folder(tmp_path):
    from fedkit.storage.keys import create_signing_key

    root = create_signing_key(tmp_path / "signing.key")
    secret = (tmp_path / "signing.key").read_bytes().splitlines()[1]
    folder = make_server_folder(tmp_path / "coordinator", root)
    assert not any(secret in path.read_bytes() for path in folder.path.rglob("*") if path.is_file())


def test_a_folder_that_holds_something_is_not_overwritten(folder):
    before = {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}
    with pytest.raises(DeploymentError, match="FK704"):
        make_server_folder(folder.path, new_signing_key())
    assert {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("part", [".", "ca/ca.key", "keys/coordinator.key", "tls/server.key", "keyring.jsonl"])
def test_what_others_may_reach_is_refused_with_the_command_that_mends_it(folder, part):
    path = folder.path / part
    path.chmod(0o755 if path.is_dir() else 0o644)
    with pytest.raises(DeploymentError, match="FK706") as refused:
        open_folder(folder.path)
    assert f"chmod {'700' if path.is_dir() else '600'} {folder.path / part}" in str(refused.value)


def test_another_folder_is_refused(tmp_path):
    with pytest.raises(DeploymentError, match="FK705"):
        open_folder(tmp_path)


def test_an_altered_keyring_is_refused(folder):
    text = folder.keyring_file.read_text()
    folder.keyring_file.write_text(text.replace("anna", "eve0"))
    with pytest.raises(FederationError, match="FK541"):
        ServerFolder(folder.path).keyring()


def test_the_key_of_another_coordinator_is_refused(folder, tmp_path):
    other = make_server_folder(tmp_path / "other", new_signing_key())
    folder.coordinator_key.write_bytes(other.coordinator_key.read_bytes())
    with pytest.raises(FederationError, match="FK541"):
        folder.keyring()


@pytest.mark.parametrize(
    "wrong",
    [
        {"name": "a b"}, {"admin": "coordinator"}, {"hosts": ["https://x"]}, {"port": 0}, {"grpc_port": 70000},
        {"port": 9443, "grpc_port": 9443},
    ],
)  # fmt: skip
def test_a_choice_that_cannot_be_is_refused_before_a_folder_is_made(tmp_path, wrong):
    with pytest.raises(DeploymentError, match="FK707"):
        make_server_folder(tmp_path / "coordinator", new_signing_key(), **wrong)
    assert list(tmp_path.iterdir()) == []
