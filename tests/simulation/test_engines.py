import json

import numpy as np
import pytest
import torch

import fedkit
from fedkit.runs.directory import MANIFEST
from fedkit.training import choice, engine, on_device


@pytest.mark.slow
def test_taps_and_the_reference_give_one_model_and_one_epsilon_a_site(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["privacy=record_dp", "privacy.noise=seeded", "federation.num_rounds=1"]
    words += ["training.local_epochs=null", "training.local_steps=2"]
    runs = [fedkit.simulate("digits", overrides=[*words, f"training.engine={name}"]) for name in ("auto", "reference")]
    told = [json.loads((run.path / MANIFEST).read_text()) for run in runs]
    assert [each["engine"]["name"] for each in told] == ["taps", "reference"]
    assert told[0]["engine"]["why"].startswith("the model trains 6 layers of Conv2d, GroupNorm, Linear")
    assert told[0]["epsilon"] == told[1]["epsilon"] and told[0]["epsilon"]
    ours, theirs = (run.parameters for run in runs)
    assert np.linalg.norm(ours - theirs) <= 1e-5 * np.linalg.norm(theirs)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "trained_by"), [("digits", "taps"), ("heart_disease", "closed_form")])
def test_a_gpu_gives_the_model_of_the_cpu_and_a_replay_asks_for_it_again(name, trained_by, tmp_path, monkeypatch):
    """By a device that takes the way of a GPU; `tests/training` asks the same of a GPU where there is one."""
    there = torch.device("cpu", 0)
    monkeypatch.setattr(on_device, "device_of", lambda asked, _: there if asked == "cuda" else on_device.CPU)
    monkeypatch.setattr(choice, "device_of", on_device.device_of)
    monkeypatch.setattr(engine, "name_of", lambda _: "cuda, a twin")
    monkeypatch.chdir(tmp_path)
    words = ["privacy=record_dp", "privacy.noise=seeded", "federation.num_rounds=2"]
    words += [
        "training.local_epochs=null",
        "training.local_steps=2",
        "model=mlp" if name == "heart_disease" else "seed=1",
    ]
    runs = [fedkit.simulate(name, overrides=[*words, f"training.device={device}"]) for device in ("cuda", "cpu")]
    told = [json.loads((run.path / MANIFEST).read_text()) for run in runs]
    assert [each["engine"]["name"] for each in told] == [trained_by, trained_by]
    assert told[0]["engine"]["device"] == "cuda, a twin" and "device" not in told[1]["engine"]
    assert told[0]["engine"]["workers_why"] == "one process trains on a GPU"
    assert told[0]["epsilon"] == told[1]["epsilon"] and told[0]["epsilon"]
    ours, theirs = (run.parameters for run in runs)
    assert 0 < np.linalg.norm(ours - theirs) <= 1e-5 * np.linalg.norm(theirs)
    assert fedkit.replay(runs[0].path).identical
