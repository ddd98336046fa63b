"""Rounds whose updates arrive as one mean: at the loop, and at the sites' runtime."""

from dataclasses import replace

import numpy as np
import pytest
from flwr.serverapp.strategy import FedAvg

from fedkit.config.experiment import FederationConfig
from fedkit.errors import FederationError, PrivacyError
from fedkit.federation.discovery import discover
from fedkit.federation.gate import Gate
from fedkit.federation.reduced import Reduced, checked
from fedkit.federation.rounds import RoundLoop
from fedkit.privacy.ledger.ledger import Ledger
from fedkit.runs.journal import open_journal
from fedkit.simulation.grid import InProcessGrid
from fedkit.strategies.robust import fed_median
from fedkit.strategies.streaming import fed_adam, fed_avg
from fedkit.types import ClientUpdate
from tests.federation.fakes import SHAPES, START, FakeSites
from tests.federation.test_site import SEEDED, runtime
from tests.federation.test_site import START as MODEL

SITES = {"a": 1.0, "b": 4.0, "c": 2.0}
WEIGHTS = {"a": 1.0, "b": 2.0, "c": 5.0}


def loop(strategy, reduce=None, *, min_sites=1, **changes):
    grid = InProcessGrid(FakeSites(SITES, WEIGHTS))
    roster = discover(grid, list(SITES), 1.0)
    names = frozenset(SITES)
    nodes = {site: node for site, (node, _) in roster.items()}
    config = FederationConfig("local", 3, min_sites=min_sites)
    made = RoundLoop(grid, strategy, SHAPES, 0, config, nodes, names, names, weights=WEIGHTS, keep_updates=False)
    return replace(made, reduce=reduce, **changes)


def reducing(refused=()):
    """Sites that add up their updates themselves, but for those of which nothing counts."""
    calls = []

    def reduce(number, sites, parameters, mu, weights):
        calls.append((number, tuple(sites), mu, weights))
        taken = [site for site in sites if site not in refused]
        weight = sum(WEIGHTS[site] for site in taken)
        mean = sum(WEIGHTS[site] * SITES[site] for site in taken) / max(weight, 1e-9)
        accepted = {site: {"weight": WEIGHTS[site], "metrics": {}} for site in taken}
        found = np.full(3, mean, np.float32) if taken else np.zeros(0, np.float32)
        return Reduced(found, weight, accepted, dict.fromkeys(refused, "FK512: NaN."))

    return reduce, calls


def ran(made):
    reports = []
    return made.run(START.copy(), lambda report, *_: reports.append(report)), reports


@pytest.mark.parametrize("strategy", [fed_avg, fed_adam])
def test_the_model_is_that_of_the_single_updates(strategy):
    reduce, calls = reducing()
    (one, told), (other, also) = ran(loop(strategy())), ran(loop(strategy(), reduce))
    np.testing.assert_allclose(one.parameters, other.parameters, rtol=1e-6)
    assert [r.trained for r in told] == [r.trained for r in also] and other.outcome == "complete"
    assert calls == [(number, ("a", "b", "c"), 0.0, WEIGHTS) for number in (1, 2, 3)]


def test_a_site_whose_update_was_refused_is_named_and_left_out():
    finish, reports = ran(loop(fed_avg(), reducing(["b"])[0]))
    assert finish.outcome == "degraded" and reports[1].trained == ("a", "c")
    assert reports[1].failed["b"] == "FK512: NaN." and "b missing" in finish.notes[0]


def changed(**values):
    reduce = reducing(["b"])[0]
    return lambda *given: replace(reduce(*given), **values)


def test_a_site_that_is_neither_in_the_mean_nor_refused_is_missing_and_not_forgotten():
    finish, reports = ran(loop(fed_avg(), changed(refused={})))
    assert finish.outcome == "degraded" and reports[1].trained == ("a", "c") and "FK524" in reports[1].failed["b"]


@pytest.mark.parametrize(
    ("values", "code"),
    [
        ({"accepted": {"a": {}, "c": {}, "stranger": {}}}, "FK524"),
        ({"mean": np.zeros(2, np.float32)}, "FK511"),
        ({"mean": np.full(3, np.nan, np.float32)}, "FK512"),
        ({"mean": np.zeros(3)}, "FK516"),
        ({"weight": float("nan")}, "FK513"),
        ({"weight": 0.0}, "FK513"),
    ],
)
def test_a_mean_that_no_updates_have_ends_the_run_with_its_reason(values, code):
    """What comes from another process is not taken on its word."""
    with pytest.raises(FederationError) as caught:
        ran(loop(fed_avg(), changed(**values)))
    assert caught.value.code == code


