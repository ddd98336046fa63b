import json
import os
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedkit.errors import DeploymentError, FederationError
from fedkit.governance.pause import MOST_REASON, PAUSED, Pause, PauseFile

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
)
NEAR = st.fixed_dictionaries({"since": JSON, "reason": JSON})


@pytest.fixture
def file(tmp_path):
    return PauseFile(tmp_path / "paused.json")


def test_a_pause_is_a_private_file_that_says_since_when_and_why(file):
    assert not file.there() and file.read() is None and file.refusal() == ""
    file.refuse()
    file.put("the board has questions", 1700000000.25)
    assert file.read() == Pause(1700000000.25, "the board has questions")
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    assert [path.name for path in file.path.parent.iterdir()] == ["paused.json"]
    with pytest.raises(FederationError, match="FK580"):
        file.refuse()
    assert file.take_away() == Pause(1700000000.25, "the board has questions")
    assert not file.there() and file.take_away() is None


def test_a_second_pause_keeps_the_time_of_the_first_and_what_it_does_not_say(file):
    file.put("first", 100)
    assert file.put("", 200) == Pause(100.0, "first") == file.read()
    assert file.put("second", 300) == Pause(100.0, "second") == file.read()


@given(
    st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()) | NEAR.map(json.dumps).map(str.encode)
)
def test_whatever_the_file_holds_pauses(tmp_path_factory, content):
    file = PauseFile(tmp_path_factory.mktemp("folder") / "paused.json")
    file.path.write_bytes(content)
    assert file.there() and file.refusal() == PAUSED
    found = file.read()
    assert found is not None
    if not found.problem:
        # Read only where it is exactly what a pause writes, or would be.
        values = json.loads(content)
        assert set(values) == {"since", "reason"} and found == Pause(float(values["since"]), values["reason"])
    json.dumps({"since": found.since}, allow_nan=False)
    with pytest.raises(FederationError), file.release("anything"):
        raise AssertionError("it was let out")
    assert file.take_away() == found and not file.there()


def _link_to_nothing(path):
    path.symlink_to("nowhere")


def _link_to_a_pause(path):
    path.with_name("other").write_text('{"since": 1, "reason": ""}')
    path.symlink_to("other")


def _deep(path):
    path.write_text("[" * 60_000)


def _unreadable(path):
    path.write_text('{"since": 1, "reason": ""}')
    path.chmod(0)


ODD = {
    "empty": lambda path: path.touch(),
    "a link to nothing": _link_to_nothing,
    "a link to a pause": _link_to_a_pause,
    "a pipe": os.mkfifo,
    "too large": lambda path: path.write_text('{"since": 1, "reason": ""}' + " " * 70_000),
    "nested": _deep,
    "a long reason": lambda path: path.write_text(json.dumps({"since": 1, "reason": "x" * (MOST_REASON + 1)})),
    "a time that cannot be": lambda path: path.write_text('{"since": 1e999, "reason": ""}'),
    "an endless number": lambda path: path.write_text('{"since": ' + "9" * 60_000 + ', "reason": ""}'),
    "a time that is a flag": lambda path: path.write_text('{"since": true, "reason": ""}'),
    "one key more": lambda path: path.write_text('{"since": 1, "reason": "", "until": 2}'),
}


@pytest.mark.parametrize("make", ODD.values(), ids=ODD)
def test_an_odd_file_pauses_without_holding_anybody_up_and_can_be_taken_away(file, make):
    make(file.path)
    assert file.there()
    found = file.read()
    assert found is not None and found.since is None and "pauses all the same" in found.problem
    assert file.take_away() == found and not file.there()
    assert not list(file.path.parent.glob("paused*"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_cannot_be_read_pauses(file):
    _unreadable(file.path)
    assert file.there() and file.read().problem


def test_a_folder_in_that_place_pauses_and_is_not_removed(file):
    file.path.mkdir()
    assert file.there() and file.read().problem
    with pytest.raises(DeploymentError, match=r"FK700.*cannot be removed"):
        file.take_away()
    with pytest.raises(DeploymentError, match="FK700"):
        file.put("", 1.0)
    assert file.there()


def test_a_folder_that_is_gone_or_no_folder_lets_nothing_out(tmp_path):
    (tmp_path / "a file").touch()
    for file in (PauseFile(tmp_path / "gone" / "paused.json"), PauseFile(tmp_path / "a file" / "paused.json")):
        assert file.there() and file.read().problem
        with pytest.raises(FederationError, match="FK580"), file.release("x"):
            raise AssertionError("it was let out")
        assert not file.settled(0.1)


def test_the_code_of_the_pause_alone_leaves_a_paused_site(file):
    file.put("", 1.0)
    with file.release(PAUSED):
        pass
    for reply in ("FK560", "FK500", {"a": 1}):
        with pytest.raises(FederationError, match="FK580"), file.release(reply):
            raise AssertionError("it was let out")


def test_a_pause_waits_for_what_is_being_sent_and_nothing_begins_after_it(file):
    going, let_go, over = threading.Event(), threading.Event(), threading.Event()

    def send():
        with file.release("part 1"):
            going.set()
            let_go.wait(20)
        over.set()

    thread = threading.Thread(target=send)
    thread.start()
    assert going.wait(20)
    file.put("", 1.0)
    assert not file.settled(0.1) and not over.is_set()
    with pytest.raises(FederationError), file.release("part 2"):
        raise AssertionError("it was let out")
    let_go.set()
    assert file.settled(20)
    # Whoever was sending has let go before: nothing of it comes after.
    thread.join(20)
    assert over.is_set()


SENDER = """
import sys, time
from pathlib import Path
from fedkit.errors import FederationError
from fedkit.governance.pause import PauseFile
file, sent = PauseFile(Path(sys.argv[1])), 0
print("ready", flush=True)
while True:
    try:
        with file.release("part"):
            Path(sys.argv[2]).write_text(str(time.monotonic_ns()))
    except FederationError as error:
        print(error.code, flush=True)
        break
"""


def test_another_process_sends_nothing_after_a_pause_has_settled(file, tmp_path):
    for number in range(5):
        last = tmp_path / f"last-{number}"
        words = [sys.executable, "-c", SENDER, str(file.path), str(last)]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2])])}
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment) as sender:
            assert sender.stdout.readline() == "ready\n"
            while not last.exists():
                time.sleep(0.001)
            file.put("", time.time())
            assert file.settled(10)
            settled = time.monotonic_ns()
            assert sender.stdout.readline() == "FK580\n"
            assert sender.wait(20) == 0
        assert int(last.read_text()) < settled
        file.take_away()


def test_a_full_disk_keeps_nobody_from_pausing(file):
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        made = file.put("the board has questions", 1700000000.0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "paused all the same" in made.problem and file.there() and file.refusal() == PAUSED
    assert [path.name for path in file.path.parent.iterdir()] == ["paused.json"]
    assert file.settled(1)
    # With room again the words can be added, and the pause be ended.
    assert file.put("now with a reason", 1700000001.0).reason == "now with a reason"
    file.take_away()
    assert not file.there()


def test_a_pause_that_is_there_stays_as_it_is_on_a_full_disk(file):
    import resource

    first = file.put("first", 100)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        assert file.put("second", 200) == first
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert file.read() == first
