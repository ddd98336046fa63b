"""A key is 32 random bytes that only its owner reads, from one place, or one clear error."""

import base64
import hashlib
import json
import os
import stat
import sys
import time

import pytest
from fedkit_client import key_source
from fedkit_client.key_source import make_key_file, read_key

from fedkit.errors import ConfigError, DeploymentError
from fedkit.governance.encryption import KeySource
from fedkit.governance.site_file import read_site_file
from tests.clients.coordinator import site_yaml, write_declaration

KEY = hashlib.sha256(b"a key that two processes which collect these tests agree on").digest()
BASE64, HEX = base64.b64encode(KEY), KEY.hex().encode()


def refused(source, *words):
    with pytest.raises(DeploymentError) as caught:
        read_key(source)
    text = str(caught.value)
    assert caught.value.code == "FK790" and caught.value.remedy
    assert all(word in text for word in words), text
    assert BASE64.decode() not in text and HEX.decode() not in text
    return text


def write(path, content, mode=0o600):
    path.write_bytes(content)
    path.chmod(mode)
    return KeySource(file=path)


@pytest.mark.parametrize(
    "content",
    [
        BASE64,
        BASE64 + b"\n",
        HEX,
        HEX.upper() + b"\r\n",
        b"  " + HEX,
        BASE64 + b"\r\n",
        *(b"\xef\xbb\xbf" + each + b"\r\n" for each in (BASE64, HEX)),
    ],
)
def test_base64_and_hex_are_the_same_key(tmp_path, content):
    assert read_key(write(tmp_path / "key", content)) == KEY


@pytest.mark.parametrize(
    "content",
    [b"", b"\n", KEY, BASE64[:-4], BASE64 + b"AAAA", HEX[:-2], b"password", b"*" * 44, BASE64 + b" " + BASE64],
)
def test_what_is_no_key_is_refused_and_not_told(tmp_path, content):
    refused(write(tmp_path / "key", content), "32 random bytes as base64 (44 characters) or hex (64)")


@pytest.mark.parametrize("key", [bytes(32), b"a" * 32, b"abcdefg" * 4 + b"abcd"])
def test_bytes_that_nobody_drew_at_random_are_no_key(tmp_path, key):
    refused(write(tmp_path / "key", key.hex().encode()), "drawn at random")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o602])
def test_a_file_that_others_reach_is_refused(tmp_path, mode):
    refused(write(tmp_path / "key", BASE64, mode), f"{mode:04o}", "chmod 600")


def test_a_file_that_is_away_or_none_is_refused_at_once(tmp_path):
    refused(KeySource(file=tmp_path / "key"), "No such file")
    refused(KeySource(file=tmp_path), "no regular file")
    os.mkfifo(tmp_path / "pipe", 0o600)
    refused(KeySource(file=tmp_path / "pipe"), "no regular file")


def test_a_made_key_is_one_and_is_never_overwritten(tmp_path):
    path = tmp_path / "key"
    make_key_file(path)
    key = read_key(KeySource(file=path))
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(DeploymentError):
        make_key_file(path)
    assert read_key(KeySource(file=path)) == key


def test_a_variable_is_read(monkeypatch):
    refused(KeySource(variable="FEDKIT_TEST_KEY"), "FEDKIT_TEST_KEY", "not set")
    monkeypatch.setenv("FEDKIT_TEST_KEY", BASE64.decode())
    assert read_key(KeySource(variable="FEDKIT_TEST_KEY")) == KEY


def test_a_command_s_output_is_the_key_and_no_shell_reads_it(tmp_path):
    word = "$(touch PLANTED); `id`"
    program = f"import sys; assert sys.argv[1] == {word!r}; print({BASE64.decode()!r})"
    assert read_key(KeySource(command=(sys.executable, "-c", program, word))) == KEY
    refused(KeySource(command=("/nonexistent/vault",)), "cannot be run")
    text = refused(KeySource(command=(sys.executable, "-c", f"print({BASE64.decode()!r}); exit(3)")), "status 3")
    assert "print" not in text


@pytest.mark.slow
def test_a_command_that_hangs_is_ended_with_all_that_it_began(tmp_path, monkeypatch):
    monkeypatch.setattr(key_source, "COMMAND_SECONDS", 1.0)
    mark = tmp_path / "alive"
    program = f"import os, time; os.fork(); time.sleep(3); open({str(mark)!r}, 'w')"
    began = time.monotonic()
    refused(KeySource(command=(sys.executable, "-c", program)), "within 1 s")
    assert time.monotonic() - began < 2.5
    time.sleep(3.5)
    assert not mark.exists()


@pytest.fixture(scope="module", autouse=True)
def _declared(tmp_path_factory):
    write_declaration(tmp_path_factory.mktemp("declared"))


@pytest.mark.parametrize(
    ("encryption", "words"),
    [
        ({}, ["encryption names no key; exactly one of key_file, key_env, key_command"]),
        ({"key_file": "/a", "key_env": "B"}, ["encryption has key_file, key_env; exactly one"]),
        ({"key_file": "north.key"}, ["encryption.key_file is 'north.key'; an absolute path"]),
        ({"key_env": "A B"}, ["encryption.key_env is 'A B'; the name of an environment variable"]),
        ({"key_command": "vault kv get"}, ["encryption.key_command", "a list is needed, which no shell reads"]),
        ({"key_command": ["vault", "kv"]}, ["encryption.key_command begins with 'vault'; a program's absolute path"]),
        ({"key_fil": "/a"}, ["encryption.key_fil is unknown"]),
        ({"allow_plaintext": True, "key_file": "/a"}, ["allow_plaintext: true and a key"]),
        ({"key_file": "/a", "previous": {"key_file": "/a"}}, ["encryption.previous is the key itself"]),
        ({"key_file": "/a", "previous": {}}, ["encryption.previous names no key"]),
        ({"key_file": "FOLDER/site.key"}, ["encryption.key_file", "lies in the site's folder"]),
    ],
)
def test_a_site_s_file_says_what_is_wrong_with_its_key(tmp_path, encryption, words):
    text = json.dumps(encryption).replace("FOLDER", str(tmp_path))
    values = json.loads(site_yaml(tmp_path)) | {"encryption": json.loads(text)}
    (tmp_path / "site.yaml").write_text(json.dumps(values))
    with pytest.raises(ConfigError) as caught:
        read_site_file(tmp_path / "site.yaml")
    assert caught.value.code == "FK120" and all(word in str(caught.value) for word in words), caught.value
