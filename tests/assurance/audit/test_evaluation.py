"""The evaluation's histograms: a correct mechanism passes, planted faults are caught."""

from dataclasses import replace

import numpy as np
import pytest

from fedkit.assurance.audit.evaluation import evaluation_findings
from fedkit.config.compose import compose
from fedkit.federation import site
from fedkit.privacy import histogram
from fedkit.simulation.prepare import prepare

ALPHA = 1e-9


@pytest.fixture(scope="module")
def prepared():
    return prepare(compose("heart_disease", ["federation.num_rounds=2", "training.local_steps=3"]))


def _contradicted(prepared):
    plans = {"va": prepared.local.sites["va"]}
    found = evaluation_findings(prepared.model, prepared.dataset, plans, prepared.local.specs, ALPHA)
    assert {finding.check for finding in found} == {"noise.evaluation", "clip.evaluation"}
    return {finding.check for finding in found if finding.status == "contradiction"}


def test_a_correct_evaluation_is_not_contradicted(prepared):
    assert _contradicted(prepared) == set()


def test_a_run_without_an_evaluation_has_nothing_to_find(prepared):
    plan = prepared.local.sites["va"]
    bare = replace(plan, privacy=replace(plan.privacy, evaluation=None))
    assert evaluation_findings(prepared.model, prepared.dataset, {"va": bare}, prepared.local.specs, ALPHA) == []


def test_noise_halved_is_caught(prepared, monkeypatch):
    def halved(cells, unit, size, sigma, source):
        return histogram.noisy_histogram(cells, unit, size, max(0.1, sigma / 2), source)

    monkeypatch.setattr(site, "noisy_histogram", halved)
    assert "noise.evaluation" in _contradicted(prepared)


def test_a_row_counted_as_a_unit_is_caught(prepared, monkeypatch):
    def by_row(cells, unit, size, sigma, source):
        return histogram.noisy_histogram(cells, np.arange(len(cells)), size, sigma, source)

    monkeypatch.setattr(site, "noisy_histogram", by_row)
    assert "clip.evaluation" in _contradicted(prepared)


def test_histograms_without_noise_where_there_are_no_records_are_caught(prepared, monkeypatch):
    def silent(cells, unit, size, sigma, source):
        return histogram.noisy_histogram(cells, unit, size, sigma, source) if len(cells) else np.zeros(size)

    monkeypatch.setattr(site, "noisy_histogram", silent)
    assert "noise.evaluation" in _contradicted(prepared)
