import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from torch import nn

from fedkit.errors import TrainingError
from fedkit.simulation import forked, worker, workers
from fedkit.simulation.forked import CannotStart
from fedkit.simulation.worker import Work
from fedkit.simulation.workers import Here, Workers, cost, split
from fedkit.training.cohort import Cohort
from fedkit.training.engine import REFERENCE, Engine
from fedkit.training.stack import linear_stack
from tests.training.builders import BINARY, local_plan, privacy_plan, round_plan, site

MODEL = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 1))
SIZE = sum(p.numel() for p in MODEL.parameters())
LAYERS = linear_stack(MODEL, (5,), 1)
NAMES = [f"s{k}" for k in range(7)]
SITES = {name: site(name, 20 + 9 * k, k) for k, name in enumerate(NAMES)}


def closed_form():
    cohort = Cohort(LAYERS, 100)
    return Engine("closed_form", "", cohort.train, cohort.check, 100, 100, cohort)


def plans(kind):
    if kind == "plain":
        return {name: local_plan(2 + k) for k, name in enumerate(NAMES)}
    noise = {"private": "seeded", "secure": "secure"}[kind]
    return {
        name: local_plan(3 + k % 2, privacy=privacy_plan(name, steps=3 + k % 2, rounds=9, noise=noise))
        for k, name in enumerate(NAMES)
    }


def work(engine=None, kind="private", **changes):
    return Work(engine or closed_form(), MODEL, BINARY, SITES, plans(kind), SIZE, **changes)


def deltas(answers):
    """Site to its update, copied at once, as the arrays hold only until the next is asked for."""
    found = {}
    for update, _ in answers:
        assert update.site not in found
        found[update.site] = (update.delta.copy(), update.weight, dict(update.metrics))
    return found


def here(made, plan):
    return deltas((update, {}) for update in made.train(NAMES, plan, {})[0])


def same(left, right):
    assert left.keys() == right.keys()
    for name, (delta, weight, metrics) in left.items():
        assert np.array_equal(delta, right[name][0]) and (weight, metrics) == right[name][1:]


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def pids(started):
    return [each.forked.process.pid for each in started._workers]


@pytest.fixture
def start():
    started = []

    def make(*arguments, **options):
        started.append(Workers(*arguments, **options))
        return started[-1]

    yield make
    for each in started:
        each.stop()


@pytest.mark.slow
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("kind", ["plain", "private"])
@pytest.mark.parametrize("engine", [closed_form, lambda: REFERENCE], ids=["closed_form", "reference"])
@pytest.mark.parametrize("count", [1, 2, 3, 9])
def test_updates_are_the_same_bits_whatever_the_number_of_processes(engine, kind, count, own, start):
    made = work(engine(), kind)
    one = start(made, count, here=own)
    assert len(one) == count and len(pids(one)) == count - (own and count > 1)
    for number in (1, 2):
        plan = round_plan(MODEL, made.plans, number=number, mu=0.1)
        same(here(made, plan), deltas(one.train(NAMES, plan, {})))
    # The round's model is the one that was sent with it.
    plan = round_plan(MODEL, made.plans, parameters=np.full(SIZE, 0.25, np.float32))
    same(here(made, plan), deltas(one.train(NAMES[2:5], plan, {})) | _rest(made, plan))


def _rest(made, plan):
    found = here(made, plan)
    return {name: found[name] for name in NAMES if name not in NAMES[2:5]}


def test_more_updates_than_shared_memory_holds_come_in_pieces(start, monkeypatch):
    monkeypatch.setattr(worker, "PIECE_BYTES", 2 * 4 * SIZE + 1)
    made = work()
    assert made.piece == 2
    plan = round_plan(MODEL, made.plans)
    same(here(made, plan), deltas(start(made, 2).train(NAMES, plan, {})))


