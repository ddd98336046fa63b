"""How a run is left, whatever stops it."""

import errno
from pathlib import Path

import pytest

import fedkit
from fedkit.errors import Interrupted, RunError
from fedkit.runs.directory import read_json

PLAIN = ["federation.num_rounds=2", "training.local_steps=3", "privacy=none"]


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def _interrupt(*_, **__):
    raise KeyboardInterrupt


def _folder():
    (path,) = Path("runs").iterdir()
    return path


def test_an_interrupt_among_the_baselines_leaves_a_whole_run_and_says_so(monkeypatch):
    monkeypatch.setattr("fedkit.simulation.simulate.run_baselines", _interrupt)
    with pytest.raises(Interrupted, match="without its baselines"):
        fedkit.simulate("heart_disease", overrides=PLAIN, baselines=True)
    path = _folder()
    for name in ("manifest.json", "result.json"):
        assert read_json(path / name)["outcome"] == "complete"
        assert "baselines" in read_json(path / name)["notes"][-1]
    assert "baselines" not in read_json(path / "result.json")
    assert "they are missing" in (path / "report.html").read_text()
    assert fedkit.replay(path).identical


@pytest.mark.parametrize("where", ["predict_all", "build_result"])
def test_an_interrupt_while_the_run_is_closed_is_an_interrupted_run(monkeypatch, where):
    monkeypatch.setattr(f"fedkit.simulation.simulate.{where}", _interrupt)
    with pytest.raises(Interrupted, match="after round 2"):
        fedkit.simulate("heart_disease", overrides=PLAIN)
    assert read_json(_folder() / "manifest.json")["outcome"] == "interrupted"


def test_a_full_disk_is_one_error_and_a_failed_run(monkeypatch):
    from fedkit.runs import directory

    def full(path, line):
        if '"round": 1' in line:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(path, line)

    real = directory.append_line
    monkeypatch.setattr(directory, "append_line", full)
    with pytest.raises(RunError, match="No space left on device") as caught:
        fedkit.simulate("heart_disease", overrides=PLAIN)
    assert caught.value.code == "FK601"
    assert "free space" in caught.value.remedy
    assert read_json(_folder() / "manifest.json")["outcome"] == "failed"


def test_a_statement_names_each_site_and_counts_that_stood_in():
    overrides = [*PLAIN[:2], "privacy.epsilon=0.01"]
    result = fedkit.simulate("heart_disease", overrides=overrides).result
    assert "epsilon 0.0100 at" in result["statement"]
    assert "for one record at each site" in result["statement"]
    assert "stood in" not in result["statement"]
    result = fedkit.simulate("heart_disease", overrides=[*overrides, "data.records=null"]).result
    assert result["statement"].endswith("The true counts stood in for declared ones and are not protected.")


def test_a_run_whose_output_nobody_reads_any_more_is_left_as_interrupted(monkeypatch):
    # As a console does when its pipe is closed.
    def gone(*_, **__):
        raise SystemExit(1)

    with pytest.raises(SystemExit):
        fedkit.simulate("heart_disease", overrides=PLAIN, progress=gone)
    manifest = read_json(_folder() / "manifest.json")
    assert manifest["outcome"] == "interrupted" and "output" in manifest["notes"][-1]
