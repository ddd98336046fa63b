"""The same experiment over a stock SuperLink and four SuperNode processes."""

import numpy as np
import pytest

import fedkit
from fedkit.errors import ConfigError
from fedkit.runs.directory import read_digests

ROUNDS = ["federation.num_rounds=2", "training.local_steps=5", "federation.evaluate_every=2"]


@pytest.mark.deploy
@pytest.mark.timeout(900)
@pytest.mark.parametrize("privacy", [["privacy=none"], []], ids=["none", "record_dp"])
def test_a_superlink_gives_the_model_of_the_simulation(tmp_path, monkeypatch, privacy):
    monkeypatch.chdir(tmp_path)
    overrides = [*ROUNDS, *privacy]
    local = fedkit.simulate("heart_disease", overrides=overrides)
    flower = fedkit.simulate("heart_disease", overrides=[*overrides, "federation=flower"])
    assert flower.result["outcome"] == "complete"
    np.testing.assert_allclose(flower.parameters, local.parameters, rtol=0, atol=1e-6)
    assert set(read_digests(flower.path)) == {0, 1, 2}
    assert flower.result["overall"] == pytest.approx(local.result["overall"], abs=1e-6)
    assert fedkit.replay(flower.path).rounds == 2


def test_objects_given_in_python_are_refused_before_any_process_starts(tmp_path, monkeypatch):
    import torch

    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="other processes"):
        fedkit.simulate("heart_disease", overrides=["federation=flower"], model=lambda: torch.nn.Linear(13, 1))
