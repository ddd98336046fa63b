"""What a coordinator makes a site write down has a bound, or a rate where nothing may be cut short."""

import json
import logging
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
from fedkit_client import logs, usage
from fedkit_client.patience import Patience
from fedkit_client.usage import note_usage


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def test_refusals_and_repeats_are_taken_at_a_rate_and_new_work_is_not_held_up():
    clock = Clock()
    patience = Patience(most=3, each=5.0, clock=clock)
    for number in range(1000):
        patience.count("train", "r", number, refused=False)
    assert patience.pause() == 0.0
    for _ in range(3):
        patience.count("train", "r", 999, refused=False)
    assert patience.pause() == 0.0
    patience.count("train", "r", 1000, refused=True)
    assert patience.pause() == 5.0 and patience.first() and not patience.first()
    clock.now += 5.0
    assert patience.pause() == 0.0
    clock.now += 3600.0
    assert patience.pause() == 0.0
    for _ in range(4):
        patience.count("end", "r", 0, refused=True)
    assert patience.pause() > 0.0 and patience.first()


def test_what_patience_remembers_has_a_bound():
    patience = Patience()
    for number in range(5000):
        patience.count("train", "r", number, refused=False)
    assert len(patience._known) == 1000


def test_the_file_of_usage_has_a_bound(tmp_path, monkeypatch):
    monkeypatch.setattr(usage, "MOST_BYTES", 2000)
    path, done = tmp_path / "usage.jsonl", SimpleNamespace(header=None, usage=None)
    for number in range(200):
        note_usage(path, "train", "r", number, done, 0.1)
    lines = [*path.with_name("usage.jsonl.1").read_text().splitlines(), *path.read_text().splitlines()]
    numbers = [json.loads(line)["round"] for line in lines]
    assert numbers == list(range(numbers[0], 200)) and len(numbers) > 5
    assert sum(each.stat().st_size for each in tmp_path.iterdir()) < 4500


@pytest.fixture
def log(tmp_path, monkeypatch):
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    monkeypatch.setattr(logs, "_LARGE", 20_000)
    logs.configure(tmp_path / "client.log")
    yield tmp_path / "client.log"
    for handler in root.handlers:
        if isinstance(handler, logs._Bounded):
            handler.close()
    root.handlers[:] = before
    root.setLevel(level)
    logging.captureWarnings(False)


def test_the_log_has_a_bound_while_the_site_runs(log):
    for number in range(2000):
        logging.getLogger("fedkit.test").warning("line %d %s", number, "x" * 100)
    files = sorted(log.parent.iterdir())
    assert [each.name for each in files] == ["client.log", "client.log.1"]
    assert sum(each.stat().st_size for each in files) < 2 * 20_400
    assert all(each.stat().st_mode & 0o077 == 0 for each in files)
    text = files[1].read_text() + files[0].read_text()
    assert [int(line.split(" line ")[1].split()[0]) for line in text.splitlines()][-1] == 1999
    assert text.count("line") > 100


def test_a_process_that_holds_the_log_open_writes_on_into_it(log):
    child = subprocess.Popen(
        [sys.executable, "-c", "import sys\nfor line in sys.stdin: print(line, end='', flush=True)"],
        stdin=subprocess.PIPE, stdout=os.open(log, os.O_WRONLY | os.O_APPEND), text=True,
    )  # fmt: skip
    for number in range(300):
        logging.getLogger("fedkit.test").warning("line %d %s", number, "x" * 100)
    child.stdin.write("by the child\n")
    child.stdin.close()
    assert child.wait(10) == 0
    assert "by the child" in log.read_text()
