"""What a site answers without a ledger, and what it refuses before it looks at a record."""

from dataclasses import replace

import numpy as np
import pytest

from fedkit.config.experiment import ModelConfig
from fedkit.errors import FedkitError
from fedkit.federation import site as federated
from fedkit.federation import wire
from fedkit.federation.admission import MAX_ENTRY
from fedkit.federation.gate import Gate
from fedkit.federation.order import MOST_MU
from fedkit.federation.public_codes import COMMON, PUBLIC_CODES, public_code
from fedkit.federation.site import SiteRuntime
from fedkit.models import build
from fedkit.models.flat import pack
from fedkit.privacy.ledger.ledger import Ledger
from fedkit.training import local
from fedkit.training.histograms import HistogramSpec
from fedkit.training.local import PARAMETER_LIMIT
from fedkit.types import EvaluationPlan, Examples, LocalPlan, PrivacyPlan, Site, Task

PLAN = PrivacyPlan(
    site="north",
    unit="record",
    adjacency="add_remove",
    sample_rate=0.2,
    max_grad_norm=1.0,
    noise_multiplier=4.0,
    lot_size=8.0,
    steps=2,
    rounds=3,
    epsilon=1.0,
    delta=1e-5,
    accountant="pld",
    records=40,
    records_declared=True,
    noise="secure",
    max_lot=40,
    evaluation=EvaluationPlan(8.0, (2, 3), 1, 5),
)
SEEDED, OPEN = replace(PLAN, noise="seeded"), None
MODEL = build(ModelConfig("logistic"), (3,), 1, 0)
START = pack(MODEL)
TASK = Task("binary", (0, 1))


def runtime(privacy=PLAN, *, names=("north", "south"), **settings):
    rows = np.random.default_rng(0).random((40, 3)).astype(np.float32)
    examples = Examples(rows, (rows[:, 0] > 0.5).astype(np.int64), np.arange(40))
    local = LocalPlan(2, 8, 0.1, "sgd", privacy, 20.0)
    return SiteRuntime(
        MODEL,
        TASK,
        0,
        {name: Site(name, examples, examples, 40, True) for name in names},
        dict.fromkeys(names, local),
        frozenset(names),
        (HistogramSpec(TASK, 6),),
        **settings,
    )


def train(site, number=1, model=START, mu=0.0, names=("north",)):
    replies = site.answer_train(names, wire.pack_model(model, number, mu))
    deltas = [wire.unpack_update(replies[name], name, len(START)).delta.tobytes() for name in names]
    return deltas[0] if len(deltas) == 1 else deltas


def measure(site, number=2, model=START, name="north"):
    reply = site.answer_evaluate(name, wire.pack_evaluation(model, number, histograms=True))
    return wire.unpack_histograms(reply, sum(spec.size for spec in site.specs)).tobytes()


def refused(code, call, *arguments, **named):
    with pytest.raises(FedkitError) as caught:
        call(*arguments, **named)
    assert caught.value.code == code, caught.value
    return str(caught.value)


@pytest.fixture
def unread(monkeypatch):
    """No record may be used."""
    for module, name in ((local, "train"), (federated, "cells_of")):
        monkeypatch.setattr(module, name, lambda *_, **__: pytest.fail("a record was read"))


@pytest.fixture
def gate(tmp_path):
    with Ledger.create(tmp_path / "north.sqlite") as ledger:
        ledger.create_budget("icu", unit="record", limit=3.0, delta=1e-5)
        made = Gate(ledger, "icu", "r1", PLAN)
        made.admit("sepsis")
        yield made


# Who may answer without a ledger


def test_a_private_site_without_a_ledger_answers_in_a_simulation_only(unread):
    assert "keeps no ledger" in refused("FK535", train, runtime())
    assert "keeps no ledger" in refused("FK535", measure, runtime())


def test_a_private_site_with_a_ledger_needs_no_simulation(gate):
    site = runtime(names=("north",), gates={"north": gate})
    assert train(site) == train(site)
    assert measure(site) == measure(site)


@pytest.mark.parametrize("privacy", [SEEDED, OPEN], ids=["seeded", "not private"])
def test_sites_that_promise_nothing_answer_as_often_as_they_are_asked(privacy):
    site = runtime(privacy, exact=True)
    first = train(site)
    assert train(site, model=START + 1) != first
    train(site, 2)
    assert train(site) == first


def test_a_site_tells_exact_metrics_only_where_it_was_told_to():
    refused("FK535", runtime().answer_evaluate, "north", wire.pack_evaluation(START, 1, histograms=False))
    assert wire.unpack_roster(runtime().answer_query("north")).evaluates is False
    told = runtime(exact=True).answer_evaluate("north", wire.pack_evaluation(START, 1, histograms=False))
    assert wire.unpack_metrics(told)[0] == 40


