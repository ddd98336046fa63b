"""Logging in: password and code together, each code once, and nothing that tells whether a name is somebody's."""

import json
import stat
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pyotp
import pytest

from fedkit.errors import DeploymentError
from fedkit.web import passwords, totp
from fedkit.web.door import Door, unlock
from fedkit.web.users import Users
from fedkit.web.wrong import EVERY, FINAL, SPAN, Wrong

PASSWORD = "correct horse battery"


@dataclass
class At:
    """A door with one user before it, and a clock that the test owns.

    Attributes:
        told: what is on record.
        broken: whether nothing can be put on record.
    """

    folder: Path
    now: float = 1_800_000_000.0
    told: list[tuple[str, str]] = field(default_factory=list)
    broken: bool = False

    def __post_init__(self):
        self.users, self.counts = Users(self.folder / "users.json"), self.folder / "wrong.json"
        self.secret = self.users.add("ana", PASSWORD, self.now)
        self.door = self.another()

    def another(self):
        return Door(self.users, self.counts, self.record, lambda: self.now)

    def record(self, what, name):
        if self.broken:
            raise DeploymentError("a full disk", code="FK770")
        self.told.append((what, name))

    def code(self):
        self.now += 30
        return pyotp.TOTP(self.secret).at(int(self.now))


@pytest.fixture
def at(tmp_path, cheap_hashes):
    return At(tmp_path)


def test_the_password_and_the_code_let_in_and_nothing_less(at):
    door = at.door
    assert door.login("ana", PASSWORD, at.code()) is not None
    assert door.login("ana", PASSWORD + "!", at.code()) is None
    assert door.login("ana", PASSWORD, f"{(int(at.code()) + 1) % 10**6:06d}") is None
    for name, password, code in (
        ("", "", ""),
        ("ana", "", at.code()),
        ("ana", PASSWORD, ""),
        ("bo", PASSWORD, at.code()),
    ):
        assert door.login(name, password, code) is None
    assert door.login("ana", PASSWORD, at.code()) is not None


def test_a_code_counts_once_and_one_before_it_never(at):
    door, before = at.door, at.code()
    code = at.code()
    assert door.login("ana", PASSWORD, code) is not None
    assert door.login("ana", PASSWORD, code) is None
    assert door.login("ana", PASSWORD, before) is None
    # Another process of the console has the same memory.
    assert at.another().login("ana", PASSWORD, code) is None


def test_of_many_who_come_with_one_code_at_once_one_comes_in(at):
    code, barrier = at.code(), threading.Barrier(6)
    doors = [at.another() for _ in range(3)] * 2

    def come(door):
        barrier.wait(20)
        return door.login("ana", PASSWORD, code) is not None

    with ThreadPoolExecutor(6) as pool:
        assert sorted(pool.map(come, doors)) == [False] * 5 + [True]


@pytest.mark.parametrize(("late", "good"), [(-60, False), (-30, True), (0, True), (30, True), (90, False)])
def test_a_phones_clock_may_be_one_step_off(at, late, good):
    code = at.code()
    at.now += late
    assert (at.door.login("ana", PASSWORD, code) is not None) is good


def test_a_code_with_blanks_and_a_password_in_another_form_of_unicode_are_the_same(at):
    users = at.users
    at.secret = users.change("ana", "Zu\u0308rich und Bern", at.now)
    code = at.code()
    assert at.door.login("ana", "Z\u00fcrich und Bern", f"{code[:3]} {code[3:]}") is not None


def test_a_thousand_wrong_logins_lock_and_the_right_one_does_not_help(at):
    door = at.door
    for _ in range(1000):
        assert door.login("ana", "wrong horse battery", at.code()) is None
        # Whoever waits a lock out is locked the longer.
        at.now += SPAN / EVERY
    assert door.login("ana", PASSWORD, at.code()) is None
    at.now += 365 * 86_400
    assert door.login("ana", PASSWORD, at.code()) is None
    assert unlock(at.users, at.counts, "ana") and not unlock(at.users, at.counts, "ana")
    assert door.login("ana", PASSWORD, at.code()) is not None
    assert {name for what, name in at.told if what == "locked"} == {"ana"}


def test_the_tenth_locks_for_a_quarter_of_an_hour_and_what_is_tried_meanwhile_does_not_lengthen_it(at):
    door, began = at.door, at.now
    for _ in range(EVERY):
        door.login("ana", "wrong horse battery", at.code())
    locked = at.now
    while at.now < locked + SPAN - 60:
        assert door.login("ana", PASSWORD, at.code()) is None
    at.now = locked + SPAN
    assert door.login("ana", PASSWORD, at.code()) is not None
    assert at.now > began and at.told.count(("locked", "ana")) == 1


