"""The loop that a prepared run makes: it knows what each site must weigh and what a private run does not release."""

import numpy as np
import pytest
from flwr.serverapp.strategy import QFedAvg

from fedkit.config.compose import compose
from fedkit.errors import FederationError
from fedkit.federation.site import SiteRuntime
from fedkit.simulation.grid import InProcessGrid
from fedkit.simulation.local import make_loop, run_local
from fedkit.simulation.prepare import prepare, strategy_for

# Six steps a run, as everywhere in these tests: noise is calibrated once a process.
SMALL = ["federation.num_rounds=1", "training.local_steps=6"]


def _loop(*overrides, strategy=None):
    prepared = prepare(compose("heart_disease", [*SMALL, *overrides]))
    sites = {site.name: site for site in prepared.dataset.sites}
    runtime = SiteRuntime(prepared.model, prepared.dataset.task, 1, sites, prepared.local.sites, frozenset())
    return prepared, make_loop(prepared, InProcessGrid(runtime), strategy or strategy_for(prepared))


def test_without_privacy_a_site_weighs_its_training_rows():
    prepared, loop = _loop("privacy=none")
    assert loop.weights == {site.name: float(len(site.train)) for site in prepared.dataset.sites}


def test_with_privacy_a_site_weighs_what_it_declared():
    prepared, loop = _loop()
    assert loop.weights == {name: plan.weight for name, plan in prepared.local.sites.items()}


def test_the_strategy_of_a_private_run_is_told_no_exact_metrics():
    assert _loop()[1].private and _loop("privacy.noise=secure")[1].private
    assert not _loop("privacy=none")[1].private


@pytest.mark.parametrize("privacy", [[], ["privacy=none"]])
def test_honest_sites_repeat_their_planned_weights(privacy):
    finish = run_local(prepare(compose("heart_disease", [*SMALL, *privacy])), lambda *_: None)
    assert finish.outcome == "complete"
    assert np.isfinite(finish.parameters).all()


def test_a_strategy_object_that_reads_losses_is_refused_before_a_private_run():
    with pytest.raises(FederationError, match="training loss of each site") as caught:
        _loop(strategy=QFedAvg(0.1))
    assert caught.value.code == "FK501"
