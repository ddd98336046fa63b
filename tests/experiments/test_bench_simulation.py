"""The simulation benchmark: every side does the same work, a peer that is missing is said to be, tables tell all."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "experiments" / "benchmarks"
PEERS = ROOT / ".venv-peers" / "bin" / "python"
FAKE = """
import os, sys
sys.path.insert(0, sys.argv[1])
import lines
turns = int(sys.argv[3])
lines.ready()
for number, rounds in enumerate(lines.asked()):
    if number == turns:
        sys.exit("no more")
    lines.answer(rounds, rounds, rounds / float(sys.argv[2]), 1.0)
"""


@pytest.fixture(scope="module")
def bench(benchmark_module):
    return benchmark_module("bench_simulation")


@pytest.fixture(scope="module")
def modules(benchmark_module, bench):
    return {name: benchmark_module(name) for name in ("variants", "environment", "simulation_table", "peers.works")}


@pytest.fixture(scope="module")
def tiny(modules):
    """Every site takes part in every round with one batch of all its rows: no side has anything to draw."""
    work = modules["peers.works"].Work("tiny", sites=4, a_round=4, rounds=3, private=False, rows=8, batch=8)
    assert work.steps == 1
    return work


@pytest.fixture
def fakes(modules, tmp_path):
    script = tmp_path / "fake.py"
    script.write_text(FAKE, encoding="utf-8")

    def make(kind, rounds_a_second, turns=99):
        command = [sys.executable, str(script), str(FOLDER / "peers"), str(rounds_a_second), str(turns)]
        return modules["variants"].Variant(f"the {kind}", kind, command, 1, 2)

    return make


def test_ratios_are_of_the_same_turn_and_starts_count_the_rounds_that_are_left(bench, modules, tiny, fakes, tmp_path):
    sides = [fakes("fedkit", 30), fakes("loop2", 10), fakes("flower", 3)]
    missing = {}
    rows = bench.measure(tiny, sides, 3, tmp_path, missing, together=False)
    assert not missing
    ours, _, flower = rows
    assert [row["samples_s"] for row in rows] == [30 * 32, 10 * 32, 3 * 32]
    assert (ours["ratio_flower"], ours["ratio_loop2"]) == ([10, 10, 10], [3, 3, 3])
    assert "ratio_pfl" not in ours
    assert flower["with_start_s"] == pytest.approx(2 / 3, abs=0.3)  # the rounds after the first, at the timed pace
    assert all(row["turns"] == 3 and row["peak_mb"] > 1 and row["processes"] == 1 for row in rows)
    told = {"results": rows, "missing": {"pfl": "there is none\nmore"}, "peers": {"ray": "2.0"}, "quick": False}
    told |= {"seconds": 60, "others_cores": 1.5, "load_before": 3.0, "machine": {"cores": 2}}
    text = modules["simulation_table"].tables(told)
    assert "| tiny | the fedkit | 960 | **10.0** (10.0 to 10.0) | **3.00** (3.00 to 3.00) |  |" in text
    assert "Missing: pfl. there is none\n" in text
    assert "ray 2.0" in text and "other programs had 1.50 of 2 cores" in text


def test_a_peer_that_fails_is_left_out_and_named_and_the_others_go_on(bench, tiny, fakes, tmp_path, capsys):
    missing = {}
    sides = [fakes("fedkit", 30), fakes("flower", 3, turns=2), fakes("pfl", 10), fakes("loop2", 10, turns=0)]
    rows = bench.measure(tiny, sides, 3, tmp_path, missing, together=True)
    assert [(row["kind"], row["turns"]) for row in rows] == [("fedkit", 3), ("pfl", 3)]
    assert "ratio_flower" not in rows[0] and rows[0]["ratio_pfl"] == [3, 3, 3]
    assert {*missing} == {"flower", "loop2"}
    assert "tiny, the flower: its process ended with status 1" in missing["flower"] and "no more" in missing["flower"]
    assert capsys.readouterr().err.count("left out: ") == 2


def test_a_side_of_fedkit_that_fails_is_no_row_left_out(bench, tiny, fakes, tmp_path):
    with pytest.raises(bench.SideFailed, match="the fedkit"):
        bench.measure(tiny, [fakes("pfl", 10), fakes("fedkit", 30, turns=1)], 3, tmp_path, {}, together=False)


def test_without_their_environment_the_peers_are_missing_and_the_command_is_told(modules, tmp_path):
    found = modules["environment"].look(tmp_path / "bin" / "python")
    assert {*found.missing} == {"flower", "pfl"}
    assert all("make bench-peers" in why for why in found.missing.values())
    work = modules["peers.works"].WORKS["W1"]
    kinds = [side.kind for side in modules["variants"].variants(work, tmp_path, found, quick=False)]
    assert {*kinds} >= {"fedkit", "loop", "loop2"} and not {*kinds} & {"flower", "pfl"}


def test_an_environment_that_lacks_a_package_lacks_its_peer(modules):
    found = modules["environment"].look(Path(sys.executable))
    assert found.versions["torch"]
    assert "pfl" in found.missing["pfl"]


def test_write_refuses_before_any_work_where_a_peer_is_missing(bench, tmp_path, capsys):
    before = {path: path.read_bytes() for path in (FOLDER / "README.md", FOLDER / "simulation.json")}
    with pytest.raises(SystemExit) as stopped:
        bench.main(["--quick", "--write", "--peers", str(tmp_path / "python")])
    said = capsys.readouterr().err
    assert stopped.value.code == 2
    assert "--write needs every peer" in said and "Missing: flower, pfl" in said and "make bench-peers" in said
    assert {path: path.read_bytes() for path in before} == before


def test_the_whole_benchmark_refuses_before_any_part_runs(benchmark_module, monkeypatch, capsys):
    bench = benchmark_module("bench")
    nowhere = bench.look(Path("none"))
    monkeypatch.setattr(bench, "look", lambda: nowhere)
    monkeypatch.setattr(bench.subprocess, "run", lambda *_, **__: pytest.fail("a part ran"))
    for words, said in (["--write", "--quick"], "--write needs every peer"), (["--only", "speed"], "--only speed"):
        with pytest.raises(SystemExit):
            bench.main(words)
        assert said in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--works", "W9"], ["--write", "--works", "W1"]])
def test_a_wrong_choice_is_refused(bench, words):
    with pytest.raises(SystemExit) as stopped:
        bench.main(words)
    assert stopped.value.code == 2


def test_every_private_work_has_both_noises_and_every_peer(modules, tmp_path):
    environment = modules["environment"].Environment(Path("python"), {}, {})
    for name, work in modules["peers.works"].WORKS.items():
        for quick in (False, True):
            sides = modules["variants"].variants(work, tmp_path, environment, quick)
            noises = {side.noise for side in sides if side.kind == "fedkit"}
            assert noises == ({"seeded", "secure"} if work.private else {""}), name
            assert {side.kind for side in sides} >= {"fedkit", "loop2", "flower", "pfl"}
            assert len({side.name for side in sides}) == len(sides)
            assert any(side.engine == "vmap" for side in sides) == (not work.private)


def _distance(command, folder, rounds=3):
    """How far a side's model ends from the first, asked for over its pipe."""
    done = subprocess.run(
        command, input=json.dumps({"rounds": rounds}) + "\n", capture_output=True, text=True, timeout=240, cwd=folder
    )
    ready, answer = (json.loads(line) for line in done.stdout.splitlines())
    assert ready["ready"] > 0
    return answer["moved"]


