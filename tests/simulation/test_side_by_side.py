import os
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from fedkit.simulation import side_by_side as module
from fedkit.simulation.forked import CannotStart
from fedkit.simulation.side_by_side import side_by_side


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("jobs", [1, 2, 9])
def test_every_piece_is_done_once_and_told_of_in_its_order(jobs):
    def do(piece, tell):
        tell(1)
        tell(2)
        return os.getpid(), piece * piece

    news = list(side_by_side([3, 5, 7, 9], do, jobs))
    for piece in (3, 5, 7, 9):
        assert [(n.what, n.value) for n in news if n.piece == piece and n.what != "done"] == [
            ("begun", None),
            ("round", 1),
            ("round", 2),
        ]
    done = [n.value for n in news if n.what == "done"]
    assert sorted(result for _, result in done) == [9, 25, 49, 81]
    used = {pid for pid, _ in done}
    assert 1 <= len(used) <= min(jobs, 4) and os.getpid() not in used and not any(map(alive, used))


def test_a_piece_whose_process_is_killed_is_lost_and_the_others_are_done():
    def do(piece, tell):
        if piece == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return piece

    for jobs in (1, 2):
        news = list(side_by_side([1, 2, 3, 4], do, jobs))
        assert [(n.piece, n.value) for n in news if n.what == "lost"] == [(2, "was killed by signal 9")]
        assert sorted(n.piece for n in news if n.what == "done") == [1, 3, 4]


def test_pieces_that_no_process_is_left_for_are_lost_not_forgotten(monkeypatch):
    real = module.fork

    def once(serve, others):
        monkeypatch.setattr(module, "fork", none)
        return real(serve, others)

    def none(*_):
        raise CannotStart("no more")

    monkeypatch.setattr(module, "fork", once)
    news = list(side_by_side([1, 2, 3], lambda *_: os._exit(4), 1))
    assert [(n.piece, n.value) for n in news if n.what == "lost"] == [
        (1, "ended with status 4"),
        (2, "had no process"),
        (3, "had no process"),
    ]


def test_what_is_left_early_is_interrupted_as_by_ctrl_c_and_waited_for(tmp_path):
    def do(piece, tell):
        try:
            tell(1)
            time.sleep(60)
        except KeyboardInterrupt:
            (tmp_path / f"{piece}-{os.getpid()}").touch()
            raise

    with closing(side_by_side([1, 2, 3], do, 2)) as news:
        told = set()
        while len(told) < 2:
            each = next(news)
            told |= {each.piece} if each.what == "round" else set()
    left = [path.name.split("-") for path in tmp_path.iterdir()]
    assert sorted(piece for piece, _ in left) == ["1", "2"]
    assert not any(alive(int(pid)) for _, pid in left)


SWEEP = """
import sys
from fedkit.cli.main import main
import fedkit.simulation.simulate as module
module.write_report = lambda path: path
sys.exit(main(["sweep", "heart_disease", "privacy=none", "training.local_steps=1", "seed=1,2,3,4",
               "federation.num_rounds=1,3000", "--jobs", "2"]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_ctrl_c_leaves_whole_cells_and_closed_runs(tmp_path):
    """The real command in a process of its own, interrupted once some cells have ended."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    going = subprocess.Popen(
        [sys.executable, "-c", SWEEP], cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True
    )
    until = time.monotonic() + 120
    # A long cell is being run when a short one has ended.
    while not (list(tmp_path.rglob("cell.json")) and _long_ones(tmp_path)):
        assert time.monotonic() < until and going.poll() is None, going.stderr.read()
        time.sleep(0.05)
    going.send_signal(signal.SIGINT)
    _, told = going.communicate(timeout=120)
    assert going.returncode == 130 and "the same command goes on" in told
    manifests = [path.read_text() for path in tmp_path.rglob("manifest.json")]
    assert not [text for text in manifests if '"outcome": "running"' in text]
    assert [text for text in manifests if '"outcome": "interrupted"' in text]
    done = list(tmp_path.rglob("cell.json"))
    assert done and all((path.parent / path.parent.name).name for path in done)


def _long_ones(folder: Path):
    return [path for path in folder.rglob("metrics.jsonl") if len(path.read_text().splitlines()) > 20]
