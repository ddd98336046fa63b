import csv
import itertools
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from flwr.serverapp.strategy import FedAvg
from safetensors.numpy import load_file

import fedkit
from fedkit.config.serialize import from_yaml
from fedkit.errors import ConfigError, DataError, FedkitError, Interrupted, RunError, TrainingError
from fedkit.runs.directory import read_digests, read_json

# Six steps a run, as everywhere in these tests: noise is calibrated once a process.
SMALL = ["federation.num_rounds=2", "training.local_steps=3"]
PLAIN = [*SMALL, "privacy=none"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_main_job_leaves_everything_that_a_run_must_leave(here):
    run = fedkit.simulate("heart_disease", overrides=SMALL)
    assert sorted(path.name for path in run.path.iterdir()) == [
        "config.yaml",
        "ledger.md",
        "manifest.json",
        "metrics.jsonl",
        "model.safetensors",
        "predictions.npz",
        "privacy.md",
        "report.html",
        "result.json",
    ]
    assert run.result["outcome"] == "complete"
    assert set(run.result["sites"]) == {"cleveland", "hungary", "switzerland", "va"}
    assert run.result["model"] == {"name": "logistic", "parameters": 14}
    manifest = read_json(run.path / "manifest.json")
    assert manifest["rounds_done"] == 2
    assert {plan["adjacency"] for plan in manifest["plan"].values()} == {"add_remove"}
    assert from_yaml((run.path / "config.yaml").read_text()).federation.num_rounds == 2
    tensors = load_file(run.path / "model.safetensors")
    saved = np.concatenate([tensors[name].ravel() for name in ("weight", "bias")])
    assert saved.tobytes() == run.parameters.tobytes()


def test_every_output_says_that_seeded_noise_is_not_private(here):
    run = fedkit.simulate("heart_disease", overrides=SMALL)
    assert run.result["noise"] == "seeded"
    assert run.result["private"] is False
    assert "ot private" in run.result["statement"]
    assert "not private" in (run.path / "report.html").read_text().lower()
    assert read_json(run.path / "manifest.json")["private"] is False


def test_secure_noise_is_private_and_never_repeats(here):
    runs = [fedkit.simulate("heart_disease", overrides=[*SMALL, "privacy.noise=secure"]) for _ in range(2)]
    assert runs[0].result["private"] is True
    assert runs[0].parameters.tobytes() != runs[1].parameters.tobytes()
    assert {site["epsilon"] for site in runs[0].result["sites"].values()} == {
        site["epsilon"] for site in runs[1].result["sites"].values()
    }


@pytest.mark.slow
@pytest.mark.parametrize("privacy", [[], ["privacy=none"]])
def test_the_same_seed_gives_the_same_bits_whatever_the_threads(here, privacy):
    before = torch.get_num_threads()
    digests = []
    try:
        for threads in (1, 4):
            torch.set_num_threads(threads)
            run = fedkit.simulate("heart_disease", overrides=[*SMALL, *privacy, "model=mlp"])
            digests.append(read_digests(run.path))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert digests[0] == digests[1]
    other = fedkit.simulate("heart_disease", overrides=[*SMALL, *privacy, "model=mlp", "seed=7"])
    assert set(read_digests(other.path).values()).isdisjoint(digests[0].values())


def test_epsilon_is_composed_over_the_whole_run_and_holds_the_target(here):
    run = fedkit.simulate("heart_disease", overrides=["federation.num_rounds=3", "training.local_steps=2"])
    lines = [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]
    spent = [line["epsilon"]["cleveland"] for line in lines]
    assert spent[0] == 0.0
    assert all(a < b for a, b in itertools.pairwise(spent))
    assert 2.95 < spent[-1] <= 3.0
    assert run.result["sites"]["cleveland"]["epsilon"] == spent[-1]


def test_client_sampling_is_never_credited(here):
    every = fedkit.simulate("heart_disease", overrides=SMALL)
    some = fedkit.simulate("heart_disease", overrides=[*SMALL, "federation.fraction_train=0.5"])
    sigma = [read_json(run.path / "manifest.json")["plan"]["cleveland"]["noise_multiplier"] for run in (every, some)]
    assert sigma[0] == sigma[1]


@pytest.mark.slow
def test_the_users_table_needs_no_code(my, here):
    overrides = [*SMALL, "data=icu", "model=logistic", "privacy.delta=0.001"]
    run = fedkit.simulate(None, overrides=overrides, config_dir=my)
    assert set(run.result["sites"]) == {"north", "south"}
    manifest = read_json(run.path / "manifest.json")
    assert manifest["data"]["unit"] == "patient"
    assert manifest["plan"]["north"]["records_declared"] is False
    assert "secret" not in (run.path / "report.html").read_text()


def test_a_site_too_small_is_named_left_out_and_the_outcome_says_so(here):
    from tests.simulation.conftest import write_table

    my = write_table(here / "my", sizes={"north": 120, "south": 80, "tiny": 3})
    run = fedkit.simulate(None, overrides=[*PLAIN, "data=icu"], config_dir=my)
    assert run.result["outcome"] == "degraded"
    assert any("tiny left out of training" in note for note in run.result["notes"])
    assert any("tiny left out of testing" in note for note in run.result["notes"])
    assert "accuracy" not in run.result["sites"]["tiny"]
    assert "accuracy" in run.result["sites"]["north"]
    assert "tiny" in (run.path / "report.html").read_text()


def _images(sites=("a", "b"), seed=0, rows=60):
    generator = np.random.default_rng(seed)
    data = {}
    for site in sites:
        y = generator.integers(0, 3, rows)
        x = generator.normal(size=(rows, 1, 8, 8)).astype(np.float32)
        x[np.arange(rows), 0, y, y] += 3
        data[site] = (x, y)
    return data


THREE = fedkit.Task("multiclass", ("left", "middle", "right"))


def _convnet():
    return torch.nn.Sequential(
        torch.nn.Conv2d(1, 4, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.MaxPool2d(2),
        torch.nn.Flatten(),
        torch.nn.Linear(64, 3),
    )


@pytest.mark.parametrize("privacy", [["privacy.delta=0.001"], ["privacy=none"]])
def test_a_model_data_and_strategy_of_ones_own(here, privacy):
    run = fedkit.simulate(
        None,
        overrides=[*SMALL, *privacy],
        model=_convnet,
        data=_images(),
        task=THREE,
        strategy=FedAvg(1.0, 1.0, 1, 1, 1),
    )
    assert set(run.result["sites"]) == {"a", "b"}
    assert run.result["model"]["parameters"] == sum(p.numel() for p in _convnet().parameters())
    manifest = read_json(run.path / "manifest.json")
    assert (manifest["model"]["source"], manifest["strategy"]["source"]) == ("python", "python")


def test_a_model_with_the_wrong_width_is_refused_before_anything_runs(here):
    with pytest.raises(TrainingError, match=r"needs \(2, 3\)") as caught:
        fedkit.simulate(
            None,
            overrides=PLAIN,
            model=lambda: torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2)),
            data=_images(),
        )
    assert caught.value.code == "FK412"
    assert not (here / "runs").exists()


