"""A job that names a site twice, in two spellings, is no way to ask how many units the site has."""

from dataclasses import replace

import pytest

from fedkit.errors import FederationError
from fedkit.governance.admission import weigh
from fedkit.governance.clauses import Circumstances
from tests.clients.coordinator import RECORDS, SITE, experiment, model

SIZE, TRUE = 5, RECORDS - 10
SPELLINGS = (f"{SITE} ", f" {SITE}", f"{SITE}\u2003")


def twice(spelling, records):
    config = experiment()
    return replace(config, data=replace(config.data, records={SITE: records, spelling: RECORDS}))


def ask(made, config, run="run-1"):
    job = made.coordinator.job(run, config)
    return made.keeper.answer("train", made.coordinator.request(job, "train", 1, model(SIZE)))


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_job_that_names_a_site_twice_is_none(bench, spelling):
    with pytest.raises(FederationError, match=r"FK546.*names a site twice"):
        ask(bench(), twice(spelling, RECORDS))


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_no_answer_tells_whether_a_site_has_more_units_than_a_job_likes(bench, monkeypatch, spelling):
    """Of two neighbouring tables one was refused and the other answered: the exact count, by bisection, for nothing.

    The file refuses it by itself, as if whoever reads jobs had let it in.
    """
    made = bench()
    monkeypatch.setattr("fedkit.federation.job.name_text", lambda name: name)
    answers = [ask(made, twice(spelling, number), f"run-{number}") for number in (TRUE - 1, TRUE)]
    assert answers == ["FK542", "FK542"] and made.charged() == 0
    with pytest.raises(FederationError, match=r"FK542.*names a site twice"):
        weigh(twice(spelling, TRUE), made.keeper.file, Circumstances(0.0))


def test_a_table_is_held_against_the_site_s_own_count_whatever_a_job_says(bench, monkeypatch):
    """Were a job let in with another count, it would still not choose which tables are refused."""
    made, seen = bench(), []
    monkeypatch.setattr("fedkit.governance.admission.len", lambda _: 0, raising=False)
    monkeypatch.setattr("fedkit.federation.job.name_text", lambda name: name)
    monkeypatch.setattr("fedkit.data.load.load_site_dataset", lambda own, *_, **__: seen.append(own.records) or 1 / 0)
    ask(made, twice(SPELLINGS[0], TRUE - 1))
    assert seen == [{SITE: RECORDS}]