@pytest.mark.parametrize("own", [False, True])
def test_processes_draw_no_secure_noise_in_common(own, start):
    """A fork copies generators; two sites with the same records must not get the same noise from two copies."""
    twins = {name: site("s0", 30, 0) for name in NAMES}
    twins = {name: type(each)(name, each.train, each.test, 30, True) for name, each in twins.items()}
    made = Work(closed_form(), MODEL, BINARY, twins, plans("secure"), SIZE)
    started = start(made, 2, here=own)
    found = []
    for number in (1, 1, 2):
        plan = round_plan(MODEL, made.plans, number=number)
        found += [delta for delta, _, _ in deltas(started.train(NAMES, plan, {})).values()]
    assert len({delta.tobytes() for delta in found}) == 3 * len(NAMES)


@pytest.mark.parametrize("own", [False, True])
def test_what_a_site_keeps_goes_with_it_and_comes_back(own, start):
    made = work(kind="plain")
    state = {name: {"kept": np.full(3, k, np.float32)} for k, name in enumerate(NAMES)}
    answers = start(made, 2, here=own).train(NAMES, round_plan(MODEL, made.plans), state)
    after = {update.site: kept for update, kept in answers}
    assert {name: kept["kept"].tolist() for name, kept in after.items()} == {
        name: [k] * 3 for k, name in enumerate(NAMES)
    }


def killing(folder, times, at="s3"):
    """An engine whose process is killed when it comes to a site, so many times; a file counts them."""
    inner = closed_form()

    def train(model, task, sites, plan, state):
        if at in [each.name for each in sites] and len(list(folder.iterdir())) < times:
            (folder / str(os.getpid())).touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return inner.train(model, task, sites, plan, state)

    return Engine("killed", "", train, inner.check)


@pytest.mark.parametrize("piece", [1, 100])
def test_a_killed_worker_is_replaced_and_no_update_counts_twice(piece, start, tmp_path, monkeypatch):
    monkeypatch.setattr(worker, "PIECE_BYTES", piece * 4 * SIZE)
    notes = []
    made = work(killing(tmp_path, 1))
    started = start(made, 2, notes.append)
    plan = round_plan(MODEL, made.plans, number=2)
    expected = here(work(), plan)
    before = pids(started)
    same(expected, deltas(started.train(NAMES, plan, {})))
    assert len(list(tmp_path.iterdir())) == 1 and len(notes) == 1
    assert notes[0].startswith("round 2: a worker process was killed by signal 9 and was replaced; ")
    assert "s3" in notes[0] or "others" in notes[0]
    # The next round has as many processes as the first, and the dead one is gone.
    same(here(work(), round_plan(MODEL, made.plans)), deltas(started.train(NAMES, round_plan(MODEL, made.plans), {})))
    assert len(set(pids(started)) - set(before)) == 1 and sum(map(alive, before)) == 1


def test_where_this_process_trains_too_a_killed_worker_is_replaced_and_an_error_here_ends_all(start, tmp_path):
    notes = []
    started = start(work(killing(tmp_path, 1, at="s6")), 2, notes.append, here=True)
    plan = round_plan(MODEL, plans("private"))
    # The first names are this process' own.
    same(here(work(), plan), deltas(started.train(NAMES, plan, {})))
    assert len(notes) == 1 and len(list(tmp_path.iterdir())) == 1 and len(started) == 2

    parent = os.getpid()

    def train(model, task, sites, plan, state):
        if os.getpid() == parent:
            raise TrainingError("not here", code="FK405")
        return closed_form().train(model, task, sites, plan, state)

    broken = start(work(Engine("broken", "", train, train)), 2, here=True)
    before = pids(broken)
    with pytest.raises(TrainingError, match="not here"):
        deltas(broken.train(NAMES, plan, {}))
    assert not any(map(alive, before))


@pytest.mark.parametrize("others", [1, 3])
@pytest.mark.parametrize("speed", [0.5, 1.0, 3.0])
def test_this_process_takes_so_much_that_it_is_done_when_the_others_are(speed, others):
    """Workers that are as many times as fast at a site."""
    names = [f"s{k}" for k in range(40)]
    made, plan = Here(None), local_plan()

    def learn(disturbed=1.0):
        mine, rest = made.part(names, dict.fromkeys(names, plan), others)
        assert mine + rest == names
        made._took = len(mine) * 1e-3 * disturbed
        made.learn(len(rest) * 1e-3 / speed, len(rest) * cost(plan))
        return len(mine), len(rest)

    for _ in range(20):
        mine, rest = learn()
    # Within the site that cannot be shared.
    assert abs(mine - rest / others / speed) <= 1 + 1 / speed / others
    learn(disturbed=1000.0)
    assert 0.75 * mine - 1 <= learn()[0] <= mine