def test_a_right_login_forgets_the_wrong_ones(at):
    door = at.door
    for _ in range(FINAL // (EVERY - 1) + 2):
        for _ in range(EVERY - 1):
            assert door.login("ana", "wrong horse battery", at.code()) is None
        assert door.login("ana", PASSWORD, at.code()) is not None


def test_another_name_is_not_locked(at):
    secret = at.users.add("bo", PASSWORD, at.now)
    for _ in range(EVERY):
        at.door.login("ana", "wrong horse battery", at.code())
    at.secret = secret
    assert at.door.login("bo", PASSWORD, at.code()) is not None


def test_a_name_that_nobody_has_takes_the_same_steps(at, monkeypatch):
    door, steps = at.door, []
    for where, name in ((passwords, "matches"), (totp, "step_of"), (Wrong, "write"), (door, "record")):
        real = getattr(where, name)

        def noted(*words, _real=real, _name=name, **more):
            steps.append(_name)
            return _real(*words, **more)

        monkeypatch.setattr(where, name, noted)
    seen = []
    for name in ("ana", "nobody", ""):
        steps.clear()
        for _ in range(EVERY + 5):
            assert door.login(name, "wrong horse battery", at.code()) is None
        seen.append(list(steps))
    assert seen[0] == seen[1] == seen[2] and seen[0].count("record") == 1


def test_what_was_typed_as_a_name_is_kept_nowhere(at):
    for _ in range(EVERY + 1):
        at.door.login("my secret password", "x", "123456")
    folder = b"".join(path.read_bytes() for path in at.folder.rglob("*") if path.is_file())
    assert b"my secret" not in folder and PASSWORD.encode() not in folder
    assert at.told == [("locked", "")]


def test_names_that_nobody_has_fill_no_disk_and_push_out_no_users_count(at):
    door = at.door
    for _ in range(EVERY):
        door.login("ana", "wrong horse battery", at.code())
    counts = Wrong.read(at.counts)
    for number in range(3000):
        counts.add(f"name{number}", at.now + number, frozenset({"ana"}))
    counts.write()
    assert len(Wrong.read(at.counts).counts) <= 1001
    assert door.login("ana", PASSWORD, at.code()) is None


@pytest.mark.parametrize("file", ["users.json", "wrong.json"])
@pytest.mark.parametrize("how", ["cut", "others", "folder", "another"])
def test_a_file_that_cannot_be_read_lets_nobody_in(at, file, how):
    at.door.login("bo", "x", "1")
    path = at.folder / file
    if how == "cut":
        path.write_bytes(path.read_bytes()[:-5])
    elif how == "others":
        path.chmod(0o644)
    elif how == "another":
        path.write_text(json.dumps({"format": 9, "users": {}}))
    else:
        path.unlink()
        path.mkdir(mode=0o700)
    with pytest.raises(DeploymentError) as caught:
        at.door.login("ana", PASSWORD, at.code())
    assert caught.value.code in ("FK795", "FK706")


@pytest.mark.parametrize("count", [[-90, 0.0, 1.0], [0, 0.0, 1.0], [9, "NaN", 1.0], [9, -1.0, 1.0], [9, 10**400, 1.0],
                                   [9, "Infinity", 1.0], [9, None, "NaN"], [9, True, 1.0]])  # fmt: skip
def test_a_count_that_none_has_stands_for_no_fewer_and_no_lock(at, count):
    for _ in range(9):
        assert at.door.login("ana", "wrong", "000000") is None
    values = json.loads(at.counts.read_text())
    values["counts"] = dict.fromkeys(values["counts"], count)
    at.counts.write_text(json.dumps(values).replace('"NaN"', "NaN").replace('"Infinity"', "Infinity"))
    with pytest.raises(DeploymentError) as caught:
        at.another().login("ana", PASSWORD, at.code())
    assert caught.value.code == "FK795"


def test_a_lock_holds_in_the_next_process_for_good_too(at):
    for _ in range(FINAL):
        at.door.login("ana", "wrong", "000000")
        at.now += SPAN
    assert at.another().login("ana", PASSWORD, at.code()) is None
    assert unlock(at.users, at.counts, "ana")
    assert at.another().login("ana", PASSWORD, at.code()) is not None


def test_who_comes_in_is_on_record_or_does_not_come_in(at):
    assert at.door.login("ana", PASSWORD, at.code()) is not None
    assert at.told == [("login", "ana")]
    at.broken = True
    code = at.code()
    with pytest.raises(DeploymentError, match="full disk"):
        at.door.login("ana", PASSWORD, code)
    at.broken = False
    assert at.door.login("ana", PASSWORD, code) is not None


def test_a_lock_and_a_logout_hold_even_where_they_cannot_be_put_on_record(at):
    at.broken = True
    for _ in range(EVERY):
        assert at.door.login("ana", "wrong horse battery", at.code()) is None
    at.door.logout("ana")
    at.broken = False
    assert at.door.login("ana", PASSWORD, at.code()) is None


def test_the_files_are_for_their_owner_alone_and_hold_no_password(at):
    at.door.login("ana", "wrong horse battery", at.code())
    for path in (at.users.path, at.counts):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert "argon2" in at.users.path.read_text()


def test_the_cost_of_a_hash_is_the_one_that_is_recommended():
    kept = passwords.hashed("a password of some length")
    assert kept.startswith("$argon2id$v=19$m=65536,t=3,p=4$")
    began = time.perf_counter()
    assert passwords.matches(kept, "a password of some length")
    right = time.perf_counter() - began
    began = time.perf_counter()
    assert not passwords.matches(passwords.decoy(), "a password of some length")
    assert 0.2 < (time.perf_counter() - began) / right < 20


@pytest.mark.parametrize(
    "password", ["short", "a" * 20, "x" * 257, "ana has a password", "line\nbreak is none", "abab" * 4]
)
def test_a_password_that_can_be_guessed_is_refused(password):
    with pytest.raises(DeploymentError, match="FK797"):
        passwords.new_password(password, "ana")
