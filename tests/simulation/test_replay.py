import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.numpy import load_file, save_file

import fedkit
from fedkit.config.serialize import digest, from_yaml
from fedkit.errors import RunError
from fedkit.runs.directory import CONFIG, MANIFEST, METRICS, UPDATES
from fedkit.training.cohort import Cohort

# Six steps a run, as everywhere in these tests: noise is calibrated once a process.
SMALL = ["federation.num_rounds=3", "training.local_steps=2"]


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # Nobody looks at the pages of these runs.
    monkeypatch.setattr("fedkit.simulation.simulate.write_report", lambda path: path)


@pytest.mark.parametrize("extra", [[], ["privacy=none"], ["strategy=fedadam"], ["federation.fraction_train=0.5"]])
def test_a_seeded_run_is_trained_again_bit_for_bit(extra):
    run = fedkit.simulate("heart_disease", overrides=[*SMALL, *extra])
    found = fedkit.replay(run.path)
    assert (found.how, found.identical, found.rounds, found.first_difference) == ("retrained", True, 3, None)


@pytest.mark.parametrize("engine", ["closed_form", "taps", "vmap", "reference"])
def test_a_replay_uses_the_engine_that_the_run_had(engine, monkeypatch):
    mode = ["privacy=none"] if engine == "vmap" else []
    run = fedkit.simulate("heart_disease", overrides=[*SMALL, *mode, f"training.engine={engine}"])
    assert json.loads((run.path / MANIFEST).read_text())["engine"]["name"] == engine
    assert fedkit.replay(run.path).identical
    _edit(run.path / MANIFEST, lambda manifest: manifest["engine"].update(name="warp"))
    with pytest.raises(RunError, match="warp") as caught:
        fedkit.replay(run.path)
    assert caught.value.code == "FK615"


def test_a_run_whose_seed_meant_other_lots_and_noise_is_refused():
    run = fedkit.simulate("heart_disease", overrides=SMALL)
    for drawn, told in ((lambda manifest: manifest.pop("draws"), "scheme 1"),
                        (lambda manifest: manifest.update(draws=3), "scheme 3")):  # fmt: skip
        _edit(run.path / MANIFEST, drawn)
        with pytest.raises(RunError, match=f"{told}; this fedkit draws by scheme 2") as caught:
            fedkit.replay(run.path)
        assert caught.value.code == "FK609"
    # Neither without privacy nor of recorded updates is anything drawn again.
    for how in (["privacy=none"], ["privacy.noise=secure"]):
        plain = fedkit.simulate("heart_disease", overrides=[*SMALL, *how])
        _edit(plain.path / MANIFEST, lambda manifest: manifest.pop("draws"))
        assert fedkit.replay(plain.path).identical


def test_a_run_that_was_added_up_in_the_first_form_is_replayed_in_it(monkeypatch):
    with monkeypatch.context() as before:
        before.setattr("fedkit.training.engine.form_of", lambda *_, **__: 1)
        run = fedkit.simulate("heart_disease", overrides=[*SMALL, "privacy=none", "training.engine=closed_form"])
    assert json.loads((run.path / MANIFEST).read_text())["engine"]["form"] == 1
    seen, inner = [], Cohort.train

    def watched(self, *given):
        seen.append(self.form)
        return inner(self, *given)

    monkeypatch.setattr(Cohort, "train", watched)
    assert fedkit.replay(run.path).identical
    _edit(run.path / MANIFEST, lambda manifest: manifest["engine"].pop("form"))
    assert fedkit.replay(run.path).identical and set(seen) == {1}
    _edit(run.path / MANIFEST, lambda manifest: manifest["engine"].update(form=99))
    with pytest.raises(RunError, match="99") as caught:
        fedkit.replay(run.path)
    assert caught.value.code == "FK615"