def test_a_share_stays_within_the_round_whatever_was_measured():
    names, plan = ["a", "b", "c"], local_plan()
    for took in (1e-9, 1e9):
        made = Here(None)
        for _ in range(50):
            mine, others = made.part(names, dict.fromkeys(names, plan), 1)
            made._took = took
            made.learn(1.0, len(others) * cost(plan))
            assert mine + others == names and mine
    assert made.part(["a"], {"a": plan}, 1) == (["a"], [])
    made.learn(0.0, 0.0)
    assert made.part(names, dict.fromkeys(names, plan), 1) == (["a"], ["b", "c"])


def test_large_updates_are_trained_in_workers_alone(start, monkeypatch):
    monkeypatch.setattr(worker, "PIECE_BYTES", 2 * 4 * SIZE + 1)
    assert len(pids(start(work(), 2, here=True))) == 2


def test_a_worker_killed_between_rounds_is_replaced_too(start):
    notes = []
    made = work()
    started = start(made, 2, notes.append)
    os.kill(pids(started)[1], signal.SIGKILL)
    plan = round_plan(MODEL, made.plans)
    same(here(made, plan), deltas(started.train(NAMES, plan, {})))
    assert len(notes) == 1


def test_workers_that_are_killed_in_turn_end_the_round_with_one_error(start, tmp_path):
    started = start(work(killing(tmp_path, 9)), 2)
    before = pids(started)
    with pytest.raises(
        TrainingError, match=r"2 worker processes in turn ended in round 1 .* was killed by signal 9"
    ) as caught:
        deltas(started.train(NAMES, round_plan(MODEL, plans("private")), {}))
    assert caught.value.code == "FK421" and "training.workers=1" in caught.value.remedy
    assert len(list(tmp_path.iterdir())) == 2
    assert not any(map(alive, before)) and len(started) == 0


def hanging(folder, times, wait):
    """An engine that waits when it comes to s3, so many times."""
    inner = closed_form()

    def train(model, task, sites, plan, state):
        if "s3" in [each.name for each in sites] and len(list(folder.iterdir())) < times:
            (folder / str(os.getpid())).touch()
            wait()
        return inner.train(model, task, sites, plan, state)

    return Engine("hanging", "", train, inner.check)


def sleep():
    time.sleep(60)


def spin(seconds=60.0):
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass


@pytest.mark.parametrize("wait", [sleep, spin])
def test_a_worker_that_hangs_is_replaced_and_no_update_counts_twice(wait, start, tmp_path):
    notes = []
    started = start(work(hanging(tmp_path, 1, wait)), 2, notes.append, patience=0.5)
    plan, before = round_plan(MODEL, plans("private")), pids(started)
    same(here(work(), plan), deltas(started.train(NAMES, plan, {})))
    assert len(notes) == 1 and "a worker process said nothing for" in notes[0] and "was replaced" in notes[0]
    assert sum(map(alive, before)) == 1


def test_a_worker_that_hangs_again_ends_the_round_with_one_error(start, tmp_path):
    started = start(work(hanging(tmp_path, 9, sleep)), 2, patience=0.3)
    before = pids(started)
    with pytest.raises(TrainingError, match=r"2 worker processes in turn .* said nothing for") as caught:
        deltas(started.train(NAMES, round_plan(MODEL, plans("private")), {}))
    assert caught.value.code == "FK421" and not any(map(alive, before))


def test_a_worker_that_is_busy_for_longer_than_the_patience_is_left_alone(start, tmp_path):
    notes = []
    made = work(hanging(tmp_path, 1, lambda: spin(1.0)))
    started = start(made, 2, notes.append, patience=0.9)
    plan = round_plan(MODEL, plans("private"))
    same(here(work(), plan), deltas(started.train(NAMES, plan, {})))
    assert not notes


