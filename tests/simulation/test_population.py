"""Federations whose sites are made when they are called."""

import numpy as np
import pytest
from torch import nn

from fedkit.config.experiment import FederationConfig, TrainingConfig
from fedkit.errors import TrainingError
from fedkit.federation.rounds import RoundLoop
from fedkit.federation.site import SiteRuntime
from fedkit.models.flat import pack, shapes
from fedkit.simulation.grid import InProcessGrid
from fedkit.simulation.local import one_thread
from fedkit.simulation.population import MadeByName, Population, run_population
from fedkit.strategies.streaming import fed_avg
from tests.training.builders import BINARY, local_plan, privacy_plan, site

MODEL = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 1))


def plan(private):
    return local_plan(6, weight=40.0, privacy=privacy_plan("", rounds=3) if private else None)


def run(size, fraction, rounds=3, private=True, made=None, workers="1"):
    def make(name, place):
        if made is not None:
            made.append(name)
        return site(name, 40, place)

    reports = []
    finish = run_population(
        Population(size, make, plan(private)), MODEL, BINARY, (5,), fed_avg(), TrainingConfig(0.5, workers=workers),
        FederationConfig("local", rounds, fraction), lambda report, *_: reports.append(report), seed=1,
    )  # fmt: skip
    return finish, reports


@pytest.mark.parametrize("private", [True, False])
def test_it_is_the_run_of_the_same_sites_in_memory(private):
    finish, reports = run(12, 0.5, private=private)
    names = Population(12, lambda *_: None, plan(private)).names()
    people = Population(12, lambda *_: None, plan(private))
    sites = {name: site(name, 40, place) for name, place in names.items()}
    plans = {name: people.plan_of(name, place) for name, place in names.items()}
    runtime = SiteRuntime(MODEL, BINARY, 1, sites, plans, frozenset(), exact=True)
    grid = InProcessGrid(runtime)
    nodes = {name: node for node, name in grid.nodes.items()}
    with one_thread():
        loop = RoundLoop(
            grid, fed_avg(), shapes(MODEL), 1, FederationConfig("local", 3, 0.5), nodes, frozenset(names), frozenset()
        )
        expected = loop.run(pack(MODEL), lambda *_: None)
    assert finish.outcome == "complete" and np.allclose(finish.parameters, expected.parameters, rtol=1e-5, atol=1e-6)
    assert [len(report.trained) for report in reports] == [0, 6, 6, 6]
    spent = [report.epsilon.get("each site") for report in reports]
    assert spent == ([0.0, *sorted(spent[1:])] if private else [None] * 4)


def test_only_sites_that_train_are_made_each_once_a_round():
    made = []
    _, reports = run(5000, 0.002, made=made)
    assert made == [name for report in reports for name in report.trained] or sorted(made) == sorted(
        name for report in reports for name in report.trained
    )
    assert len(made) == 30


def test_workers_change_no_bit_and_make_the_sites_themselves():
    whole, made = [], []
    one, _ = run(200, 0.1, made=whole)
    two, _ = run(200, 0.1, made=made, workers="2")
    # One of the two is this process; what the other trains was made there.
    assert np.array_equal(one.parameters, two.parameters) and 0 < len(made) < 0.7 * len(whole)


def test_a_plan_is_of_the_site_that_follows_it():
    people = Population(3, lambda *_: None, plan(True))
    plans = MadeByName(people.names(), people.plan_of)
    assert [plans[name].privacy.site for name in plans] == ["s0000000", "s0000001", "s0000002"] and len(plans) == 3
    with pytest.raises(KeyError):
        plans["elsewhere"]


def test_more_workers_than_memory_holds_are_refused():
    with pytest.raises(TrainingError, match=r"training\.workers=9"):
        run_population(
            Population(3, lambda *_: None, plan(True)), MODEL, BINARY, (5,), fed_avg(),
            TrainingConfig(0.5, workers="9", max_clients_at_once=2), FederationConfig("local", 1), lambda *_: None,
            seed=1,
        )  # fmt: skip
