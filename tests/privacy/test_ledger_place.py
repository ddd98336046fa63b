"""One file under one name: what moves, doubles or half-copies a ledger never doubles its budget."""

import os
import shutil
import sqlite3

import pytest

from fedkit.errors import PrivacyError
from fedkit.privacy.accounting import GaussianEvent
from fedkit.privacy.ledger import place
from fedkit.privacy.ledger.facts import Job
from fedkit.privacy.ledger.ledger import Ledger
from fedkit.privacy.ledger.messages import Message
from fedkit.privacy.rdp_filter import rounded

ROUND = GaussianEvent(1.0, 10.0, 1)


def refused(code, call, *arguments):
    with pytest.raises(PrivacyError) as caught:
        call(*arguments)
    assert caught.value.code == code, caught.value
    assert caught.value.remedy
    return str(caught.value)


def answer(ledger, run):
    ledger.admit("icu", run, "s", Job("record", "add_remove", (rounded(ROUND),)), 4e9)
    message = Message("icu", run, 1, "d", "train")
    ledger.reserve(message, [ROUND])
    return ledger.commit(message, b"reply")


def spent(path):
    with Ledger(path) as ledger:
        return len(ledger.account("icu").runs)


@pytest.fixture
def path(tmp_path):
    (tmp_path / "host").mkdir()
    with Ledger.create(tmp_path / "host" / "va.sqlite") as ledger:
        ledger.create_budget("icu", unit="record", limit=3.0, delta=1e-5)
    return tmp_path / "host" / "va.sqlite"


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(place, "_PATIENCE", 0.05)


def test_a_file_with_two_names_is_neither_opened_nor_written(path, tmp_path, impatient):
    other = tmp_path / "va.sqlite"
    with Ledger(path) as ledger:
        os.link(path, other)
        assert "has 2 names" in refused("FK355", answer, ledger, "r1")
        for name in (path, other):
            assert "has 2 names" in refused("FK355", Ledger, name)
        other.unlink()
        answer(ledger, "r1")
    assert spent(path) == 1


def test_a_ledger_that_is_just_being_made_is_waited_for(path, tmp_path, monkeypatch):
    scrap = path.with_name("scrap")
    os.link(path, scrap)
    monkeypatch.setattr(place.time, "sleep", lambda _: scrap.unlink(missing_ok=True))
    assert spent(path) == 0


def test_names_of_one_file_take_turns_even_where_nobody_noticed_them(path, tmp_path, monkeypatch):
    other = tmp_path / "va.sqlite"
    os.link(path, other)
    monkeypatch.setattr(place.Place, "_one_name", lambda *_: None)
    monkeypatch.setattr(place, "_PATIENCE", 0.0)
    with Ledger(path) as one, Ledger(other, busy_seconds=0.01) as two:
        for number in range(3):
            answer(one, f"a{number}")
            answer(two, f"b{number}")
        with one.file.writing():
            refused("FK338", answer, two, "b9")
        assert len(one.account("icu").runs) == len(two.account("icu").runs) == 6


@pytest.mark.parametrize("how", ["replaced", "renamed", "gone", "repointed"])
def test_a_file_that_its_name_no_longer_leads_to_is_not_written(path, tmp_path, how):
    copy = shutil.copy(path, tmp_path / "copy")
    named = tmp_path / "link.sqlite" if how == "repointed" else path
    if how == "repointed":
        named.symlink_to(path)
    with Ledger(named) as ledger:
        answer(ledger, "r1")
        old = path
        if how == "replaced":
            old = tmp_path / "old"
            os.link(path, old)
            os.replace(copy, path)
        elif how == "repointed":
            named.unlink()
            named.symlink_to(copy)
        else:
            old = tmp_path / "moved" / "va.sqlite"
            path.parent.rename(old.parent)
            if how == "renamed":
                path.parent.mkdir()
                shutil.copy(copy, path)
        assert "was moved or replaced" in refused("FK335", answer, ledger, "r2")
        refused("FK335", ledger.account, "icu")
        refused("FK335", ledger.file.store_figure, "k", 1.0)
    assert spent(old) == 1


def test_all_that_was_committed_is_in_the_one_file(path, tmp_path):
    with Ledger(path) as ledger:
        answer(ledger, "r1")
        # What a kill -9 and a tidy script would leave.
        assert [file.name for file in path.parent.iterdir()] == ["va.sqlite"]
        left = shutil.copy(path, tmp_path / "left.sqlite")
    assert spent(left) == 1
    with Ledger(left) as ledger:
        assert ledger.verify() == 1


def test_a_write_ahead_log_of_an_earlier_version_is_brought_in(path):
    old = sqlite3.connect(path, isolation_level=None)
    assert old.execute("PRAGMA journal_mode = WAL").fetchone()[0] == "wal"
    old.execute("INSERT INTO figures VALUES ('old', 1.5)")
    refused("FK338", lambda: Ledger(path, busy_seconds=0.01))
    old.close()
    with Ledger(path) as ledger:
        assert ledger.file.figure("old") == 1.5
        answer(ledger, "r1")
        assert [file.name for file in path.parent.iterdir()] == ["va.sqlite"]


def test_a_file_that_is_mounted_by_itself_is_refused(path, tmp_path, monkeypatch):
    spaced = tmp_path / "a b"
    path.parent.rename(spaced)
    lines = f"22 1 8:1 / / rw - ext4 /dev/sda rw\n23 22 8:1 /x {spaced!s}/va.sqlite rw - ext4 /dev/sda rw\n"
    monkeypatch.setattr(place, "_MOUNTS", tmp_path / "mounts")
    (tmp_path / "mounts").write_text(lines.replace("a b", "a\\040b"))
    assert "mount the folder" in refused("FK355", Ledger, spaced / "va.sqlite")
    (tmp_path / "mounts").write_text(lines.replace("a b/va.sqlite", "a\\040b"))
    assert spent(spaced / "va.sqlite") == 0


@pytest.mark.parametrize(
    ("name", "code", "told"),
    [
        ("", "FK330", "is a folder and no regular file"),
        ("/dev/null", "FK330", "is a device, a socket or a pipe and no regular file"),
        ("none.sqlite", "FK330", "there is no ledger"),
        ("host/va.sqlite/x", "FK330", "there is no ledger"),
        ("\udcff.sqlite", "FK330", "is not valid UTF-8"),
        ("x" * 241, "FK336", "has 241 bytes; at most 240"),
        ("\0", "FK336", "none of them NUL"),
        ("a/" * 3000 + "x", "FK336", "cannot be reached"),
    ],
)
def test_a_path_that_can_be_no_ledger_s_is_refused_in_words(path, tmp_path, name, code, told):
    assert told in refused(code, Ledger, tmp_path / name)


@pytest.mark.parametrize("name", ["\udcff.sqlite", "x" * 241, "\0", "a/" * 3000 + "x", "host/va.sqlite/x", "none/x"])
def test_a_path_that_can_be_no_ledger_s_makes_none(path, tmp_path, name):
    refused("FK330" if "udcff" in ascii(name) else "FK336", Ledger.create, tmp_path / name)
    assert os.listdir(tmp_path) == ["host"]


def test_the_longest_name_works(tmp_path):
    path = tmp_path / ("é" * 120)
    with Ledger.create(path) as ledger:
        ledger.create_budget("icu", unit="record", limit=3.0, delta=1e-5)
        answer(ledger, "r1")
    assert spent(path) == 1
