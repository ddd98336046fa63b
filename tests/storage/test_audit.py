"""No byte of an audit log can be changed, moved or taken away unseen; what cannot be written has not happened."""

import base64
import fcntl
import json
import multiprocessing
import os
import random
import resource
import signal
import stat
import subprocess
import sys
import time

import pytest

from fedkit.errors import DeploymentError
from fedkit.storage import audit
from fedkit.storage.audit import Log
from fedkit.storage.audit_line import Event, Unreadable, read_line, write_line
from fedkit.storage.audit_verify import BrokenLog, alerts, readable_lines, verify
from fedkit.storage.chain import GENESIS, Head
from fedkit.storage.keys import new_signing_key

KEY = new_signing_key()
PLACE = "released"


@pytest.fixture
def log(tmp_path):
    return Log(tmp_path / "audit.jsonl", KEY, lambda: 1_700_000_000.1234)


def fill(log, count=5):
    return [log.append(Event(PLACE, {"run": "r", "round": n, "epsilon": 0.1 * n, "again": n % 2 == 0, "none": None}))
            for n in range(1, count + 1)]  # fmt: skip


def check(log, **more):
    return verify(log.path, [KEY.public], **more)


def broken(log, **more):
    with pytest.raises(BrokenLog) as caught:
        check(log, **more)
    return caught.value


def test_what_was_appended_is_read_back_in_order(log):
    heads = fill(log)
    found = check(log, keep=(PLACE,), heads=heads)
    assert found.head == heads[-1] == log.head()
    assert [line.fields["round"] for line in found.kept] == [1, 2, 3, 4, 5] and found.kinds == {PLACE: 5}
    assert found.kept[0].at == 1_700_000_000.123 and found.kept[0].prev == GENESIS
    values = json.loads(log.path.read_text().splitlines()[1])
    assert list(values) == ["seq", "at", "kind", "run", "round", "epsilon", "again", "none", "prev", "sig"]
    assert stat.S_IMODE(log.path.stat().st_mode) == 0o600


def test_several_events_are_one_append_and_the_log_may_be_empty(log):
    assert log.head() == Head(0, GENESIS)
    assert log.append(Event("a"), Event("b")).seq == 2
    assert [line.kind for line in readable_lines(log.path)] == ["a", "b"]
    assert [line.kind for line in readable_lines(log.path, ("b",))] == ["b"]
    assert alerts(log.path, ("a", "c")) == {"a": 1, "c": 0} and alerts(log.path.with_name("x"), ("a",)) == {"a": 0}


def test_a_value_that_looks_like_a_kind_is_not_one(log):
    log.append(Event("told", {"text": '","kind":"contradicted"'}))
    assert alerts(log.path, ("contradicted",)) == {"contradicted": 0}
    assert check(log).kinds == {"told": 1}


def test_every_bit_of_every_byte_counts(log):
    heads = fill(log, 3)
    good = log.path.read_bytes()
    for place in range(len(good)):
        for bit in (0, 3, 7):
            bad = bytearray(good)
            bad[place] ^= 1 << bit
            log.path.write_bytes(bad)
            with pytest.raises(BrokenLog):
                check(log)
    log.path.write_bytes(good)
    assert check(log, heads=heads, every=True).head.seq == 3


def test_a_flipped_bit_is_found_in_the_line_that_it_is_in(log):
    fill(log, 4)
    good = log.path.read_bytes()
    lines = good.splitlines(keepends=True)
    for number, line in enumerate(lines, 1):
        start = sum(map(len, lines[: number - 1]))
        for within in (b'"round":', b'"prev":"', b'"sig":"', b'"at":'):
            place = start + line.index(within) + len(within)
            bad = bytearray(good)
            bad[place] = ord("7") if bad[place] != ord("7") else ord("8")
            log.path.write_bytes(bad)
            assert broken(log).line == number, (number, within)


def test_random_bits_of_a_large_log(log):
    big = b""
    head = Head(0, GENESIS)
    for n in range(2000):
        line = write_line(head, 1.0, Event("x", {"n": n}), KEY)
        head = Head(head.seq + 1, read_line(line).digest)
        big += line + b"\n"
    log.path.write_bytes(big)
    assert check(log).head == head
    dice = random.Random(1)
    for _ in range(12):
        bad = bytearray(big)
        bad[dice.randrange(len(bad))] ^= 1 << dice.randrange(8)
        log.path.write_bytes(bad)
        broken(log)