# One request a round, in memory


@pytest.mark.parametrize("ask", [train, measure])
def test_in_a_simulation_too_a_round_serves_one_request_with_one_reply(ask):
    site = runtime(exact=True)
    first = ask(site, 2)
    assert ask(site, 2) == first
    assert "another request" in refused("FK535", ask, site, 2, START + 1)
    later = ask(site, 3)
    assert later != first
    refused("FK535", ask, site, 2)
    assert ask(site, 3) == later
    assert ask(runtime(exact=True), 2) != first


def test_another_mu_is_another_request_and_another_site_has_rounds_of_its_own():
    site = runtime(exact=True)
    north = train(site)
    refused("FK535", train, site, mu=0.5)
    again, south = train(site, names=("north", "south"))
    assert again == north != south
    assert train(site, names=("south",)) == south


@pytest.mark.parametrize(("ask", "broken"), [(train, "train"), (measure, "cells_of")])
def test_in_a_simulation_too_a_round_that_failed_on_records_stays_failed(ask, broken, monkeypatch):
    def explode(*_):
        raise ValueError("an odd record")

    site, told = runtime(exact=True), []
    with monkeypatch.context() as patch:
        patch.setattr(local if broken == "train" else federated, broken, explode)
        with pytest.raises((ValueError, FedkitError)) as caught:
            ask(site, 2)
        told.append(public_code(caught.value))
    with pytest.raises(FedkitError) as caught:
        ask(site, 2)
    assert [*told, public_code(caught.value)] == [COMMON, COMMON]
    ask(site, 3)


@pytest.mark.parametrize("ask", [train, measure])
def test_a_request_that_is_refused_for_itself_closes_no_round(ask):
    site = runtime(exact=True)
    refused("FK401", ask, site, 2, START[1:])
    assert ask(site, 2)


# What a request may hold


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, np.nextafter(np.float32(1e6), np.float32(2e6)), -1e30])
@pytest.mark.parametrize("privacy", [PLAN, SEEDED], ids=["secure", "seeded"])
def test_a_private_site_takes_no_parameter_beyond_the_limit(bad, privacy, unread):
    model = START.copy()
    model[1] = bad
    site = runtime(privacy, exact=True)
    assert "1e+06" in refused("FK536", train, site, model=model)
    refused("FK536", measure, site, model=model)


def test_a_private_site_takes_parameters_up_to_the_limit():
    model = np.full_like(START, -PARAMETER_LIMIT)
    assert train(runtime(exact=True), model=model)
    assert measure(runtime(exact=True), model=model)


@pytest.mark.parametrize("mu", [float("nan"), float("inf"), -float("inf"), -1e-9, MOST_MU * 1.001])
def test_a_private_site_takes_no_odd_mu_and_any_other_site_only_a_finite_one(mu, unread):
    refused("FK536", train, runtime(exact=True), mu=mu)
    if not np.isfinite(mu):
        refused("FK536", train, runtime(OPEN), mu=mu)


def test_a_site_that_is_not_private_trains_models_of_any_size():
    assert train(runtime(OPEN), model=np.full_like(START, 1e7))
    assert train(runtime(exact=True), mu=MOST_MU)


def test_a_refused_request_costs_nothing(gate, unread):
    site = runtime(names=("north",), gates={"north": gate})
    for model in (START[1:], np.full_like(START, np.nan), np.full_like(START, 2e6)):
        refused("FK401" if len(model) < len(START) else "FK536", train, site, model=model)
        refused("FK401" if len(model) < len(START) else "FK536", measure, site, model=model)
    refused("FK536", train, site, mu=-1.0)
    refused("FK535", measure, site, 1)
    assert gate.ledger.account("icu").spent == 0


def test_the_limit_is_the_one_of_updates_and_its_code_is_public():
    assert PARAMETER_LIMIT == MAX_ENTRY
    assert {"FK535", "FK536"} <= PUBLIC_CODES and "FK354" not in PUBLIC_CODES


def test_a_deployed_site_has_no_way_to_answer_with_seeded_noise():
    refused("FK535", train, runtime(SEEDED))
    refused("FK535", measure, runtime(SEEDED))


@pytest.mark.parametrize("count", [0, 2, 50])
@pytest.mark.parametrize("through", ["gate", "recall"])
def test_a_site_releases_as_many_histograms_as_its_plan_pays_for(count, through, gate, unread):
    site = runtime(names=("north",), gates={"north": gate}) if through == "gate" else runtime(exact=True)
    site.specs = site.specs * count
    assert f"release {count} histograms; its plan pays for 1" in refused("FK535", measure, site)
    assert gate.ledger.account("icu").spent == 0
