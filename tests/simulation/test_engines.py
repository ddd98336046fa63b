import json

import numpy as np

import fedkit
from fedkit.runs.directory import MANIFEST


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