def test_lines_that_are_removed_moved_repeated_or_put_in(log):
    fill(log, 6)
    one, two, three, four, five, six = log.path.read_bytes().splitlines(keepends=True)

    def written(*lines):
        log.path.write_bytes(b"".join(lines))
        return broken(log)

    assert (found := written(one, two, four, five, six)).line == 3 and "number 4 where 3 is due" in found.why
    assert written(two, three, four).line == 1
    assert written(one, three, two, four, five, six).line == 2
    assert (found := written(one, two, two, three)).line == 3 and "repeated or moved" in found.why
    assert written(one, two, three, four, five, six, one).line == 7
    assert written(one, b"\n", two).line == 2
    foreign = write_line(Head(2, read_line(two[:-1]).digest), 1.0, Event("x"), new_signing_key()) + b"\n"
    assert written(one, two, foreign).line == 3
    assert written(one, two, foreign, three).line == 3
    for garbage in (b"garbage", b"garbage\n", b"\0" * 50, b"\0\n", b"{}\n", b"[]\n", b"1\n", b"[" * 30_000 + b"\n"):
        assert written(one, two, garbage).line == 3
    assert written(one, two, b"x" * 200_000 + b"\n").line == 3


def test_two_histories_of_one_key_do_not_fit_together(log):
    fill(log, 3)
    first = log.path.read_bytes().splitlines(keepends=True)
    log.path.unlink()
    log.append(Event("other"))
    log.append(Event("other"))
    second = log.path.read_bytes().splitlines(keepends=True)
    log.path.write_bytes(b"".join([*second, first[2]]))
    assert broken(log).line == 3 and "follows another line 2" in broken(log).why


def test_a_cut_log_is_a_good_one_unless_somebody_kept_its_head(log):
    heads = fill(log, 5)
    lines = log.path.read_bytes().splitlines(keepends=True)
    log.path.write_bytes(b"".join(lines[:3]))
    assert check(log).head == heads[2] and check(log, heads=heads[:3]).head == heads[2]
    found = broken(log, heads=heads[:4])
    assert found.line == 4 and "signed head of line 4, and the log ends with line 3" in found.why
    log.append(Event("goes_on"))
    assert check(log).head.seq == 4
    assert broken(log, heads=heads[:4]).line == 4


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace('"round":2', '"round":2,"round":2'),
        lambda text: text.replace('"round":2', '"round": 2'),
        lambda text: text.replace('"run":"r"', '"run":"\\u0072"'),
        lambda text: text.replace('"epsilon":0.2', '"epsilon":2e-1'),
        lambda text: text.replace('"again":true', '"again":NaN'),
        lambda text: text.replace('"again":true', '"again":[true]'),
        lambda text: text.replace('"again":true', '"sig":"x"'),
        lambda text: text.replace('"seq":2', '"seq":2' + "0" * 5000),
        lambda text: text + " ",
        lambda text: text.replace('"run":"r"', '"run":"é"'),
    ],
)
def test_even_the_keys_holder_has_one_way_to_write(log, change):
    """A line that is signed all the same is refused if it is not written as `Log` writes it."""
    fill(log, 3)
    one, two, _ = log.path.read_text().splitlines()
    body = change(two.rsplit(',"sig":"', 1)[0] + "}").encode()
    assert body.decode() != two.rsplit(',"sig":"', 1)[0] + "}"
    tail = b" " if body.endswith(b" ") else b""
    unsigned = body.rstrip(b" ")
    sig = base64.b64encode(KEY.sign(b"fedkit-audit-1\n" + unsigned))
    log.path.write_bytes(one.encode() + b"\n" + unsigned[:-1] + b',"sig":"' + sig + b'"}' + tail + b"\n")
    assert broken(log).line == 2
    with pytest.raises(DeploymentError, match="FK771"):
        log.append(Event("x"))


@pytest.mark.parametrize("where", ["middle of a line", "before the newline", "garbage", "only a torn line"])
def test_what_a_crash_tears_is_kept_aside_and_told(log, where):
    fill(log, 3)
    data = log.path.read_bytes()
    whole, torn = {
        "middle of a line": (data, data.splitlines()[1][:57]),
        "before the newline": (data, data.splitlines()[1]),
        "garbage": (data, b"\0" * 4096),
        "only a torn line": (b"", data[:20]),
    }[where]
    log.path.write_bytes(whole + torn)
    lines = whole.count(b"\n")
    assert "torn" in broken(log).why and broken(log).line == lines + 1
    assert log.head().seq == lines
    assert log.append(Event("goes_on")).seq == lines + 2
    found = check(log, keep=("recovered",))
    assert found.recovered == 1 and found.kept[0].fields["bytes"] == len(torn)
    assert log.path.read_bytes().startswith(whole)
    aside = log.path.with_name(f"audit.torn-{lines + 1}")
    assert aside.read_bytes() == torn and stat.S_IMODE(aside.stat().st_mode) == 0o600


