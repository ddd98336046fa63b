import os
import stat

import pytest
from flwr.supercore.primitives.asymmetric import bytes_to_private_key, public_key_to_bytes
from hypothesis import given
from hypothesis import strategies as st

from fedkit.errors import DeploymentError
from fedkit.storage.keys import (
    create_node_key,
    create_signing_key,
    fingerprint,
    is_fingerprint,
    load_node_key,
    load_signing_key,
    new_signing_key,
    verifies,
)

KEY = new_signing_key()


@pytest.mark.parametrize("create", [create_signing_key, create_node_key])
def test_a_key_file_is_for_its_owner_alone_whatever_the_umask(create, tmp_path):
    before = os.umask(0)
    try:
        create(tmp_path / "a.key")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.key").stat().st_mode) == 0o600


@pytest.mark.parametrize("create", [create_signing_key, create_node_key])
def test_a_key_is_never_overwritten(create, tmp_path):
    path = tmp_path / "a.key"
    create(path)
    content = path.read_bytes()
    with pytest.raises(DeploymentError, match="exists") as caught:
        create(path)
    assert caught.value.code == "FK701"
    assert path.read_bytes() == content
    (tmp_path / "link.key").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DeploymentError):
        create(tmp_path / "link.key")
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o700 | 0o010])
@pytest.mark.parametrize(("create", "load"), [(create_signing_key, load_signing_key), (create_node_key, load_node_key)])
def test_a_key_that_others_may_touch_is_refused(create, load, mode, tmp_path):
    path = tmp_path / "a.key"
    create(path)
    path.chmod(mode)
    with pytest.raises(DeploymentError, match="chmod 600") as caught:
        load(path)
    assert caught.value.code == "FK702"


def test_a_key_is_read_as_it_was_made(tmp_path):
    made = create_signing_key(tmp_path / "a.key")
    read = load_signing_key(tmp_path / "a.key")
    assert read == made and read.fingerprint == fingerprint(made.public)
    assert verifies(made.public, read.sign(b"m"), b"m")


def test_flower_reads_the_node_key_and_names_it_by_the_same_bytes(tmp_path):
    made = create_node_key(tmp_path / "node.key")
    assert load_node_key(tmp_path / "node.key") == made
    assert public_key_to_bytes(bytes_to_private_key(made.private_pem).public_key()) == made.public_pem


def test_no_private_key_is_shown(tmp_path):
    assert "PRIVATE" not in repr(create_node_key(tmp_path / "a"))
    assert "_private" not in repr(create_signing_key(tmp_path / "b"))


@pytest.mark.parametrize("load", [load_signing_key, load_node_key])
def test_what_is_no_such_key_is_refused(load, tmp_path):
    create_signing_key(tmp_path / "signing.key")
    create_node_key(tmp_path / "node.key")
    (tmp_path / "text.key").write_text("hello")
    (tmp_path / "folder").mkdir()
    (tmp_path / "text.key").chmod(0o600)
    other = "node.key" if load is load_signing_key else "signing.key"
    for name in (other, "text.key", "absent.key", "folder"):
        with pytest.raises(DeploymentError, match="the key file") as caught:
            load(tmp_path / name)
        assert caught.value.code == "FK703"


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_a_signature_is_of_one_message_by_one_key(message, other):
    signature = KEY.sign(message)
    assert verifies(KEY.public, signature, message)
    assert verifies(KEY.public, signature, other) == (message == other)
    assert not verifies(new_signing_key().public, signature, message)


@given(st.binary(max_size=100), st.binary(max_size=100))
def test_what_is_no_key_or_signature_verifies_nothing(public, signature):
    assert not verifies(public, signature, b"m")


def test_a_fingerprint_is_told_from_other_texts():
    assert is_fingerprint(KEY.fingerprint)
    for text in ("", KEY.fingerprint.upper(), KEY.fingerprint[:-1], KEY.fingerprint + "\n", None, 3):
        assert not is_fingerprint(text)
