"""The console's second factors are under the folder's key, and without it nobody logs in."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pyotp
import pytest
from fedkit_client import console_factors, settling, vaults
from fedkit_client.console.app import desk_of, opened_app
from fedkit_client.console_factors import users_of
from fedkit_client.encryption_check import encryption_check
from fedkit_client.settling import seal_factors, settle
from fedkit_client.start import open_site

from fedkit.errors import DeploymentError
from fedkit.web import users as users_file
from fedkit.web.users import Users
from tests.clients.conftest import FEDKIT, NO_PROXY
from tests.clients.test_encryption import name_keys, write_key
from tests.web.hashes import cheap_hashes

__all__ = ["cheap_hashes"]
PASSWORD = "correct horse battery"
pytestmark = pytest.mark.usefixtures("cheap_hashes")


@pytest.fixture
def hospital(bench, tmp_path):
    """A site whose folder is encrypted by a key that lies elsewhere."""
    made = bench()
    name_keys(made, key_file=str(write_key(tmp_path / "north.key")))
    settle(opened(made).folder)
    return made


def opened(made):
    return open_site(made.folder.site_yaml)


def add(made, name="ana"):
    return users_of(opened(made).folder).add(name, PASSWORD, time.time())


def comes_in(made, secret, name="ana"):
    """Whether the console of a new process lets somebody in."""
    now = float(int(time.time()) // 30 * 30 + 30 * next(STEPS))
    door = desk_of(opened(made).folder, "north", "127.0.0.1:1", lambda: now).door
    return door.login(name, PASSWORD, pyotp.TOTP(secret).at(int(now))) is not None


STEPS = iter(range(10**6))


def on_disk(made):
    return b"".join(path.read_bytes() for path in made.folder.path.rglob("*") if path.is_file())


def in_clear(made, secret, name="ana"):
    """What a version before has left there."""
    path = made.folder.console_users
    values = json.loads(path.read_text())
    values["users"][name]["secret"] = secret
    path.write_text(json.dumps(values))


def command(made, *words, stdin=""):
    line = [*FEDKIT, "client", *words[:1], str(made.folder.site_yaml), *words[1:]]
    done = subprocess.run(line, input=stdin, capture_output=True, text=True, env={**os.environ, **NO_PROXY})
    return done.returncode, done.stdout, done.stderr


def test_a_secret_lies_nowhere_in_the_folder_and_its_codes_let_in(hospital):
    secret = add(hospital)
    assert secret.encode() not in on_disk(hospital)
    assert comes_in(hospital, secret) and not comes_in(hospital, pyotp.random_base32())
    assert comes_in(hospital, secret), "a login changes the file, which opens afterwards too"


def test_a_copy_of_the_folder_without_the_key_starts_no_console_and_makes_no_code(hospital, tmp_path):
    secret = add(hospital)
    thief = tmp_path / "elsewhere"
    shutil.copytree(hospital.folder.path, thief / "site")
    (tmp_path / "north.key").rename(tmp_path / "moved.key")
    with pytest.raises(DeploymentError) as caught:
        opened_app(hospital.folder.site_yaml)
    assert caught.value.code == "FK790" and str(tmp_path / "north.key") in str(caught.value)
    for name in (thief / "site").rglob("*"):
        assert name.is_dir() or secret.encode() not in name.read_bytes()
    # Nor does a login of a console that runs already: for every name alike.
    said = []
    for name in ("ana", "nobody"):
        with pytest.raises(DeploymentError) as caught:
            comes_in(hospital, secret, name)
        said.append(str(caught.value))
    assert said[0] == said[1] and "FK790" in said[0]


def test_the_command_without_the_key_says_so_and_changes_nothing(hospital, tmp_path):
    add(hospital)
    before = hospital.folder.console_users.read_bytes()
    (tmp_path / "north.key").rename(tmp_path / "moved.key")
    for words in (("add", "bo"), ("password", "ana")):
        status, _, said = command(hospital, "console-user", *words, stdin=f"{PASSWORD}\n")
        assert status == 2 and "FK790" in said and "Traceback" not in said
    assert hospital.folder.console_users.read_bytes() == before
    # Who is to be kept out is kept out without it.
    assert command(hospital, "console-user", "remove", "ana")[0] == 0


def test_without_encryption_the_command_and_doctor_say_that_it_lies_in_the_clear(bench, tmp_path):
    made = bench()
    name_keys(made, allow_plaintext=True)
    status, said, _ = command(made, "console-user", "add", "ana", stdin=f"{PASSWORD}\n")
    assert status == 0 and "in the clear in console_users.json" in said
    secret = json.loads(made.folder.console_users.read_text())["users"]["ana"]["secret"]
    assert secret in said and comes_in(made, secret)
    check = encryption_check(opened(made))
    assert check.state == "warn" and "second factors" in check.found
    told = json.loads(command(made, "console-user", "password", "ana", "--json", stdin=f"{PASSWORD}\n")[1])
    assert told["encrypted"] is False


def test_where_it_is_encrypted_nothing_is_said_of_the_clear(hospital):
    status, said, _ = command(hospital, "console-user", "add", "ana", stdin=f"{PASSWORD}\n")
    assert status == 0 and "in the clear" not in said
    told = json.loads(command(hospital, "console-user", "password", "ana", "--json", stdin=f"{PASSWORD}\n")[1])
    assert told["encrypted"] is True and told["secret"].encode() not in on_disk(hospital)


def test_turning_encryption_on_takes_what_was_in_the_clear_along(bench, tmp_path):
    made = bench()
    secret = Users(made.folder.console_users).add("ana", PASSWORD, time.time())
    left = made.folder.path / ".console_users.json.abc"
    left.write_text(secret)
    assert secret.encode() in on_disk(made)
    name_keys(made, key_file=str(write_key(tmp_path / "north.key")))
    settle(opened(made).folder)
    assert secret.encode() not in on_disk(made) and comes_in(made, secret)


def test_one_in_the_clear_in_an_encrypted_folder_lets_nobody_in_until_a_person_says_whose_it_is(hospital):
    secret = add(hospital)
    in_clear(hospital, secret)
    for name in ("ana", "nobody"):
        with pytest.raises(DeploymentError, match=r"FK795.*in the clear"):
            comes_in(hospital, secret, name)
    check = encryption_check(opened(hospital))
    assert check.state == "fail" and "FK795" in check.found
    # A start takes nothing for the folder's own.
    settle(opened(hospital).folder)
    assert secret.encode() in on_disk(hospital)
    status, said, _ = command(hospital, "encrypt")
    assert status == 0 and "second factors of the console lay in the clear and are encrypted: ana" in said
    assert secret.encode() not in on_disk(hospital) and comes_in(hospital, secret)
    assert seal_factors(opened(hospital).folder) == []


@pytest.mark.parametrize("what", ["another user's", "another password", "a bit", "another vault"])
def test_what_was_put_in_its_place_lets_nobody_in(hospital, bench, tmp_path, what):
    secret = add(hospital)
    add(hospital, "bo")
    path = hospital.folder.console_users
    values = json.loads(path.read_text())
    ana, bo = values["users"]["ana"], values["users"]["bo"]
    if what == "another user's":
        ana["secret"] = bo["secret"]
    elif what == "another password":
        # Whoever writes the file and has no key would log in by a hash of his own.
        ana["password"] = bo["password"]
    elif what == "a bit":
        ana["secret"] = ana["secret"][:40] + ("A" if ana["secret"][40] != "A" else "B") + ana["secret"][41:]
    else:
        hospital.folder.vault_file.unlink()
        path.unlink()
        settle(opened(hospital).folder)
    path.write_text(json.dumps(values))
    path.chmod(0o600)
    for name in ("ana", "bo", "nobody"):
        with pytest.raises(DeploymentError, match="FK795"):
            comes_in(hospital, secret, name)


def test_rotation_renews_them_and_the_key_before_opens_none(hospital, tmp_path):
    secret = add(hospital)
    before = hospital.folder.console_users.read_bytes()
    old, new = tmp_path / "north.key", write_key(tmp_path / "new.key")
    name_keys(hospital, key_file=str(new), previous={"key_file": str(old)})
    settle(opened(hospital).folder, renew=True)
    name_keys(hospital, key_file=str(new))
    assert comes_in(hospital, secret)
    # The file of the key before, put back alone, lets nobody in.
    hospital.folder.console_users.write_bytes(before)
    with pytest.raises(DeploymentError, match="FK795"):
        comes_in(hospital, secret)


def test_one_in_the_clear_holds_up_no_rotation_and_no_start_after_it(hospital, tmp_path):
    """What a version before has left, or somebody has written there: no key that is to go has sealed it."""
    secret, other = add(hospital), add(hospital, "bo")
    in_clear(hospital, secret)
    old, new = tmp_path / "north.key", write_key(tmp_path / "new.key")
    name_keys(hospital, key_file=str(new), previous={"key_file": str(old)})
    settle(opened(hospital).folder, renew=True)
    name_keys(hospital, key_file=str(new))
    settle(opened(hospital).folder)
    with pytest.raises(DeploymentError, match=r"FK795.*in the clear"):
        comes_in(hospital, other, "bo")
    status, said, _ = command(hospital, "encrypt")
    assert status == 0 and "encrypted: ana" in said
    assert comes_in(hospital, secret) and comes_in(hospital, other, "bo")


def test_a_backup_that_is_put_back_lets_in_whom_it_let_in(hospital, tmp_path):
    secret = add(hospital)
    backup = tmp_path / "backup"
    shutil.copytree(hospital.folder.path, backup)
    users_of(opened(hospital).folder).remove("ana")
    shutil.rmtree(hospital.folder.path)
    shutil.copytree(backup, hospital.folder.path)
    assert comes_in(hospital, secret)


def test_a_vault_that_is_lost_is_not_made_anew_beside_a_sealed_secret(bench, tmp_path):
    made = bench()
    name_keys(made, key_file=str(write_key(tmp_path / "north.key")))
    settle(opened(made).folder)
    add(made)
    made.folder.vault_file.unlink()
    with pytest.raises(DeploymentError, match=r"FK791.*console_users\.json"):
        settle(opened(made).folder)


def test_a_kill_at_any_line_of_the_migration_leaves_the_secret_and_the_next_try_ends_it(bench, tmp_path):
    made = bench()
    secret = Users(made.folder.console_users).add("ana", PASSWORD, time.time())
    key = write_key(tmp_path / "north.key")
    template = tmp_path / "template"
    shutil.copytree(made.folder.path, template)
    watched = {settling.__file__, vaults.__file__, console_factors.__file__, users_file.__file__}
    for kill_at in range(1, 2000, 9):
        shutil.rmtree(made.folder.path)
        shutil.copytree(template, made.folder.path)
        name_keys(made, key_file=str(key))
        child = os.fork()
        if not child:
            _settle_until(kill_at, watched, made)
        _, status = os.waitpid(child, 0)
        settle(opened(made).folder)
        assert secret.encode() not in on_disk(made), kill_at
        users = users_of(opened(made).folder)
        assert users.factors(users.read()) == {"ana": secret}, kill_at
        if not os.WIFSIGNALED(status):
            break
    assert kill_at > 50 and not os.WIFSIGNALED(status)


def _settle_until(kill_at, watched, made):
    count = 0

    def trace(frame, event, _):
        nonlocal count
        if frame.f_code.co_filename not in watched:
            return None
        count += event == "line"
        if count >= kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)
    try:
        settle(opened(made).folder)
    finally:
        os._exit(0)
