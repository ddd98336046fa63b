"""Sides of a benchmark: what is no answer is one clear error within a time, and nothing is left running."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

LINES = str(Path(__file__).parents[2] / "experiments" / "benchmarks" / "peers")
FAKE = """
import os, subprocess, sys, time
sys.path.insert(0, sys.argv[1])
import lines
lines.take()
mode = sys.argv[2]
print("a library says hello")
if mode == "dies at once":
    raise SystemExit("no such library")
if mode == "says hello":
    os.write(lines._PIPE[0].fileno(), b"hello\\n")
lines.ready()
for rounds in lines.asked():
    if mode == "dies":
        print("out of memory", file=sys.stderr)
        raise SystemExit(3)
    if mode == "is killed":
        os.kill(os.getpid(), 9)
    if mode == "rubbish":
        lines._say(["rounds", rounds])
    elif mode == "text":
        os.write(lines._PIPE[0].fileno(), b"Round 1: loss nan\\n")
    elif mode == "hangs":
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
        print(child.pid, file=sys.stderr, flush=True)
        time.sleep(600)
    elif mode == "trains nothing":
        lines.answer(rounds, rounds, 0.5, 0.0)
    elif mode == "diverges":
        lines.answer(rounds, rounds, 0.5, float("nan"))
    elif mode == "does less":
        lines.answer(rounds - 1, rounds - 1, 0.5, 1.0)
    else:
        lines.answer(rounds, rounds, 0.5 * rounds, 1.0, prepared=0.25)
"""


@pytest.fixture(scope="module")
def sides(benchmark_module):
    return benchmark_module("sides")


@pytest.fixture
def start(sides, tmp_path):
    script, up = tmp_path / "fake.py", []
    script.write_text(FAKE, encoding="utf-8")

    def begin(mode):
        side = sides.Side.start("the peer", [sys.executable, str(script), LINES, mode], tmp_path / f"{len(up)}.log")
        up.append(side)
        return side

    yield begin
    for side in up:
        side.end()
        assert side.popen.returncode is not None


def test_a_side_answers_turn_after_turn_and_its_prints_are_no_answers(start):
    side = start("works")
    side.ready(60)
    assert 0 < side.imported < 60
    for rounds in (1, 4):
        turn = side.ask(rounds, 60)
        assert (turn.told["rounds"], turn.told["seconds"], turn.told["prepared"]) == (rounds, 0.5 * rounds, 0.25)
        assert turn.wall > 0
    assert side.peak > 1e6
    assert "hello" in side.log.read_text(encoding="utf-8")
    assert side.processes == 1


@pytest.mark.parametrize(
    ("mode", "said"),
    [
        ("dies", r"the peer: its process ended with status 3; the end of its log:\n(.*\n)*out of memory"),
        ("is killed", r"the peer: its process was killed by signal 9"),
        ("rubbish", r"the peer: it said '\[\"rounds\", 2\]', which is no answer"),
        ("text", r"the peer: it said 'Round 1: loss nan', which is no answer"),
        ("trains nothing", r"the peer: it answered .* seconds and moved must be above 0"),
        ("diverges", r"the peer: it answered .* seconds and moved must be above 0"),
        ("does less", r"the peer: it answered .* where 2 rounds were asked for"),
    ],
)
def test_what_is_no_answer_is_one_error_that_names_the_side(sides, start, mode, said):
    side = start(mode)
    side.ready(60)
    with pytest.raises(sides.SideFailed, match=said):
        side.ask(2, 60)


@pytest.mark.parametrize(
    ("mode", "said"), [("dies at once", "ended with status 1"), ("says hello", "'hello', which is no answer")]
)
def test_a_side_that_does_not_come_up_is_told_before_any_turn(sides, start, mode, said):
    with pytest.raises(sides.SideFailed, match=said):
        start(mode).ready(60)


def test_a_side_that_hangs_is_told_in_time_and_is_ended_with_all_that_it_started(sides, start):
    side = start("hangs")
    side.ready(60)
    begun = time.monotonic()
    with pytest.raises(sides.SideFailed, match=r"a turn of 2 rounds was not over after 1\.5 s"):
        side.ask(2, 1.5)
    assert time.monotonic() - begun < 30
    child = int(side.log.read_text(encoding="utf-8").split()[-1])
    os.kill(child, 0)  # it is there, in a session of its own
    side.end(0.1)
    end = time.monotonic() + 30
    while Path(f"/proc/{child}").exists() and "Z" not in Path(f"/proc/{child}/stat").read_text().rpartition(")")[2]:
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_side_that_has_gone_is_told_when_it_is_asked(sides, start):
    side = start("works")
    side.ready(60)
    side.popen.kill()
    side.popen.wait()
    with pytest.raises(sides.SideFailed, match=r"has closed its pipe|was killed by signal 9"):
        side.ask(1, 60)
