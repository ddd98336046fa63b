import json
import os
import signal

import pytest

from fedkit.errors import ConfigError
from fedkit.reporting.sweep_progress import SweepProgress
from fedkit.simulation import shared_data
from fedkit.simulation import sweep as module
from fedkit.simulation.sweep import sweep

# Six steps a run, as everywhere in these tests: noise is calibrated once a process.
SMALL = ["federation.num_rounds=1", "training.local_steps=6"]


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # Nobody looks at the pages of these runs.
    monkeypatch.setattr("fedkit.simulation.simulate.write_report", lambda path: path)


@pytest.mark.slow
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
        sweep("heart_disease", words, on_cell=stop, jobs=1)
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


def bare(cell):
    """A cell without what two runs of one config never share: its folder and its times."""
    return json.loads(json.dumps(cell), object_hook=lambda found: {
        key: value for key, value in found.items() if key not in ("run_dir", "seconds", "started", "status")
    })  # fmt: skip


@pytest.mark.slow
def test_cells_side_by_side_give_what_cells_in_turn_give():
    words = [*SMALL, "privacy.epsilon=1,3", "seed=1,2"]
    both = []
    for jobs in (1, 2):
        seen: list[int] = []
        ended = SweepProgress(ended=lambda index, *_, seen=seen: seen.append(index))
        done = sweep("heart_disease", [*words, f"runs_dir=runs{jobs}"], jobs=jobs, progress=ended)
        assert sorted(seen) == [0, 1, 2, 3] and [cell["status"] for cell in done.cells] == ["ran"] * 4
        both.append(done)
    assert bare(both[0].cells) == bare(both[1].cells)
    models = [
        {path.parent.parent.name: path.read_bytes() for path in done.path.rglob("model.safetensors")} for done in both
    ]
    assert len(models[0]) == 4 and models[0] == models[1]
    read = [json.loads((done.path / "sweep.json").read_text()) for done in both]
    assert bare(read[0]) == bare(read[1])
    assert [cell["status"] for cell in sweep("heart_disease", [*words, "runs_dir=runs1"], jobs=2).cells] == ["kept"] * 4


@pytest.mark.slow
def test_a_sweep_reads_a_table_once_a_privacy_mode(monkeypatch, tmp_path):
    def counted(*arguments, **options):
        with (tmp_path / "reads").open("a") as file:
            file.write("x")
        return real(*arguments, **options)

    real = shared_data.load_dataset
    monkeypatch.setattr(shared_data, "load_dataset", counted)
    for jobs in (1, 2):
        (tmp_path / "reads").write_text("")
        sweep("heart_disease", [*SMALL, "seed=1,2,3", "privacy=none,record_dp", f"runs_dir=r{jobs}"], jobs=jobs)
        assert (tmp_path / "reads").read_text() == "xx"


def test_a_killed_cell_is_named_and_the_others_go_on(monkeypatch):

    real = module.simulate

    def killed(config, **options):
        if config.seed == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(config, **options)

    monkeypatch.setattr(module, "simulate", killed)
    words = [*SMALL, "privacy=none", "seed=1,2,3"]
    done = sweep("heart_disease", words, jobs=2)
    assert [cell["status"] for cell in done.cells] == ["ran", "failed", "ran"]
    assert done.cells[1]["error"] == "FK422: its process was killed by signal 9."
    monkeypatch.setattr(module, "simulate", real)
    assert [cell["status"] for cell in sweep("heart_disease", words, jobs=2).cells] == ["kept", "ran", "kept"]


@pytest.mark.parametrize("jobs", [1, 2])
def test_what_nobody_expected_fails_its_cell_alone(jobs, monkeypatch):
    real = module.simulate

    def broken(config, **options):
        if config.seed == 1:
            raise ZeroDivisionError("by nothing")
        return real(config, **options)

    monkeypatch.setattr(module, "simulate", broken)
    done = sweep("heart_disease", [*SMALL, "privacy=none", "seed=1,2"], jobs=jobs)
    assert [cell["status"] for cell in done.cells] == ["failed", "ran"]
    assert done.cells[0]["error"] == "FK422: ZeroDivisionError: by nothing"


def test_cells_that_share_ledgers_or_start_processes_come_in_turn_and_say_why(monkeypatch):
    monkeypatch.setattr(module, "side_by_side", None)
    told = []
    progress = SweepProgress(planned=lambda rounds, cells, jobs, why: told.append((sorted(rounds), cells, jobs, why)))
    words = [*SMALL, "privacy.noise=secure", "ledgers_dir=none_there", "seed=1,2"]
    done = sweep("heart_disease", words, jobs=2, progress=progress)
    assert [cell["status"] for cell in done.cells] == ["failed", "failed"]
    ((cells, total, jobs, why),) = told
    assert (cells, total, jobs) == ([0, 1], 2, 1) and "ledgers" in why


def test_jobs_below_one_are_refused():
    with pytest.raises(ConfigError, match="--jobs is 0"):
        sweep("heart_disease", SMALL, jobs=0)
