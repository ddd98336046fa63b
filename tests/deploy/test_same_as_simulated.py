"""What is simulated is what hospitals run: one config, both ways, over real processes and TLS."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from fedkit.config.compose import compose
from fedkit.simulation.replay import replay
from fedkit.simulation.simulate import simulate
from tests.deploy.federation import ROOT, Federation, wait

ROUNDS = ("federation.num_rounds=4",)

pytestmark = [pytest.mark.deploy, pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def open_sites(tmp_path_factory):
    """Sites that admit unprotected runs, and draw a simulation's noise where noise is asked for."""
    seeded = (str(ROOT / "tests" / "deploy" / "seeded_site.py"),)
    # MLflow's client is one of what the tests need.
    found = Federation(tmp_path_factory.mktemp("open"), unprotected=True, max_epsilon=50.0, site_program=seeded,
                       coordinator_words=("--track", "mlflow"))  # fmt: skip
    try:
        yield found.make().start_sites()
    finally:
        found.close()


def simulated(tmp_path, *overrides):
    return simulate(compose("heart_disease", [*overrides, f"runs_dir={tmp_path}"])).path


def model(path):
    return np.concatenate([part.ravel() for part in load_file(path / "model.safetensors").values()])


@pytest.mark.parametrize("strategy", ["fedavg", "fedprox", "fedadam"])
def test_an_unprotected_run_gives_the_simulated_model(open_sites, tmp_path, strategy):
    overrides = [*ROUNDS, "privacy=none", f"strategy={strategy}"]
    pulled = open_sites.run(*overrides)
    assert np.allclose(model(pulled), model(simulated(tmp_path, *overrides)), rtol=0, atol=1e-6)
    assert np.abs(model(pulled)).max() > 0.05


def test_a_private_run_gives_the_simulated_model_from_the_same_draws(open_sites, tmp_path):
    pulled = open_sites.run(*ROUNDS)
    here = simulated(tmp_path, *ROUNDS, "privacy.noise=seeded")
    assert np.allclose(model(pulled), model(here), rtol=0, atol=1e-6)
    ours, theirs = (json.loads((path / "result.json").read_text()) for path in (pulled, here))
    # The released histograms are the same too, and so is what is said of them.
    assert ours["evaluation"]["overall"] == theirs["evaluation"]["overall"]
    assert ours["private"] and not theirs["private"]


def mirrored(federation, run):
    """What MLflow has of a run: each figure's values by step, and the parameters."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{federation.folder / 'coordinator' / 'tracking' / 'mlflow.db'}")
    experiments = [each.experiment_id for each in client.search_experiments()]

    def found():
        return [each for each in client.search_runs(experiments, f"tags.`fedkit.run` = '{run}'")
                if each.info.status == "FINISHED"]  # fmt: skip

    wait(found, 60, "the run is not mirrored")
    (kept,) = found()
    figures = {
        name: {each.step: each.value for each in client.get_metric_history(kept.info.run_id, name)}
        for name in kept.data.metrics
    }
    return figures, kept.data.params


def test_what_is_mirrored_of_a_private_run_is_what_its_folder_has_and_no_sites_exact_metrics(open_sites):
    pulled = open_sites.run(*ROUNDS, "seed=11", "privacy.epsilon=1")
    figures, facts = mirrored(open_sites, pulled.name)
    lines = [json.loads(line) for line in (pulled / "metrics.jsonl").read_text().splitlines()]
    for site in open_sites.sites:
        assert figures[f"epsilon/{site}"] == {line["round"]: line["epsilon"][site] for line in lines}
    assert figures["round/trained"] == {line["round"]: len(line["trained"]) for line in lines}
    # The charged, noisy ones are pooled over the sites; no site's own, and no exact one, is there to be mirrored.
    known = {"round/trained", "round/missing", "round/seconds", *(f"epsilon/{site}" for site in open_sites.sites)}
    assert all(name.startswith("evaluation/") for name in figures.keys() - known), sorted(figures)
    closing = json.loads((pulled / "result.json").read_text())["evaluation"]["overall"]
    for name, values in figures.items():
        if name.startswith("evaluation/"):
            _, metric, key = name.split("/")
            assert list(values.values())[-1] == closing[metric][key]
    text = json.dumps(facts)
    assert "seed" not in facts and str(open_sites.folder) not in text and "csv" not in text


def test_a_pulled_run_folds_to_the_same_models_again(open_sites):
    found = replay(open_sites.run(*ROUNDS, "privacy.epsilon=1"))
    assert found.identical and found.how == "refolded" and found.rounds == 4


def test_exact_metrics_come_only_from_an_unprotected_run(open_sites):
    pulled = open_sites.run(*ROUNDS, "privacy=none", "seed=7")
    result = json.loads((pulled / "result.json").read_text())
    assert result["exact_metrics"] == "not protected" and "accuracy" in result["sites"]["va"]
    private = json.loads((open_sites.run(*ROUNDS, "seed=8") / "result.json").read_text())
    assert private["exact_metrics"] == "none" and "accuracy" not in private["sites"]["va"]
