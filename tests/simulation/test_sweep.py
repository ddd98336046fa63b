import json

import pytest

from fedkit.errors import ConfigError
from fedkit.simulation.sweep import sweep

# Six steps a run, as everywhere in these tests: noise is calibrated once a process.
SMALL = ["federation.num_rounds=1", "training.local_steps=6"]


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # Nobody looks at the pages of these runs.
    monkeypatch.setattr("fedkit.simulation.simulate.write_report", lambda path: path)


def test_a_sweep_runs_every_cell_once_and_keeps_finished_ones(monkeypatch):
    words = [*SMALL, "privacy.epsilon=1,3", "strategy=fedavg,fedadam"]
    first = sweep("heart_disease", words)
    assert [cell["status"] for cell in first.cells] == ["ran"] * 4
    assert {tuple(cell["overrides"].items()) for cell in first.cells} == {
        (("privacy.epsilon", e), ("strategy", s)) for e in ("1", "3") for s in ("fedavg", "fedadam")
    }
    monkeypatch.setattr("fedkit.simulation.sweep.simulate", None)
    second = sweep("heart_disease", words)
    assert [cell["status"] for cell in second.cells] == ["kept"] * 4
    assert [cell["result"] for cell in second.cells] == [cell["result"] for cell in first.cells]
    assert json.loads((second.path / "sweep.json").read_text())
    assert (second.path / "sweep.html").is_file()


def test_an_interrupted_sweep_goes_on_where_it_stopped():
    words = [*SMALL, "privacy=none", "seed=1,2,3"]

    def stop(index, total, cell):
        if index == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep("heart_disease", words, on_cell=stop)
    again = sweep("heart_disease", words)
    assert [cell["status"] for cell in again.cells] == ["kept", "kept", "ran"]


def test_a_bad_cell_is_refused_before_any_cell_runs(tmp_path):
    with pytest.raises(ConfigError, match="epsilon"):
        sweep("heart_disease", [*SMALL, "privacy.epsilon=1,-1"])
    assert not (tmp_path / "runs").exists()


def test_a_cell_that_fails_is_named_and_the_others_go_on():
    done = sweep("heart_disease", [*SMALL, "privacy=none", "federation.min_sites=1,9"])
    assert [cell["status"] for cell in done.cells] == ["ran", "failed"]
    assert "min_sites=9" in done.cells[1]["error"]
    again = sweep("heart_disease", [*SMALL, "privacy=none", "federation.min_sites=1,9"])
    assert [cell["status"] for cell in again.cells] == ["kept", "failed"]


@pytest.mark.slow
@pytest.mark.parametrize("content", ["", "{", "[]", '{"result": {}}'])
def test_a_torn_cell_is_run_again(content):
    words = [*SMALL, "privacy=none", "seed=1,2"]
    first = sweep("heart_disease", words)
    next(first.path.glob("*/cell.json")).write_text(content)
    assert sorted(cell["status"] for cell in sweep("heart_disease", words).cells) == ["kept", "ran"]


def test_a_cell_of_another_version_is_run_again(monkeypatch):
    words = [*SMALL, "privacy=none", "seed=1,2"]
    sweep("heart_disease", words)
    monkeypatch.setattr("fedkit.__version__", "9.9.9")
    assert [cell["status"] for cell in sweep("heart_disease", words).cells] == ["ran", "ran"]