def test_a_second_crash_while_the_first_one_is_told_loses_nothing_of_either(log):
    fill(log, 1)
    good = log.path.read_bytes()
    for torn in (b'{"seq":2,"at":1', b'{"seq":2,"at":2,"kind":"recovered"'):
        log.path.write_bytes(good + torn)
        with log.path.open("rb+") as file:
            log._keep_aside(2, torn)
            file.truncate(len(good))
    kept = sorted(path.read_bytes() for path in log.path.parent.glob("audit.torn-2*"))
    assert kept == [b'{"seq":2,"at":1', b'{"seq":2,"at":2,"kind":"recovered"']


def test_nothing_is_built_on_an_end_that_is_not_ours(log):
    fill(log, 2)
    good = log.path.read_bytes()
    for bad in (good.replace(b'"round":2', b'"round":3'), good + b"x\n", good + b"x" * 70_000, b"y" * 200_000 + b"\n"):
        log.path.write_bytes(bad)
        for call in (log.head, lambda: log.append(Event("x"))):
            with pytest.raises(DeploymentError, match="FK771"):
                call()
        assert log.path.read_bytes() == bad


@pytest.mark.parametrize(
    "event",
    [
        Event("Kind"), Event(""), Event("seq"), Event("x", {"prev": 1}), Event("x", {"sig": ""}), Event("x", {"at": 1}),
        Event("x", {"a": float("nan")}), Event("x", {"a": float("inf")}), Event("x", {"a": 2**63}),
        Event("x", {"a": "line\nbreak"}), Event("x", {"a": "\x1b[31m"}), Event("x", {"a": "y" * 501}),
        Event("x", {"a": [1]}), Event("x", {"a": b"1"}), Event("x", {"A": 1}), Event("x", {"a b": 1}),
    ],
)  # fmt: skip
def test_what_is_no_event_is_refused_and_nothing_is_written(log, event):
    with pytest.raises(DeploymentError, match="FK770"):
        log.append(Event("good"), event)
    assert not log.path.exists()


def test_a_file_that_others_may_read_or_that_is_a_link_is_refused(log):
    fill(log, 1)
    log.path.chmod(0o640)
    with pytest.raises(DeploymentError, match="FK770"):
        log.append(Event("x"))
    log.path.chmod(0o600)
    other = log.path.with_name("other")
    log.path.rename(other)
    log.path.symlink_to(other)
    with pytest.raises(DeploymentError, match="FK770"):
        log.append(Event("x"))
    assert len(other.read_text().splitlines()) == 1


def test_a_full_disk_leaves_the_log_as_it_was(log, monkeypatch):
    heads = fill(log, 2)
    good = log.path.read_bytes()
    fsync = os.fsync

    def fail(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(audit.os, "fsync", fail)
    with pytest.raises(DeploymentError, match=r"FK770.*No space left"):
        log.append(Event("x"))
    monkeypatch.setattr(audit.os, "fsync", fsync)
    assert log.path.read_bytes() == good
    assert log.append(Event("x")).seq == 3 and check(log, heads=heads).head.seq == 3


def test_a_write_that_is_cut_short_is_taken_back(log):
    """A real limit of the system's, in a process of its own."""
    fill(log, 2)
    good = log.path.read_bytes()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (len(good) + 100, len(good) + 100))
            log.append(Event("x"))
        except DeploymentError as error:
            status = 0 if error.code == "FK770" else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert log.path.read_bytes() == good and check(log).head.seq == 2


def test_a_lock_that_somebody_keeps_is_not_waited_for_for_ever(log, monkeypatch):
    fill(log, 1)
    monkeypatch.setattr(audit, "PATIENCE", 0.05)
    with log.path.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(DeploymentError, match=r"FK770.*lock"):
            log.append(Event("x"))
    assert log.append(Event("x")).seq == 2


def _appends(path, key, name):
    log = Log(path, key)
    for n in range(40):
        log.append(Event("x", {"by": name, "n": n}), Event("y", {"by": name, "n": n}))


def test_many_processes_append_to_one_log(log):
    context = multiprocessing.get_context("fork")
    others = [context.Process(target=_appends, args=(log.path, KEY, name)) for name in "abcd"]
    for each in others:
        each.start()
    for each in others:
        each.join(60)
        assert each.exitcode == 0
    found = check(log, keep=("x", "y"), every=True)
    assert found.head.seq == 4 * 80
    for name in "abcd":
        own = [(line.kind, line.fields["n"]) for line in found.kept if line.fields["by"] == name]
        assert own == [(kind, n) for n in range(40) for kind in "xy"]
    for first, second in zip(found.kept[::2], found.kept[1::2], strict=True):
        assert first.fields == second.fields, "an append is in one piece"