@pytest.mark.parametrize(("refused", "least"), [(["a", "b", "c"], 1), (["a"], 3)])
def test_a_round_below_quorum_fails_with_the_last_good_model(refused, least):
    finish, _ = ran(loop(fed_avg(), reducing(refused)[0], min_sites=least))
    assert finish.outcome == "failed" and finish.rounds == 0 and np.array_equal(finish.parameters, START)
    assert f"at least {least} needed" in finish.notes[-1]


@pytest.mark.parametrize(
    ("strategy", "changes"),
    [
        (fed_median(), {}),
        (FedAvg(1.0, 1.0, 1, 1, 1), {}),
        (fed_avg(), {"keep_updates": True}),
        (fed_avg(), {"journal": "one"}),
        (fed_avg(), {"declared": WEIGHTS}),
    ],
)
def test_whoever_needs_each_update_is_given_no_mean(strategy, changes, tmp_path):
    reduce, calls = reducing()
    with open_journal(tmp_path / "journal") as journal:
        changes = {"journal": journal} if "journal" in changes else changes
        with pytest.raises(ValueError, match="needs each of them"):
            ran(loop(strategy, reduce, **changes))
    assert not calls


def test_a_checked_update_is_the_one_that_a_message_would_have_carried():
    delta = np.array([1.0, -2.0, 0.5], np.float32)
    found = checked(ClientUpdate("a", delta, 2.0, {"train_loss": 0.5, "else": 1.0}), START, 2.0)
    assert np.array_equal(found.delta, delta) and found.weight == 2.0 and found.metrics == {"train_loss": 0.5}
    with pytest.raises(FederationError, match="planned 3"):
        checked(ClientUpdate("a", delta, 2.0), START, 3.0)


def adding(names, plan, state, weights):
    return Reduced(np.ones(len(MODEL), np.float32), 40.0, {name: {} for name in names}, {}, {"north": {}})


def test_a_site_with_real_noise_adds_to_one_mean_a_round():
    site = runtime(exact=True, reducer=adding)
    assert site.reduced(1, ["north"], MODEL, 0.0, None).weight == 40.0
    # The noise of a round is drawn once: there is no update to give again.
    with pytest.raises(PrivacyError) as caught:
        site.reduced(1, ["north"], MODEL, 0.0, None)
    assert caught.value.code == "FK354"
    with pytest.raises(FederationError, match="past, or was answered for another request"):
        site.reduced(1, ["north"], MODEL + 1, 0.0, None)
    assert site.reduced(2, ["north", "south"], MODEL, 0.0, None).weight == 40.0
    with pytest.raises(FederationError, match="no round 4"):
        site.reduced(4, ["north"], MODEL, 0.0, None)
    with pytest.raises(FederationError, match="parameter of size"):
        site.reduced(3, ["north"], np.full_like(MODEL, 1e30), 0.0, None)


def test_one_without_noise_of_its_own_may_be_asked_again():
    site = runtime(SEEDED, exact=True, reducer=adding)
    assert all(site.reduced(1, ["north"], MODEL, 0.0, None).weight == 40.0 for _ in range(2))


def test_nothing_is_added_up_that_leaves_through_a_gate_or_a_hospital(tmp_path):
    for site in (runtime(exact=True), runtime(SEEDED, exact=True)):
        with pytest.raises(FederationError, match="before it has left it") as caught:
            site.reduced(1, ["north"], MODEL, 0.0, None)
        assert caught.value.code == "FK535"
    with pytest.raises(FederationError) as caught:
        runtime(exact=False, reducer=adding).reduced(1, ["north"], MODEL, 0.0, None)
    assert caught.value.code == "FK535"
    with Ledger.create(tmp_path / "north.sqlite") as ledger:
        gates = {"north": Gate(ledger, "icu", "run", runtime().plans["north"].privacy)}
        with pytest.raises(FederationError, match="before it has left it"):
            runtime(exact=True, reducer=adding, gates=gates).reduced(1, ["north"], MODEL, 0.0, None)
