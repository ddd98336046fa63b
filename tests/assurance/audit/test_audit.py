"""A correct mechanism passes, and what an audit says of it; planted faults are in test_faults.py."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

from fedkit.assurance.audit import audit, verdict
from fedkit.assurance.audit.measure import Scores
from fedkit.assurance.audit.one_run import CONFIDENCE, OneRun
from fedkit.assurance.audit.verdict import CONFIRMED, FALSE_ALARM, MAX_SITES, PER_SITE, SHARED
from fedkit.errors import PrivacyError
from fedkit.privacy import dp_sgd, lattice
from fedkit.privacy import plan as planning
from tests.assurance.audit.builders import RARELY, ROUNDS, audited, contradicted, dataset, plans

SLOW = pytest.mark.slow


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "unit"),
    [
        ("binary", "record"),
        pytest.param("binary", "patient", marks=SLOW),
        pytest.param("multiclass", "patient", marks=SLOW),
        pytest.param("regression", "record", marks=SLOW),
    ],
)
def test_a_correct_mechanism_is_not_contradicted(monkeypatch, kind, unit):
    found = audited(monkeypatch, kind, unit, false_alarm=RARELY)
    assert contradicted(found) == set()
    assert found.to_dict()["verdict"] == "no contradiction"
    [bound] = [finding for finding in found.findings if finding.check == "bound.one_run"]
    # A thousand canaries show nothing at all in one audit of forty.
    assert 0 <= bound.estimate < bound.expected


@pytest.mark.slow
@SLOW
def test_every_quantity_of_the_plan_is_estimated_beside_it(monkeypatch):
    found = audited(monkeypatch, noise="seeded", wide=2**14, false_alarm=RARELY)
    assert contradicted(found) == set()
    measured = {finding.check: finding for finding in found.findings if finding.status == "holds"}
    for check, planned in (("noise.sigma", 2.0), ("noise.steps", 5), ("sampling.rate", 0.1), ("clip.largest", 1.0),
                           ("noise.kurtosis", 3.0), ("noise.seeded", 2.0)):  # fmt: skip
        finding = measured[check]
        assert finding.expected == planned
        assert finding.low <= finding.estimate <= finding.high
        assert finding.low < planned * 1.01 and finding.high > planned * 0.99
    for check in ("noise.distribution", "noise.tail_4", "noise.empty_lots", "noise.every_step", "noise.own_model",
                  "noise.resolution", "correlation.steps.any_two", "correlation.steps.lags", "correlation.steps.sites",
                  "correlation.steps.coordinates", "correlation.rounds.any_two", "correlation.seeded.any_two",
                  "sampling.lots", "sampling.records", "sampling.rounds", "sampling.sites", "clip.noisy",
                  "clip.influence", "clip.own_model", "accounting.planned", "accounting.observed",
                  "release.surface"):  # fmt: skip
        assert check in measured


EXACT = ("clip.largest", "clip.influence", "clip.own_model", "release.surface",
         "accounting.planned", "accounting.observed")  # fmt: skip
"""What draws nothing, or reads the intervals of other findings."""


@pytest.mark.slow
@SLOW
def test_the_error_rate_is_shared_among_no_fewer_findings_than_there_are(monkeypatch):
    found = audited(monkeypatch, noise="seeded")
    drawn = [each for each in found.findings if each.check not in EXACT]
    # The bound stands once for all sites here; sites of different claims have one each.
    assert len([each for each in drawn if each.site == "north"]) + 1 <= PER_SITE
    assert len([each for each in drawn if each.site == "all"]) <= SHARED
    assert found.to_dict()["false_alarm"] == FALSE_ALARM == 1e-4
    assert (1 - CONFIDENCE) ** CONFIRMED <= FALSE_ALARM / (PER_SITE * MAX_SITES + SHARED)


def noise_over(divisor):
    return lambda source, d, sigma, *rest: lattice.integer_noise(source, d, sigma / divisor, *rest)


def test_noise_halved_is_caught(monkeypatch):
    monkeypatch.setattr(dp_sgd, "integer_noise", noise_over(2))
    found = audited(monkeypatch)
    assert {"noise.sigma", "noise.empty_lots", "noise.own_model", "accounting.observed"} <= contradicted(found)
    [sigma] = [each for each in found.findings if each.check == "noise.sigma" and each.site == "north"]
    # Its standard error is .28 %.
    assert 0.98 < sigma.estimate < 1.02
    assert sigma.verdict == "less noise than planned"
    # What made the project estimate sigma at all: the lower bound alone does not see it.
    assert "bound.one_run" not in contradicted(found)


@SLOW
def test_an_accountant_that_charges_one_step_a_round_is_caught(monkeypatch):
    right = planning.accounting.epsilon_of

    def one_step_a_round(events, delta):
        return right(tuple(replace(event, steps=-(-event.steps // 5)) for event in events), delta)

    monkeypatch.setattr(planning.accounting, "epsilon_of", one_step_a_round)
    found = audited(monkeypatch, false_alarm=RARELY)
    assert contradicted(found) == {"accounting.planned", "accounting.observed"}


def test_without_privacy_there_is_nothing_to_audit():
    data = dataset()
    bare = {site: replace(plan, privacy=None) for site, plan in plans(data).items()}
    with pytest.raises(PrivacyError, match="nothing to audit") as raised:
        audit(torch.nn.Linear(5, 1), data, bare, num_rounds=ROUNDS, seed=1)
    assert raised.value.code == "FK360"


@pytest.mark.slow
@SLOW
def test_an_audit_leaves_torchs_generator_as_it_was(monkeypatch):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    audited(monkeypatch, releases=16)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.slow
@SLOW
def test_false_alarms_are_no_more_frequent_than_stated(monkeypatch):
    alarms = Counter()
    for _ in range(8):
        found = audited(monkeypatch, false_alarm=0.5)
        alarms.update((each.check, each.site) for each in found.contradictions if each.check not in EXACT)
    # One half is shared among 44: a single finding alarms in 5 of 8 audits with a chance of 1e-8, and of all 44
    # together 4 alarms are expected at most, 20 with a chance below 1e-7.
    assert max(alarms.values(), default=0) < 5
    assert sum(alarms.values()) < 20


@pytest.mark.parametrize(
    ("epsilons", "asked", "told"),
    [((0.5,), 1, 0.5), ((9.0, 0.5), 2, 0.5), ((9.0, 8.0, 7.0, 6.0, 1.0), 5, 1.0), ((9.0, 6.0, 7.0, 8.0, 5.0), 5, 5.0)],
)
def test_a_bound_refutes_a_claim_only_where_fresh_canaries_confirm_it_every_time(monkeypatch, epsilons, asked, told):
    plan = replace(plans(dataset())["north"].privacy, epsilon=3.0)
    fresh = [Scores(np.full(7, float(index)), np.ones(7, dtype=bool)) for index in range(CONFIRMED)]
    found = iter(epsilons)
    seen = []

    def one_run(scores, included, delta):
        seen.append(scores[0])
        return OneRun(next(found), len(scores), 100, 90, 16)

    monkeypatch.setattr(verdict, "one_run", one_run)
    again = iter(fresh[1:])
    bound = verdict._bound(plan, ["north"], {"north": fresh[0]}, lambda: {"north": next(again)}, 8)
    assert seen == list(range(asked)) and asked <= CONFIRMED
    assert bound.estimate == told
    assert bound.status == ("contradiction" if told > 3.0 else "holds")
    assert ("least of" in bound.verdict) == (asked > 1)


@pytest.mark.slow
@SLOW
def test_sites_beyond_the_most_are_named(monkeypatch):
    found = audited(monkeypatch, sites=tuple("abcdefgh"), releases=16, false_alarm=RARELY)
    assert len(found.claims) == MAX_SITES
    assert found.unaudited == ("g", "h")
    assert any("not audited" in note and "g, h" in note for note in found.notes)
    assert contradicted(found) == set()