def _sides(modules, work, tmp_path, peers):
    folder = modules["peers.works"].write(work, tmp_path / work.name)
    return {side.name: side.command for side in modules["variants"].variants(work, folder, peers, quick=False)}


@pytest.mark.slow
def test_every_side_trains_the_same_model_where_nothing_is_drawn(modules, tiny, tmp_path):
    """A wrong learning rate, first model, row, average or number of rounds would tell."""
    peers = modules["environment"].look(tmp_path / "none")
    sides = _sides(modules, tiny, tmp_path, peers)
    assert len(sides) >= 5  # and one of Ray, where fedkit has it
    found = {name: _distance(command, tmp_path) for name, command in sides.items()}
    assert found == pytest.approx(dict.fromkeys(found, found["torch loop"]), rel=1e-5)
    assert found["torch loop"] > 1e-3
    longer = replace(tiny, name="longer")
    assert _distance(_sides(modules, longer, tmp_path, peers)["torch loop"], tmp_path, 4) > 1.1 * found["torch loop"]


@pytest.mark.slow
@pytest.mark.skipif(not PEERS.is_file(), reason="the peers' environment is missing: make bench-peers")
@pytest.mark.timeout(600)
def test_the_peers_train_that_model_too(modules, tiny, tmp_path):
    peers = modules["environment"].look(PEERS)
    if peers.missing:
        pytest.skip(f"{', '.join(peers.missing)} missing: make bench-peers")
    sides = _sides(modules, tiny, tmp_path, peers)
    names = ("torch loop", "Flower run_simulation", "pfl-research")
    found = {name: _distance(sides[name], tmp_path) for name in names}
    assert found == pytest.approx(dict.fromkeys(found, found["torch loop"]), rel=1e-5)


def test_recorded_tables_are_those_of_the_recorded_results(modules):
    told = json.loads((FOLDER / "simulation.json").read_text(encoding="utf-8"))
    assert not told["missing"]
    assert modules["simulation_table"].tables(told) in (FOLDER / "README.md").read_text(encoding="utf-8")


def test_ctrl_c_ends_sides_that_have_not_answered_yet(bench, modules, tiny, tmp_path):
    silent = [sys.executable, "-c", "import time; time.sleep(600)"]
    sides = [modules["variants"].Variant(f"the {kind}", kind, silent, 1, 2) for kind in ("fedkit", "flower")]
    before, begun = signal.signal(signal.SIGINT, signal.default_int_handler), time.monotonic()
    pressed = threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT))
    try:
        pressed.start()
        with pytest.raises(KeyboardInterrupt):
            bench.measure(tiny, sides, 1, tmp_path, {}, together=True)
    finally:
        pressed.cancel()
        signal.signal(signal.SIGINT, before)
    assert time.monotonic() - begun < 60


def test_ctrl_c_waits_for_what_a_benchmark_has_to_end(tmp_path):
    """Of a process group of its own, as a terminal has it: the benchmark needs a second to end what it has started."""
    part = (
        "import pathlib, sys, time\n"
        "try:\n    pathlib.Path('begun').touch(); time.sleep(600)\n"
        "except KeyboardInterrupt:\n    time.sleep(1); pathlib.Path('ended').touch(); sys.exit(130)\n"
    )
    whole = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"sys.path.insert(0, {str(FOLDER)!r}); import bench; bench._status([sys.executable, '-c', {part!r}])"
    )
    with subprocess.Popen(
        [sys.executable, "-c", whole], cwd=tmp_path, start_new_session=True, stderr=subprocess.DEVNULL
    ) as popen:
        end = time.monotonic() + 60
        while not (tmp_path / "begun").exists() and time.monotonic() < end:
            time.sleep(0.05)
        os.killpg(popen.pid, signal.SIGINT)
        assert popen.wait(60)
    assert (tmp_path / "ended").exists()
