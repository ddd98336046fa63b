"""A site whose table cannot be read does not connect, and says why as the doctor does; with a database away it does."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import sqlite3
import subprocess
import sys

import pytest
from fedkit_client.limits import remarks_on
from fedkit_client.tables import Look, from_plain, look_at, look_at_tables, remarks, require_readable

from fedkit.errors import DataError
from fedkit.governance.site_file import read_site_file
from fedkit.governance.terms import Limits
from tests.clients.coordinator import DATASET, RECORDS, free_port

QUERY = "SELECT age, rate, died FROM stays"


def _client(*words):
    # As at a hospital: nothing that runs the tests says how many threads a library may have.
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    command = [sys.executable, "-m", "fedkit", "client", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert "Traceback" not in done.stderr
    return done.returncode, done.stdout, done.stderr


def _look(made) -> Look:
    (look,) = look_at_tables(made.keeper.file, made.folder)
    assert from_plain(json.loads(json.dumps(look.plain()))) == look
    return look


def _database(made, url):
    """The site's file names a database; its URL is in a file, as that of a hospital's own."""
    secret = made.folder.path / "url"
    secret.write_text(url)
    secret.chmod(0o600)
    told = json.loads(made.folder.site_yaml.read_text())
    told["data"][DATASET]["source"] = {"kind": "sql", "query": QUERY, "url_file": str(secret)}
    made.folder.site_yaml.write_text(json.dumps(told))
    return read_site_file(made.folder.site_yaml)


def test_a_table_that_can_be_read_bars_nothing(bench):
    look = _look(bench())
    assert look.check.state in ("ok", "warn") and not look.bars and remarks([look]) == []
    require_readable([look])


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (None, "FK201"),
        ("age,rate\n50,80\n", "FK205"),
        ("age,rate,died,died\n50,80,1,1\n", "FK206"),
        ("age\n", "FK20"),
    ],
)
def test_a_table_that_is_none_of_the_declared_columns_bars_a_start_in_the_doctors_words(bench, content, code):
    made = bench()
    table = made.folder.path / "table.csv"
    table.unlink() if content is None else table.write_text(content)
    look = _look(made)
    assert look.bars and look.code.startswith(code)
    # The keys of this site's own file, not those of a run.
    assert not re.search(r"(?<![\w.])source\.|data\.records", look.check.remedy)
    if content is None:
        assert look.check.remedy == f"set data.{DATASET}.source.path; it is relative to site.yaml"
    with pytest.raises(DataError) as caught:
        require_readable([look])
    assert caught.value.code == look.code and caught.value.remedy == look.check.remedy.rstrip(".")
    assert str(caught.value).startswith(f"{look.code}: data {DATASET}: ")
    assert look.check.found.removeprefix(f"{look.code}: ") in str(caught.value)


def test_how_many_rows_a_table_has_bars_nothing(bench):
    made = bench()
    table = made.folder.path / "table.csv"
    table.write_text("age,rate,died\n" + "50,80,1\n" * (RECORDS + 1))
    look = _look(made)
    assert (look.check.state, look.code, look.bars) == ("fail", "FK222", False)
    assert f"set data.{DATASET}.records in site.yaml" in look.check.remedy
    (text,) = remarks([look])
    assert "FK222" in text and "connects all the same" in text
    table.write_text("age,rate,died\n")
    assert not _look(made).bars


@pytest.mark.skipif(importlib.util.find_spec("psycopg") is None, reason="needs the driver psycopg")
def test_a_database_that_is_away_bars_nothing_and_is_told_without_its_password(bench):
    made = bench()
    file = _database(made, f"postgresql+psycopg://ann:hunter2@127.0.0.1:{free_port()}/icu")
    look = look_at(file, made.folder, DATASET, None)
    assert (look.check.state, look.code, look.bars) == ("fail", "FK223", False)
    (text,) = remarks([look])
    assert "cannot be reached" in text and "hunter2" not in text


def test_a_query_that_the_database_refuses_bars_a_start(bench):
    made = bench()
    with sqlite3.connect(made.folder.path / "icu.sqlite") as database:
        database.execute("CREATE TABLE other (age)")
    database.close()
    file = _database(made, f"sqlite:///{made.folder.path / 'icu.sqlite'}")
    look = look_at(file, made.folder, DATASET, None)
    assert look.bars and look.code == "FK208" and "no such table" in look.check.found


def test_more_processors_than_there_are_limit_nothing_and_that_is_said():
    assert remarks_on(Limits(cpus=None)) == [] == remarks_on(Limits(cpus=1))
    (said,) = remarks_on(Limits(cpus=4096))
    assert "limits.cpus is 4096" in said


@pytest.mark.deploy
def test_a_start_and_the_doctor_say_the_same_of_a_missing_table_and_nothing_connects(running):
    coordinator, site = running(start=False)
    site.folder.path.joinpath("table.csv").unlink()
    status, out, err = _client("start", site.folder.site_yaml)
    assert status == 2 and "connected to" not in out and not coordinator.link.online()
    told = json.loads(_client("doctor", site.folder.site_yaml, "--json")[1])
    (check,) = [check for check in told["checks"] if check["check"] == f"data {DATASET}"]
    code, _, message = check["found"].partition(": ")
    assert f"{code}: data {DATASET}: {message}" in err and check["remedy"].rstrip(".") in err
    status, _, detached = _client("start", site.folder.site_yaml, "--detach")
    assert status == 2 and detached == err


@pytest.mark.deploy
@pytest.mark.skipif(importlib.util.find_spec("psycopg") is None, reason="needs the driver psycopg")
def test_a_site_connects_while_its_database_is_away_and_says_so_first(running):
    _, site = running(start=False)

    class Made:
        folder = site.folder

    _database(Made, f"postgresql+psycopg://ann:hunter2@127.0.0.1:{free_port()}/icu")
    status, out, err = _client("start", site.folder.site_yaml, "--detach")
    assert status == 0, err
    first = out.splitlines()[0]
    assert first.startswith(f"warning: data {DATASET}: FK223") and "connected to" in out.splitlines()[-1]
    assert "FK223" in site.log() and "hunter2" not in site.log() + out
    assert _client("stop", site.folder.site_yaml)[0] == 0


@pytest.mark.deploy
def test_a_memory_limit_that_doctor_lets_pass_is_one_with_which_it_starts(running):
    """Both measure in a process that has loaded nothing else: what one lets pass the other does not refuse."""
    _, site = running(start=False)
    told = json.loads(site.folder.site_yaml.read_text())

    def least(*words):
        site.folder.site_yaml.write_text(json.dumps({**told, "limits": {"memory": "512MiB"}}))
        status, out, err = _client(*words, site.folder.site_yaml)
        assert status != 0 and "FK760" in out + err
        return float((out + err).split("limits.memory to ")[1].split("GiB")[0])

    assert abs(least("doctor") - least("start")) <= 0.011
