from __future__ import annotations

import json
import stat
import subprocess
import sys
from typing import Any

import click
import pytest
import typer
from fedkit_server.cli import app
from fedkit_server.tokens import looks_like_token

from fedkit.cli.main import main
from fedkit.errors import DeploymentError

HEAVY = (
    "torch",
    "flwr",
    "hydra",
    "omegaconf",
    "numpy",
    "rich",
    "httpx",
    "grpc",
    "uvicorn",
    "starlette",
    "cryptography",
)


def _run(words, capsys):
    with pytest.raises(SystemExit) as left:
        main(["server", *map(str, words)])
    printed = capsys.readouterr()
    return left.value.code or 0, printed.out, printed.err


def _commands(command: Any, words: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    inner = getattr(command, "commands", {})
    return [words, *(found for name, child in inner.items() for found in _commands(child, (*words, name)))]


COMMANDS = _commands(typer.main.get_command(app))


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: " ".join(words) or "server")
def test_every_commands_help_has_an_example_of_that_command(words, capsys):
    status, out, _ = _run([*words, "--help"], capsys)
    assert status == 0
    assert f"Example: {' '.join(['fedkit', 'server', *words])}" in " ".join(click.unstyle(out).split())


@pytest.mark.parametrize(
    "words", [words for words in COMMANDS if words not in ((), ("user",), ("log",), ("study",))], ids=" ".join
)
def test_every_command_prints_json(words, capsys):
    assert "--json" in _run([*words, "--help"], capsys)[1]


