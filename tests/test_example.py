"""The README's example of a model and data of your own, run as it stands."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
from safetensors.torch import load_file
from torch.nn.utils import parameters_to_vector

import fedkit

EXAMPLE = Path(__file__).resolve().parents[1] / "docs" / "own_model.py"


@pytest.mark.slow
def test_the_example_is_short_learns_and_replays(tmp_path, monkeypatch, capsys):
    assert len(EXAMPLE.read_text(encoding="utf-8").splitlines()) <= 33
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["own_model.py", "federation.num_rounds=4"])
    names = runpy.run_path(str(EXAMPLE), run_name="__main__")
    run = names["run"]
    assert run.path.parent.resolve() == tmp_path / "runs"
    assert f"accuracy {run.result['overall']['accuracy']:.3f}" in capsys.readouterr().out
    # Ten digits: guessing gives .1, and these few noisy rounds differ by some .1 between seeds.
    assert run.result["overall"]["accuracy"] > 0.2
    assert all(0 < site["epsilon"] <= 8 for site in run.result["sites"].values())
    net = names["model"]()
    net.load_state_dict(load_file(run.path / "model.safetensors"))
    assert parameters_to_vector(net.parameters()).detach().numpy().tobytes() == run.parameters.tobytes()
    assert fedkit.replay(run.path, model=names["model"], data=names["data"](), task=names["task"]).identical
