"""What is simulated is what hospitals run: one config, both ways, over real processes and TLS."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from fedkit.config.compose import compose
from fedkit.simulation.replay import replay
from fedkit.simulation.simulate import simulate
from tests.deploy.federation import ROOT, Federation

ROUNDS = ("federation.num_rounds=4",)

pytestmark = [pytest.mark.deploy, pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def open_sites(tmp_path_factory):
    """Sites that admit unprotected runs, and draw a simulation's noise where noise is asked for."""
    seeded = (str(ROOT / "tests" / "deploy" / "seeded_site.py"),)
    found = Federation(tmp_path_factory.mktemp("open"), unprotected=True, max_epsilon=50.0, site_program=seeded)
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


def test_a_pulled_run_folds_to_the_same_models_again(open_sites):
    found = replay(open_sites.run(*ROUNDS, "privacy.epsilon=1"))
    assert found.identical and found.how == "refolded" and found.rounds == 4


def test_exact_metrics_come_only_from_an_unprotected_run(open_sites):
    pulled = open_sites.run(*ROUNDS, "privacy=none", "seed=7")
    result = json.loads((pulled / "result.json").read_text())
    assert result["exact_metrics"] == "not protected" and "accuracy" in result["sites"]["va"]
    private = json.loads((open_sites.run(*ROUNDS, "seed=8") / "result.json").read_text())
    assert private["exact_metrics"] == "none" and "accuracy" not in private["sites"]["va"]