KILLED = """
import sys
from pathlib import Path
from fedkit.storage.audit import Log
from fedkit.storage.audit_line import Event
from fedkit.storage.keys import load_signing_key
log = Log(Path(sys.argv[1]), load_signing_key(Path(sys.argv[2])))
while True:
    print(log.append(*[Event("x", {"text": "t" * 400})] * 20).seq, flush=True)
"""


def test_whatever_append_has_returned_survives_a_kill(tmp_path):
    from fedkit.storage.keys import create_signing_key

    key = create_signing_key(tmp_path / "k")
    path = tmp_path / "audit.jsonl"
    for pause in (0.0, 0.02, 0.05):
        with subprocess.Popen([sys.executable, "-c", KILLED, path, tmp_path / "k"], stdout=subprocess.PIPE) as process:
            told = int(process.stdout.readline())
            time.sleep(pause)
            process.kill()
            told = max([told, *(int(word) for word in process.stdout.read().split())])
        Log(path, key).append(Event("after"))
        assert verify(path, [key.public], every=True).head.seq > told


def test_a_log_that_was_moved_away_is_not_written_to(log):
    fill(log, 1)
    log.path.rename(log.path.with_name("archive.jsonl"))
    assert log.append(Event("x")).seq == 1
    assert len(log.path.with_name("archive.jsonl").read_text().splitlines()) == 1


def test_a_key_is_handed_on_by_the_one_before(log):
    new = new_signing_key()
    fill(log, 2)
    with pytest.raises(DeploymentError, match="FK771"):
        Log(log.path, new).append(Event("x"))
    log.append(Event("rotated", {"key": new.fingerprint}))
    later = Log(log.path, new)
    both = [KEY.public, new.public]
    assert verify(log.path, both).head.seq == 3
    later.append(Event("x"))
    assert verify(log.path, both, every=True).head.seq == 4
    with pytest.raises(DeploymentError, match="FK771"):
        log.append(Event("by_the_old_key"))
    assert "not known" in broken(log).why
    # The old key alone, stolen, cannot go on where it was in force.
    log.path.write_bytes(b"".join(log.path.read_bytes().splitlines(keepends=True)[:2]))
    log.append(Event("x"))
    with pytest.raises(BrokenLog, match="line 4 is missing: the key was replaced"):
        verify(log.path, both)


def test_a_forged_handing_on_is_found(log):
    new, thief = new_signing_key(), new_signing_key()
    fill(log, 2)
    forged = write_line(log.head(), 1.0, Event("rotated", {"key": new.fingerprint}), thief)
    log.path.write_bytes(log.path.read_bytes() + forged + b"\n")
    Log(log.path, new).append(Event("x"))
    with pytest.raises(BrokenLog, match="line 3 was altered"):
        verify(log.path, [KEY.public, new.public])


def test_a_forged_last_line_is_never_signed_over(log):
    """Else the chain and the last signature would not be enough."""
    fill(log, 3)
    lines = log.path.read_bytes().splitlines(keepends=True)
    forged = lines[2].replace(b'"round":3', b'"round":9')
    log.path.write_bytes(b"".join([*lines[:2], forged]))
    with pytest.raises(DeploymentError, match="FK771"):
        log.append(Event("x"))
    assert broken(log).line == 3


def test_ten_thousand_events_are_verified_in_a_second(log):
    head, lines = Head(0, GENESIS), []
    for n in range(10_000):
        event = Event(PLACE, {"run": "20260101-120000-heart_disease-0a1b2c", "round": n, "digest": GENESIS, "size": 99})
        lines.append(write_line(head, 1_700_000_000.123, event, KEY))
        head = Head(n + 1, read_line(lines[-1]).digest)
    log.path.write_bytes(b"".join(line + b"\n" for line in lines))
    seconds = []
    for _ in range(3):
        began = time.process_time()
        assert check(log).head == head
        seconds.append(time.process_time() - began)
    assert min(seconds) < 1.0, seconds


def test_a_line_of_the_longest_kind_fits_and_more_does_not(log):
    log.append(Event("x", {f"f{chr(97 + n)}": "y" * 500 for n in range(26)}))
    with pytest.raises(DeploymentError, match="FK770"):
        log.append(*[Event("x", {"a": "y" * 500})] * 120)
    assert check(log).head.seq == 1
    with pytest.raises(Unreadable):
        read_line(b"")
