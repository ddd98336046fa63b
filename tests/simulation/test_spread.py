import json
import re

import numpy as np
import pytest

import fedkit
from fedkit.config.experiment import TrainingConfig
from fedkit.errors import TrainingError
from fedkit.simulation import forked, spread
from fedkit.simulation.spread import check_workers
from fedkit.training.engine import REFERENCE
from tests.simulation.test_workers import closed_form

# Six steps a run, as everywhere in these tests: noise is calibrated once a process.
SMALL = ["federation.num_rounds=3", "training.local_steps=2"]


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fedkit.simulation.simulate.write_report", lambda path: path)


def run(*words):
    done = fedkit.simulate("heart_disease", overrides=[*SMALL, *words])
    manifest = json.loads((done.path / "manifest.json").read_text())
    return done, manifest["engine"], manifest["notes"]


@pytest.mark.slow
@pytest.mark.parametrize("words", [[], ["privacy=none"], ["training.engine=reference"], ["strategy=krum"]])
def test_a_run_in_two_processes_is_the_same_run(words):
    one, engine, _ = run(*words, "training.workers=1")
    assert (engine["workers"], engine["workers_why"]) == (1, "training.workers=1")
    two, engine, _ = run(*words, "training.workers=2")
    assert (engine["workers"], engine["workers_why"]) == (2, "training.workers=2")
    assert np.array_equal(one.parameters, two.parameters)
    metrics = [[json.loads(line) for line in (r.path / "metrics.jsonl").read_text().splitlines()] for r in (one, two)]
    for each in (line for lines in metrics for line in lines):
        each.pop("seconds")
    assert metrics[0] == metrics[1]
    assert fedkit.replay(two.path).identical


def test_small_work_stays_in_one_process_and_says_what_was_measured():
    _, engine, notes = run()
    assert engine["workers"] == 1
    assert re.fullmatch(r"4 sites take [\d.e+-]+ ms of one core; 2 .*", engine["workers_why"]) or spread.cores() == 1
    assert not [note for note in notes if "process" in note]


def test_work_that_pays_for_processes_gets_them(monkeypatch):
    monkeypatch.setattr(spread, "_START", 0.0)
    monkeypatch.setattr(spread, "_ROUND", 0.0)
    monkeypatch.setattr(spread, "cores", lambda: 2)
    _, engine, _ = run()
    assert engine["workers"] == 2 and "would save" in engine["workers_why"]
    one, _, _ = run("training.workers=1")
    two, _, _ = run()
    assert np.array_equal(one.parameters, two.parameters)


def test_nobody_is_started_after_the_last_round(monkeypatch):
    monkeypatch.setattr(spread, "_START", 0.0)
    monkeypatch.setattr(spread, "_ROUND", 0.0)
    monkeypatch.setattr(spread, "cores", lambda: 2)
    _, engine, _ = run("federation.num_rounds=2", "training.local_steps=3")
    assert engine["workers"] == 1 and engine["workers_why"] == "the run ended before its rounds were measured"


def test_a_first_round_that_takes_long_is_not_finished_in_one_process(monkeypatch):
    monkeypatch.setattr(spread, "_COLD", 0.0)
    monkeypatch.setattr(spread, "_START", 0.0)
    monkeypatch.setattr(spread, "_ROUND", 0.0)
    monkeypatch.setattr(spread, "cores", lambda: 2)
    one, _, _ = run("training.workers=1")
    two, engine, _ = run("federation.num_rounds=3")
    assert engine["workers"] == 2 and np.array_equal(one.parameters, two.parameters)


def test_where_processes_cannot_be_had_the_run_goes_on_and_says_so(monkeypatch):
    one, _, _ = run("training.workers=1")
    monkeypatch.setattr(forked.multiprocessing, "get_all_start_methods", lambda: ["spawn"])
    two, engine, notes = run("training.workers=2")
    assert engine["workers"] == 1 and "cannot fork" in engine["workers_why"]
    assert [note for note in notes if "no worker processes" in note and "same result" in note]
    assert np.array_equal(one.parameters, two.parameters)


def test_more_processes_than_the_memory_budget_holds_are_refused_before_any_work(tmp_path):
    with pytest.raises(TrainingError, match=r"training.workers=3.* hold 2") as caught:
        run("training.workers=3", "training.max_clients_at_once=2")
    assert caught.value.code == "FK418" and "training.workers=2" in caught.value.remedy
    assert not (tmp_path / "runs").exists()
    check_workers(TrainingConfig(0.1, workers="1"), REFERENCE)


def test_processes_share_the_memory_budget():
    engine = closed_form()
    assert engine.among(1) is engine and engine.among(3).at_once == 33 and engine.among(1000).at_once == 1
    assert engine.among(3).train.__self__.at_once == 33
    assert REFERENCE.among(4) is REFERENCE