def test_help_loads_nothing_heavy():
    script = (
        "import sys\nfrom fedkit.cli.main import main\n"
        "try:\n    main(['server', '--help'])\nexcept SystemExit:\n    pass\n"
        f"print('loaded:', *[name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "loaded:"


def _init(tmp_path, capsys, *more):
    words = ["init", tmp_path / "coordinator", "--name", "heart", "--host", "localhost", "--json", *more]
    return _run(words, capsys)


def test_init_makes_a_folder_and_a_profile_that_only_the_owner_reads(tmp_path, capsys):
    status, out, _ = _init(tmp_path, capsys)
    found = json.loads(out)
    assert status == 0 and found["profile"] == str(tmp_path / "heart-admin")
    modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*") if path.is_file()}
    assert modes == {0o600}
    assert {path.name for path in (tmp_path / "heart-admin").iterdir()} == {
        "ca.crt", "profile.json", "signing.key", "token",
    }  # fmt: skip
    token = (tmp_path / "heart-admin" / "token").read_text().strip()
    assert looks_like_token(token)
    assert not any(
        token.encode() in path.read_bytes() for path in (tmp_path / "coordinator").rglob("*") if path.is_file()
    )


def test_init_says_to_move_the_profile_away(tmp_path, capsys):
    _, out, _ = _run(["init", tmp_path / "c", "--name", "heart", "--host", "localhost"], capsys)
    assert "move it off this host" in out
    _, out, _ = _run(
        ["init", tmp_path / "d", "--name", "heart", "--host", "localhost", "--profile", tmp_path / "a" / "b"], capsys
    )
    # The whole path: a copied command finds it.
    assert f"fedkit server invite SITE --profile {tmp_path}/a/b`" in out


def test_a_taken_profile_is_told_with_the_option_that_names_another(tmp_path, capsys):
    (tmp_path / "heart-admin").mkdir()
    (tmp_path / "heart-admin" / "mine").write_text("")
    _, out, _ = _init(tmp_path, capsys)
    assert "--profile FOLDER" in json.loads(out)["error"]["message"]


def _profile(tmp_path, capsys, port=1):
    _init(tmp_path, capsys, "--port", str(port))
    return tmp_path / "heart-admin"


def test_inviting_again_is_told_what_to_do_with_the_file_of_before(tmp_path, capsys):
    (tmp_path / "inv").mkdir()
    (tmp_path / "inv" / "north.token").write_text("fedkit-invite-1.old\n")
    profile = _profile(tmp_path, capsys)
    words = ["invite", "north", "--out", tmp_path / "inv", "--profile", profile, "--json"]
    message = json.loads(_run(words, capsys)[1])["error"]["message"]
    assert "FK704" in message and "delete that file" in message and "--out FOLDER" in message
    assert "is not empty" not in message
    # The remedy is one: with the file gone the next refusal is the network's.
    (tmp_path / "inv" / "north.token").unlink()
    assert json.loads(_run(words, capsys)[1])["error"]["code"] == "FK712"


@pytest.mark.parametrize("content", [None, "junk"])
def test_what_is_no_public_key_is_told_how_one_is_made(tmp_path, capsys, monkeypatch, content):
    monkeypatch.setattr("fedkit_server.remote.Remote.keyring", lambda self: None)
    if content is not None:
        (tmp_path / "ben.pub").write_text(content)
    words = ["user", "add", "ben", "--role", "viewer", "--key", tmp_path / "ben.pub", "--out", tmp_path / "new"]
    status, out, _ = _run([*words, "--profile", _profile(tmp_path, capsys), "--json"], capsys)
    error = json.loads(out)["error"]
    assert status == 2 and error["code"] == "FK703" and "fedkit server user key FILE" in error["message"]


def test_a_profile_without_its_key_says_where_the_key_goes(tmp_path, capsys):
    from fedkit_server.profile import open_profile

    profile = _profile(tmp_path, capsys)
    (profile / "signing.key").unlink()
    with pytest.raises(DeploymentError, match=r"FK703.*no signing key yet.*there as signing\.key"):
        open_profile(profile).key()


@pytest.mark.parametrize("taken", ["coordinator", "heart-admin"])
def test_init_overwrites_nothing_and_leaves_nothing(tmp_path, capsys, taken):
    (tmp_path / taken).mkdir()
    (tmp_path / taken / "mine").write_text("")
    status, out, _ = _init(tmp_path, capsys)
    assert status == 2 and json.loads(out)["error"]["code"] == "FK704"
    assert [path.name for path in tmp_path.rglob("*")] == [taken, "mine"]


@pytest.mark.parametrize(
    "words",
    [["status"], ["sites"], ["invite", "north"], ["revoke", "north"], ["watch", "r"], ["stop", "r"], ["resume", "r"],
     ["pull", "r"], ["run", "heart_disease", "--sites", "north"], ["user", "revoke", "ben"], ["user", "rotate"]],
    ids=" ".join,
)  # fmt: skip
def test_without_a_profile_there_is_one_clear_error(words, capsys, monkeypatch):
    monkeypatch.delenv("FEDKIT_PROFILE", raising=False)
    status, out, err = _run([*words, "--json"], capsys)
    assert status == 2 and json.loads(out)["error"]["code"] == "FK711"
    assert "--profile" in err and "FEDKIT_PROFILE" in err


def test_a_coordinator_that_is_not_there_is_said_with_a_remedy(tmp_path, capsys, monkeypatch):
    _init(tmp_path, capsys, "--port", "1", "--grpc-port", "2")
    monkeypatch.setenv("FEDKIT_PROFILE", str(tmp_path / "heart-admin"))
    monkeypatch.setenv("NO_PROXY", "localhost")
    status, out, err = _run(["status", "--json"], capsys)
    assert status == 2 and json.loads(out)["error"]["code"] == "FK712"
    assert "localhost:1" in err and "fedkit server start" in err


def test_a_profile_that_others_may_read_is_refused(tmp_path, capsys):
    _init(tmp_path, capsys)
    (tmp_path / "heart-admin" / "token").chmod(0o644)
    status, out, _ = _run(["status", "--profile", tmp_path / "heart-admin", "--json"], capsys)
    assert status == 2 and json.loads(out)["error"]["code"] == "FK706"


def test_a_users_key_is_made_once_and_its_public_half_is_no_secret(tmp_path, capsys):
    status, out, _ = _run(["user", "key", tmp_path / "me.key", "--json"], capsys)
    assert status == 0 and json.loads(out)["public"] == str(tmp_path / "me.key.pub")
    assert b"PRIVATE" in (tmp_path / "me.key").read_bytes()
    assert len((tmp_path / "me.key.pub").read_text().strip()) == 44
    assert _run(["user", "key", tmp_path / "me.key"], capsys)[0] == 2


def test_a_private_key_in_place_of_a_public_one_is_not_read_further(tmp_path, capsys):
    _init(tmp_path, capsys)
    _run(["user", "key", tmp_path / "me.key"], capsys)
    words = ["user", "add", "ben", "--role", "viewer", "--key", tmp_path / "me.key"]
    status, _, err = _run([*words, "--out", tmp_path / "ben", "--profile", tmp_path / "heart-admin"], capsys)
    assert status == 2 and "me.key.pub" in err and not (tmp_path / "ben").exists()


def test_rotate_renews_while_stopped_and_halt_finds_nobody(tmp_path, capsys):
    _init(tmp_path, capsys)
    before = (tmp_path / "coordinator" / "tls" / "server.crt").read_bytes()
    status, out, _ = _run(["rotate", tmp_path / "coordinator", "--coordinator-key", "--json"], capsys)
    assert status == 0 and json.loads(out)["coordinator"].startswith("sha256:")
    assert (tmp_path / "coordinator" / "tls" / "server.crt").read_bytes() != before
    status, out, _ = _run(["halt", tmp_path / "coordinator", "--json"], capsys)
    assert (status, json.loads(out)["halted"]) == (0, False)


def test_a_folder_that_is_none_is_refused(tmp_path, capsys):
    for command in ("start", "halt", "rotate"):
        status, out, _ = _run([command, tmp_path, "--json"], capsys)
        assert status == 2 and json.loads(out)["error"]["code"] == "FK705"


def test_a_certificate_that_has_ended_is_not_served(tmp_path, capsys):
    from datetime import UTC, datetime, timedelta

    from fedkit_server import pki
    from fedkit_server.folder import ServerFolder, write_certificate

    _init(tmp_path, capsys)
    folder = ServerFolder(tmp_path / "coordinator")
    ended = pki.make_server(folder.ca_pair(), ["localhost"], now=datetime.now(UTC) - timedelta(days=366))
    write_certificate(folder, ended)
    status, out, err = _run(["start", folder.path, "--json"], capsys)
    assert status == 2 and json.loads(out)["error"]["code"] == "FK710"
    assert "fedkit server rotate" in err