def test_a_model_with_batch_norm_is_refused_in_a_private_run(here):
    def model():
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.BatchNorm1d(64), torch.nn.Linear(64, 3))

    with pytest.raises(FedkitError, match=r"(?i)batch_?norm"):
        fedkit.simulate(None, overrides=[*SMALL, "privacy.delta=0.001"], model=model, data=_images(), task=THREE)


@pytest.mark.parametrize("task", ["multiclass", "regression"])
def test_other_tasks_train_and_report_their_metrics(here, task):
    generator = np.random.default_rng(0)
    x = generator.normal(size=(200, 4)).astype(np.float32)
    if task == "regression":
        y = (x @ np.array([1.0, -2.0, 0.5, 0.0]) + 10).astype(np.float32)
        wanted, kind = {"rmse", "mae", "r2"}, fedkit.Task("regression", (), (0.0, 20.0))
    else:
        y = x[:, :3].argmax(axis=1)
        wanted, kind = {"accuracy", "auroc", "log_loss", "brier"}, None
    data = {"a": (x[:100], y[:100]), "b": (x[100:], y[100:])}
    run = fedkit.simulate(
        None,
        overrides=["privacy=none", "model=logistic", "federation.num_rounds=20", "training.learning_rate=0.5"],
        data=data,
        task=kind,
    )
    assert set(run.result["overall"]) == wanted
    if task == "regression":
        assert run.result["overall"]["r2"] > 0.9
    else:
        assert run.result["overall"]["accuracy"] > 0.8


def test_baselines_stand_beside_the_federation(here):
    run = fedkit.simulate("heart_disease", overrides=PLAIN, baselines=True)
    baselines = run.result["baselines"]
    assert set(baselines) == {"pooled", "local_only"}
    for kind in baselines.values():
        assert set(kind["sites"]) == set(run.result["sites"])
        assert 0 <= kind["overall"]["accuracy"] <= 1


def test_more_sites_wanted_than_exist_is_refused(here):
    with pytest.raises(ConfigError, match="min_sites=9, but data heart_disease has 4 sites"):
        fedkit.simulate("heart_disease", overrides=[*PLAIN, "federation.min_sites=9"])


def test_an_unwritable_run_folder_is_refused_before_training(here):
    (here / "blocked").write_text("")
    with pytest.raises(RunError, match="blocked"):
        fedkit.simulate("heart_disease", overrides=[*PLAIN, "runs_dir=blocked"])