def failing(error):
    def train(model, task, sites, plan, state):
        raise error

    return Engine("failing", "", train, train)


class _Locked(Exception):
    def __init__(self):
        super().__init__("it cannot travel")
        self.lock = threading.Lock()


def test_an_error_of_a_worker_is_raised_as_it_was(start):
    error = TrainingError("not finite at s1", code="FK405", remedy="lower training.learning_rate")
    started = start(work(failing(error)), 2)
    with pytest.raises(TrainingError) as caught:
        deltas(started.train(NAMES, round_plan(MODEL, plans("private")), {}))
    assert (str(caught.value), caught.value.code) == (str(error), "FK405")
    assert len(started) == 0
    with pytest.raises(TrainingError, match="it cannot travel") as caught:
        deltas(start(work(failing(_Locked())), 2).train(NAMES, round_plan(MODEL, plans("private")), {}))
    assert caught.value.code == "FK420"


def test_a_round_that_is_left_stops_its_processes(start):
    started = start(work(), 2)
    before = pids(started)
    answers = started.train(NAMES, round_plan(MODEL, plans("private")), {})
    next(answers)
    with pytest.raises(KeyboardInterrupt):
        answers.throw(KeyboardInterrupt)
    assert not any(map(alive, before))


def test_where_no_process_can_be_had_it_is_said(monkeypatch):
    monkeypatch.setattr(forked.multiprocessing, "get_all_start_methods", lambda: ["spawn"])
    with pytest.raises(CannotStart, match="cannot fork"):
        Workers(work(), 2)
    monkeypatch.undo()

    def none(*_):
        raise BlockingIOError("Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", none)
    with pytest.raises(CannotStart, match="Resource temporarily"):
        Workers(work(), 2)


def test_a_worker_that_dies_as_it_starts_is_said(monkeypatch):
    monkeypatch.setattr(workers, "serve", lambda *_, **__: os._exit(3))
    with pytest.raises(CannotStart, match="ended with status 3 as it started"):
        Workers(work(), 2)


SCRIPT = """
import os, signal, sys, torch
torch.set_num_threads(2)
torch.ones(600, 600) @ torch.ones(600, 600)  # threads of torch's own, which a fork does not copy
from tests.simulation.test_workers import NAMES, MODEL, deltas, here, pids, plans, round_plan, same, work
from fedkit.simulation.workers import Here, Workers
from fedkit.training.engine import REFERENCE
for engine in (None, REFERENCE):
    started = Workers(work(engine), 2)
    plan = round_plan(MODEL, plans("private"))
    same(here(work(engine), plan), deltas(started.train(NAMES, plan, {})))
    print(*pids(started), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_workers_of_a_process_with_threads_train_and_end_with_it():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=300)
    assert done.returncode == -signal.SIGKILL, done.stderr
    found = [int(pid) for pid in done.stdout.split()]
    assert len(found) == 4
    until = time.monotonic() + 30
    while any(map(alive, found)):
        assert time.monotonic() < until, "workers outlive the process that started them"
        time.sleep(0.05)


def test_parts_hold_every_name_once_and_are_of_about_equal_work():
    draw = np.random.default_rng(3)
    for count in (1, 2, 3, 8):
        for size in (1, 2, 5, 40):
            made = {f"n{k:02d}": local_plan(int(draw.integers(1, 50))) for k in range(size)}
            parts = split(list(made), made, count)
            assert sorted(name for part in parts for name in part) == list(made)
            assert len(parts) == min(count, size) and all(part == sorted(part) for part in parts)
            loads = [sum(cost(made[name]) for name in part) for part in parts]
            # Greedy by size is within 4/3 of the best split, which is no better than the mean or the largest.
            best = max(sum(loads) / count, max(cost(plan) for plan in made.values()))
            assert max(loads) <= 4 / 3 * best + max(cost(plan) for plan in made.values()) / 3