def test_neither_chunks_nor_the_memory_budget_are_part_of_what_is_replayed():
    run = fedkit.simulate("heart_disease", overrides=[*SMALL, "training.max_clients_at_once=1"])
    whole = fedkit.simulate("heart_disease", overrides=SMALL)
    assert np.array_equal(run.parameters, whole.parameters)
    assert run.path != whole.path
    same = [json.loads((path / MANIFEST).read_text())["config_digest"] for path in (run.path, whole.path)]
    assert same[0] == same[1]


def test_a_run_from_before_there_were_engines_replays_with_the_reference():
    run = fedkit.simulate("heart_disease", overrides=[*SMALL, "training.engine=reference"])
    config = yaml.safe_load((run.path / CONFIG).read_text())
    for key in ("engine", "workers", "max_clients_at_once", "memory_gb"):
        del config["training"][key]
    (run.path / CONFIG).write_text(yaml.safe_dump(config, sort_keys=False))
    told = digest(from_yaml((run.path / CONFIG).read_text()))

    def before(manifest):
        del manifest["engine"]
        manifest["config_digest"] = told

    _edit(run.path / MANIFEST, before)
    assert fedkit.replay(run.path).identical


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


@pytest.mark.slow
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


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """One run of each noise; a test that spoils one copies it first."""
    root = tmp_path_factory.mktemp("finished")
    return {
        noise: fedkit.simulate(
            "heart_disease", overrides=[*SMALL, f"privacy.noise={noise}", f"runs_dir={root / noise}"]
        ).path
        for noise in ("seeded", "secure")
    }


def _edit(path, change):
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def _append(path, text):
    with path.open("a") as file:
        file.write(text)


@pytest.mark.parametrize("noise", ["seeded", "secure"])
@pytest.mark.parametrize(
    "spoil",
    [
        lambda p: (p / "config.yaml").unlink(),
        lambda p: (p / "config.yaml").write_text("a: [1"),
        lambda p: (p / "metrics.jsonl").unlink(),
        lambda p: _append(p / "metrics.jsonl", "{}\n"),
        lambda p: _append(p / "metrics.jsonl", "[1]\n"),
        lambda p: (p / "manifest.json").write_text('{"format": 1}'),
        lambda p: _edit(p / "manifest.json", lambda m: m["data"]["sites"]["va"].pop("fingerprint")),
        lambda p: _edit(p / "manifest.json", lambda m: m.update(data=3)),
        lambda p: _edit(p / "manifest.json", lambda m: m.update(plan={})),
        lambda p: _edit(p / "manifest.json", lambda m: m["plan"]["va"].update(epsilon=0.5)),
        lambda p: _edit(p / "manifest.json", lambda m: m["plan"]["va"].update(rounds=1)),
        lambda p: _edit(p / "manifest.json", lambda m: m["plan"]["va"].update(delta=7)),
        lambda p: (p / "model.safetensors").unlink(),
        lambda p: (p / "model.safetensors").write_bytes(b"garbage"),
    ],
)
def test_a_folder_that_was_tampered_with_is_refused_in_one_sentence(finished, tmp_path, noise, spoil):
    path = Path(shutil.copytree(finished[noise], tmp_path / "copy"))
    spoil(path)
    with pytest.raises(RunError):
        fedkit.replay(path)


def test_garbage_among_recorded_updates_is_refused(finished, tmp_path):
    path = Path(shutil.copytree(finished["secure"], tmp_path / "copy"))
    (path / UPDATES / "00002.safetensors").write_bytes(b"garbage")
    with pytest.raises(RunError, match="00002"):
        fedkit.replay(path)


@pytest.mark.parametrize("noise", ["seeded", "secure"])
def test_a_model_that_is_not_the_last_rounds_is_found(finished, tmp_path, noise):
    path = Path(shutil.copytree(finished[noise], tmp_path / "copy"))
    assert fedkit.replay(path).model_identical
    tensors = load_file(path / "model.safetensors")
    save_file({name: value + np.float32(1) for name, value in tensors.items()}, path / "model.safetensors")
    found = fedkit.replay(path)
    assert (found.identical, found.model_identical, found.first_difference) == (False, False, None)
