import json

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

import fedkit
from fedkit.errors import RunError
from fedkit.runs.directory import METRICS, UPDATES

SMALL = ["federation.num_rounds=3", "training.local_steps=3"]


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("extra", [[], ["privacy=none"], ["strategy=fedadam"], ["federation.fraction_train=0.5"]])
def test_a_seeded_run_is_trained_again_bit_for_bit(extra):
    run = fedkit.simulate("heart_disease", overrides=[*SMALL, *extra])
    found = fedkit.replay(run.path)
    assert (found.how, found.identical, found.rounds, found.first_difference) == ("retrained", True, 3, None)


@pytest.mark.parametrize("extra", [[], ["strategy=fedyogi"], ["federation.fraction_train=0.5"]])
def test_a_secure_run_is_folded_again_from_its_recorded_updates(extra):
    run = fedkit.simulate("heart_disease", overrides=[*SMALL, "privacy.noise=secure", *extra])
    found = fedkit.replay(run.path)
    assert (found.how, found.identical, found.rounds) == ("refolded", True, 3)


def test_an_altered_update_is_found_in_its_round():
    run = fedkit.simulate("heart_disease", overrides=[*SMALL, "privacy.noise=secure"])
    path = run.path / UPDATES / "00002.safetensors"
    arrays = load_file(path)
    arrays["delta/va"] = arrays["delta/va"] + np.float32(1e-3)
    save_file(arrays, path)
    found = fedkit.replay(run.path)
    assert (found.identical, found.first_difference) == (False, 2)


def test_an_altered_digest_is_found_in_its_round():
    run = fedkit.simulate("heart_disease", overrides=SMALL)
    lines = (run.path / METRICS).read_text().splitlines()
    entry = json.loads(lines[3])
    lines[3] = json.dumps(entry | {"digest": "0" * 64})
    (run.path / METRICS).write_text("\n".join(lines) + "\n")
    assert fedkit.replay(run.path).first_difference == 3


def test_changed_data_is_refused(tmp_path):
    from tests.simulation.conftest import write_table

    my = write_table(tmp_path / "my", sizes={"north": 120, "south": 80})
    run = fedkit.simulate(None, overrides=[*SMALL, "privacy=none", "data=icu"], config_dir=my)
    assert fedkit.replay(run.path).identical
    write_table(tmp_path / "my", sizes={"north": 120, "south": 81})
    with pytest.raises(RunError, match="data of south"):
        fedkit.replay(run.path)


def test_objects_given_in_python_must_be_given_again():
    def model():
        return torch.nn.Linear(13, 1)

    run = fedkit.simulate("heart_disease", overrides=SMALL, model=model)
    with pytest.raises(RunError, match="given its model in Python"):
        fedkit.replay(run.path)
    assert fedkit.replay(run.path, model=model).identical


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(RunError, match="cannot be read"):
        fedkit.replay(tmp_path)


def test_an_interrupted_run_replays_as_far_as_it_got():
    from fedkit.errors import Interrupted

    def stop(report):
        if report.round == 2:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted):
        fedkit.simulate("heart_disease", overrides=[*SMALL, "federation.num_rounds=9"], progress=stop)
    from pathlib import Path

    (path,) = Path("runs").iterdir()
    found = fedkit.replay(path)
    assert (found.identical, found.rounds) == (True, 2)