def test_one_class_everywhere_is_refused(my, here):
    path = my / "data" / "icu.csv"
    with path.open(encoding="utf-8") as file:
        rows = list(csv.reader(file))
    for row in rows[1:]:
        row[-1] = "0"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)
    with pytest.raises(DataError, match="class"):
        fedkit.simulate(None, overrides=[*PLAIN, "data=icu"], config_dir=my)


def test_delta_at_or_above_one_over_n_is_refused(here):
    with pytest.raises(FedkitError, match="delta"):
        fedkit.simulate("heart_disease", overrides=[*SMALL, "privacy.delta=0.01"])


def test_a_diverging_run_ends_with_one_error_and_an_honest_folder(here):
    with pytest.raises(FedkitError, match="learning_rate"):
        fedkit.simulate(
            "heart_disease",
            overrides=["privacy=none", "data=breast_cancer", "model=mlp", "training.learning_rate=1e30"],
        )
    (path,) = (here / "runs").iterdir()
    assert read_json(path / "manifest.json")["outcome"] == "failed"
    assert (path / "report.html").is_file()


def test_an_interrupted_run_says_so_and_keeps_the_last_model(here):
    def stop(report):
        if report.round == 1:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match="after round 1"):
        fedkit.simulate("heart_disease", overrides=[*PLAIN, "federation.num_rounds=5"], progress=stop)
    (path,) = (here / "runs").iterdir()
    assert read_json(path / "manifest.json")["outcome"] == "interrupted"
    assert (path / "model.safetensors").is_file()
    assert "interrupted" in (path / "report.html").read_text().lower()


@pytest.mark.slow
@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_an_interrupted_run_and_status_130(here, kind):
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "fedkit.cli.main",
            "simulate",
            "heart_disease",
            "federation.num_rounds=100000",
            "privacy=none",
        ],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    for line in process.stderr:
        if line.startswith("round"):
            break
    process.send_signal(kind)
    _, errors = process.communicate()
    assert process.returncode == 130
    assert "Traceback" not in errors
    (path,) = (here / "runs").iterdir()
    assert read_json(path / "manifest.json")["outcome"] == "interrupted"


def test_counts_declared_for_arrays_stand_in_the_plan(here):
    private = [*SMALL, "privacy.delta=0.001"]
    run = fedkit.simulate(
        None, overrides=[*private, "data.records.a=90", "data.records.b=80"], model=_convnet, data=_images(), task=THREE
    )
    plans = read_json(run.path / "manifest.json")["plan"]
    assert {site: (plan["records"], plan["records_declared"]) for site, plan in plans.items()} == {
        "a": (90, True),
        "b": (80, True),
    }
    with pytest.raises(ConfigError, match="declares no count of b"):
        fedkit.simulate(None, overrides=[*private, "data.records.a=90"], model=_convnet, data=_images(), task=THREE)


def test_a_run_on_arrays_is_not_named_after_the_table_it_did_not_read(here):
    run = fedkit.simulate(None, overrides=PLAIN, model=_convnet, data=_images())
    assert "heart_disease" not in (run.path / "config.yaml").read_text()
    assert run.path.name.endswith("-arrays")


def test_the_trained_module_comes_back(here):
    run = fedkit.simulate(None, overrides=PLAIN, model=_convnet, data=_images())
    packed = torch.cat([p.detach().reshape(-1) for p in run.model.parameters()]).numpy()
    assert packed.tobytes() == run.parameters.tobytes()
    assert not run.model.training


def test_a_module_in_place_of_a_function_is_refused(here):
    with pytest.raises(TrainingError, match="not a function"):
        fedkit.simulate(None, overrides=PLAIN, model=_convnet(), data=_images())


def test_arrays_in_a_private_run_need_a_declared_task(here):
    with pytest.raises(DataError, match="task"):
        fedkit.simulate(None, overrides=[*SMALL, "privacy.delta=0.001"], model=_convnet, data=_images())


@pytest.mark.slow
def test_what_holds_all_updates_says_so_before_the_run(here):
    robust, held, own, streamed = (
        fedkit.simulate("heart_disease", overrides=[*PLAIN, *words], strategy=strategy)
        for words, strategy in (
            (["strategy=fedmedian"], None),
            (["strategy=bulyan"], None),
            ([], FedAvg()),
            (["strategy=fedadam"], None),
        )
    )
    assert any("fedmedian reads all updates of a round" in note for note in robust.result["notes"])
    assert any("Bulyan holds all updates of a round: up to 4 models" in note for note in held.result["notes"])
    assert any("FedAvg holds all updates" in note for note in own.result["notes"])
    assert not any("holds all updates" in note for note in streamed.result["notes"])


def test_a_flower_strategy_and_our_own_of_the_same_name_agree(here):
    own, ours = (fedkit.simulate("heart_disease", overrides=PLAIN, strategy=given) for given in (FedAvg(), None))
    np.testing.assert_allclose(own.parameters, ours.parameters, rtol=1e-6, atol=1e-6)
