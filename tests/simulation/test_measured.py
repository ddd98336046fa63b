import json

import numpy as np
import pytest
import torch
from torch import nn

import fedkit
from fedkit.config.compose import compose
from fedkit.errors import FederationError
from fedkit.federation import wire
from fedkit.federation.site import SiteRuntime
from fedkit.models.flat import pack
from fedkit.privacy.accounting import GaussianEvent, epsilon_of
from fedkit.privacy.events import gaussian_delta
from fedkit.runs.directory import read_json
from fedkit.simulation.prepare import prepare
from tests.simulation.conftest import write_table

# Six steps a run, as everywhere in these tests: noise is calibrated once a process.
SMALL = ["federation.num_rounds=2", "training.local_steps=3"]


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def _lines(run):
    return [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]


def test_a_private_run_releases_its_histograms_once_at_the_end_and_pays_for_them():
    run = fedkit.simulate("heart_disease", overrides=SMALL)
    lines = _lines(run)
    assert ["histograms" in line for line in lines] == [False, False, True]
    assert set(lines[-1]["histograms"]) == set(run.result["sites"])
    plan = read_json(run.path / "manifest.json")["plan"]["va"]
    evaluation = plan["evaluation"]
    assert (evaluation["rounds"], evaluation["histograms"]) == ([2], 3)  # overall, sex, age
    events = (
        GaussianEvent(plan["sample_rate"], plan["noise_multiplier"], 6),
        GaussianEvent(1.0, evaluation["noise_multiplier"], 3),
    )
    assert plan["epsilon"] == epsilon_of(events, gaussian_delta(plan["delta"])) <= 3.0
    assert lines[-1]["epsilon"]["va"] == plan["epsilon"]
    assert run.result["evaluation"]["private"] is False
    assert run.result["exact_metrics"] == "not protected (simulation only)"


@pytest.mark.slow
def test_the_estimates_are_of_the_model_that_was_trained():
    generous = [
        *SMALL,
        "privacy.epsilon=90",
        "privacy.evaluation.noise_multiplier=0.3",
        "privacy.evaluation.share=null",
        "privacy.evaluation.bins=20",
    ]
    run = fedkit.simulate("heart_disease", overrides=generous)
    told = run.result["evaluation"]["overall"]
    assert told["units"]["value"] == pytest.approx(300, abs=8)
    assert told["accuracy"]["value"] == pytest.approx(run.result["overall"]["accuracy"], abs=0.02)
    assert told["auroc"]["low"] <= run.result["overall"]["auroc"] <= told["auroc"]["high"]


@pytest.mark.slow
def test_evaluation_every_few_rounds_is_charged_each_time():
    words = ["federation.num_rounds=5", "training.local_steps=2", "privacy.evaluation.every=2"]
    run = fedkit.simulate("heart_disease", overrides=words)
    lines = _lines(run)
    assert [line["round"] for line in lines if "histograms" in line] == [2, 4, 5]
    plan = read_json(run.path / "manifest.json")["plan"]["va"]
    assert plan["evaluation"]["rounds"] == [2, 4, 5]
    spent = [line["epsilon"]["va"] for line in lines]
    assert spent == sorted(spent) and spent[2] - spent[1] > spent[3] - spent[2]
    assert fedkit.replay(run.path).identical


@pytest.mark.slow
def test_without_an_evaluation_the_whole_epsilon_goes_into_training():
    run = fedkit.simulate("heart_disease", overrides=[*SMALL, "privacy.evaluation.share=null"])
    plan = read_json(run.path / "manifest.json")["plan"]["va"]
    assert plan["evaluation"] is None and run.result["evaluation"] is None
    both = fedkit.simulate("heart_disease", overrides=SMALL)
    assert read_json(both.path / "manifest.json")["plan"]["va"]["noise_multiplier"] > plan["noise_multiplier"]


def test_a_site_that_releases_no_histogram_is_named_and_the_run_is_whole(tmp_path):
    my = write_table(tmp_path / "my", sizes={"north": 120, "south": 16}, records="records: {north: 120, south: 16}")
    run = fedkit.simulate(None, overrides=[*SMALL, "data=icu"], config_dir=my)
    manifest = read_json(run.path / "manifest.json")
    assert manifest["outcome"] == run.result["outcome"] == "complete"
    assert any(note.startswith("south releases no histogram") for note in manifest["notes"])
    assert list(run.result["evaluation"]["sites"]) == ["north"]
    page = (run.path / "report.html").read_text()
    assert "Without histograms: south." in page and "Sites left out" not in page


def test_seeded_histograms_repeat_and_secure_ones_do_not():
    def released(noise):
        return _lines(fedkit.simulate("heart_disease", overrides=[*SMALL, f"privacy.noise={noise}"]))[-1]["histograms"]

    assert released("seeded") == released("seeded")
    assert released("secure") != released("secure")


def _runtime(exact):
    config = compose("heart_disease", SMALL)
    prepared = prepare(config)
    local = prepared.local
    sites = {site.name: site for site in prepared.dataset.sites}
    runtime = SiteRuntime(
        prepared.model, prepared.dataset.task, 1, sites, local.sites, frozenset(local.tested), local.specs, exact=exact
    )
    return runtime, pack(prepared.model)


def test_a_site_that_releases_no_exact_metrics_refuses_them_and_joins_without_them():
    runtime, parameters = _runtime(exact=False)
    assert wire.unpack_roster(runtime.answer_query("va")).evaluates is False
    with pytest.raises(FederationError, match="exact metrics") as caught:
        runtime.answer_evaluate("va", wire.pack_evaluation(parameters, 2, histograms=False))
    assert caught.value.code == "FK535"


def test_an_evaluation_that_is_not_in_the_plan_is_refused_before_a_record_is_read():
    runtime, parameters = _runtime(exact=True)
    with pytest.raises(FederationError, match="no evaluation after round 1") as caught:
        runtime.answer_evaluate("va", wire.pack_evaluation(parameters, 1, histograms=True))
    assert caught.value.code == "FK535"
    counts = wire.unpack_histograms(
        runtime.answer_evaluate("va", wire.pack_evaluation(parameters, 2, histograms=True)),
        sum(spec.size for spec in runtime.specs),
    )
    assert counts.dtype == np.float64


class Overflowing(nn.Module):
    """Scores that are NaN or infinite whatever the row is."""

    def __init__(self, d):
        super().__init__()
        self.flat = nn.Parameter(torch.zeros(d))

    def forward(self, x):
        return (x.sum(1, keepdim=True) + self.flat.sum()) * float("inf")


def test_a_model_whose_predictions_are_not_finite_is_measured_like_any_other():
    runtime, parameters = _runtime(exact=True)
    runtime.model = Overflowing(len(parameters))
    reply = runtime.answer_evaluate("va", wire.pack_evaluation(parameters, 2, histograms=True))
    assert np.isfinite(wire.unpack_histograms(reply, sum(spec.size for spec in runtime.specs))).all()
