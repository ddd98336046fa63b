"""A question about a site's columns passes the same gate as a round: signature, file, ledger, then records."""

import time

import numpy as np
import pytest
from fedkit_client.asked import Asked
from fedkit_client.deciding import described, text_of
from fedkit_client.lineage import runs_with
from fedkit_client.released import accounts, submitters

from fedkit.assurance.statistics import StatsRequest, plan_statistics, read_reply, request_job
from fedkit.errors import FederationError
from fedkit.federation import wire
from fedkit.governance.agreement import Standing
from fedkit.governance.statistics import Statistics
from fedkit.privacy.lattice import G
from fedkit.privacy.ledger.ledger import Ledger
from tests.clients.coordinator import DATASET, RECORDS, SITE, experiment, model

RELEASE = {"release": ["updates", "private_metrics", "statistics"]}
COLUMNS = ("died", "age")
NOISE = 4.0


def question(**changes):
    return Statistics(**{"columns": COLUMNS, "bins": 4, "noise_multiplier": NOISE, "delta": 1e-5, **changes})


def asked(made, run="question-1", config=None, **changes):
    job = made.coordinator.job(run, config, statistics=question(**changes))
    return made.coordinator.request(job, "statistics", 0, model(0))


def answer(made, *words, **changes):
    return made.keeper.answer("query", asked(made, *words, **changes))


def sums(reply, asked_of=None):
    asked_of = asked_of or question()
    request = StatsRequest(asked_of.columns, asked_of.bins, asked_of.noise_multiplier)
    return read_reply(experiment().data, SITE, request, wire.unpack_statistics(reply)) / G


@pytest.fixture
def open_site(bench):
    return bench(policy=RELEASE)


def lose_the_table(made):
    (made.folder.path / "table.csv").unlink()


def test_an_answer_counts_each_record_once_in_each_column_under_noise(open_site):
    counts = sums(answer(open_site))
    # 50 rows; target: 0, 1, missing; age: four bins and missing.
    died, age = counts[:3], counts[3:]
    for part in (died, age):
        assert abs(part.sum() - (RECORDS - 10)) < 6 * NOISE * len(part) ** 0.5
    assert not np.array_equal(counts, np.round(counts))
    assert open_site.charged() > 0


def test_it_costs_what_the_plan_says_and_what_fedkit_stats_would(open_site):
    plan = plan_statistics(experiment().data, epsilon=1.0, delta=1e-5, columns=COLUMNS, bins=4)
    answer(open_site, noise_multiplier=plan.request.noise_multiplier)
    told = accounts(open_site.folder, DATASET)
    (run,) = told["runs"]
    assert run["answered"] == {"stats": [0]} and run["state"] == "ended" and told["held"] == 0
    with Ledger(open_site.folder.ledger(DATASET), read_only=True) as ledger:
        account = ledger.account(DATASET)
        assert account.spent == account.cost(request_job(experiment().data, plan.request).charges)
    assert plan.epsilon <= run["epsilon"]


def test_the_same_question_of_another_job_is_answered_by_the_same_bytes_for_nothing(open_site):
    first = answer(open_site)
    entries = open_site.entries()
    lose_the_table(open_site)
    again = answer(open_site, "question-2")
    assert wire.unpack_statistics(again) == wire.unpack_statistics(first) and open_site.entries() == entries


@pytest.mark.parametrize("changes", [{"anew": "x"}, {"bins": 5}, {"columns": ("age",)}, {"noise_multiplier": 4.5}])
def test_another_question_is_charged_and_its_noise_is_new(open_site, changes):
    first, charged = answer(open_site), open_site.charged()
    second = answer(open_site, "question-2", **changes)
    assert wire.unpack_statistics(first) != wire.unpack_statistics(second) and open_site.charged() > charged


def test_another_purpose_may_be_about_other_people_and_is_asked_anew(bench):
    made = bench(policy={**RELEASE, "purposes": ["testing", "teaching"]})
    first, charged = answer(made), made.charged()
    second = answer(made, "question-2", experiment("purpose=teaching"))
    assert wire.unpack_statistics(first) != wire.unpack_statistics(second) and made.charged() == 2 * charged


@pytest.mark.parametrize(
    ("policy", "changes", "code"),
    [
        ({"release": ["updates", "private_metrics", "exact_metrics"]}, {}, "FK575"),
        ({**RELEASE, "submitters": ["bo"]}, {}, "FK572"),
        ({**RELEASE, "purposes": ["other"]}, {}, "FK570"),
        ({**RELEASE, "studies": ["registry"]}, {}, "FK571"),
        ({**RELEASE, "min_records": RECORDS + 1}, {}, "FK574"),
        ({**RELEASE, "min_other_sites": 1}, {}, "FK578"),
        ({**RELEASE, "approval": "manual"}, {}, "FK577"),
        ({**RELEASE, "max_epsilon_per_run": 0.2}, {}, "FK567"),
        (RELEASE, {"delta": 2e-5}, "FK566"),
        (RELEASE, {"columns": ("age", "salary")}, "FK370"),
    ],
)
def test_a_question_that_the_site_does_not_admit_costs_nothing_and_reads_nothing(bench, policy, changes, code):
    made = bench(policy=policy)
    entries = made.entries()
    lose_the_table(made)
    assert answer(made, **changes) == code and made.entries() == entries


def test_a_model_or_strategy_that_is_not_admitted_is_nothing_to_a_question(bench):
    made = bench(policy=RELEASE, data={"models": ["mlp"], "strategies": ["fedprox"]})
    assert not isinstance(answer(made), str)


def test_where_the_budget_ends_no_record_is_read(bench):
    made = bench(policy=RELEASE, data={"max_epsilon": 0.9})
    assert not isinstance(answer(made, noise_multiplier=8.0), str)
    before = made.entries()
    lose_the_table(made)
    assert answer(made, "question-2", anew="again", noise_multiplier=8.0) == "FK372" and made.entries() == before


def test_what_was_signed_as_a_question_trains_nothing_and_a_run_answers_none(open_site):
    made = open_site
    job = made.coordinator.job("question-1", statistics=question())
    for kind, size in (("train", 5), ("evaluate", 5)):
        with pytest.raises(FederationError, match="FK542"):
            made.coordinator.request(job, kind, 1, model(size))
    run = made.coordinator.job("run-1")
    with pytest.raises(FederationError, match="FK542"):
        made.coordinator.request(run, "statistics", 0, model(0))
    # Nor does the site take an order of the one for the other, whoever has signed it.
    train = made.coordinator.request(run, "train", 1, model(5))
    assert made.keeper.answer("query", train) == "FK542"
    assert made.keeper.answer("train", asked(made)) == "FK542"
    assert made.charged() == 0


def test_who_does_not_consent_is_not_counted_and_who_has_withdrawn_is_left_out_of_what_is_asked_anew(bench):
    made = bench(
        policy=RELEASE,
        data={"consent": {"column": {"name": "rate", "values": [str(60 + (i * 13) % 90) for i in range(5)]},
                          "unit": "age"}},
    )  # fmt: skip
    counts = sums(answer(made, noise_multiplier=0.5), question(noise_multiplier=0.5))
    assert abs(counts[:3].sum() - 5) < 6 * 0.5 * 3**0.5
    used = runs_with(made.folder, DATASET, "20")
    assert used and used[0]["statistics"] == [0] and used[0]["train"] == [] and used[0]["model"] == ""


def test_a_question_that_fails_while_it_is_counted_has_failed_for_ever(open_site, monkeypatch):
    def fails(*_):
        raise ValueError("Jane Doe")

    with monkeypatch.context() as patched:
        patched.setattr("fedkit_client.statistics.site_reply", fails)
        assert answer(open_site) == "FK500"
    charged = open_site.charged()
    assert charged > 0 and answer(open_site, "question-2") == "FK500" and open_site.charged() == charged
    assert not isinstance(answer(open_site, "question-3", anew="x"), str)


def test_a_table_that_cannot_be_read_is_counted_later_under_the_same_charge(open_site):
    table = open_site.folder.path / "table.csv"
    content = table.read_bytes()
    table.unlink()
    assert answer(open_site) == "FK500"
    charged = open_site.charged()
    table.write_bytes(content)
    assert charged > 0 and not isinstance(answer(open_site, "question-2"), str) and open_site.charged() == charged


def test_a_table_is_read_ten_times_for_one_job_and_no_more(open_site):
    """How long it takes tells how many rows there are: a question that is never answered is not asked without end."""
    request, table = asked(open_site), open_site.folder.path / "table.csv"
    content = table.read_bytes()
    table.unlink()
    answers = [open_site.keeper.answer("query", request) for _ in range(12)]
    assert answers == ["FK500"] * 10 + ["FK581"] * 2
    table.write_bytes(content)
    assert open_site.keeper.answer("query", request) == "FK581"
    # Another job goes on under the same charge, and what it was answered is given to both.
    charged, other = open_site.charged(), answer(open_site, "question-2")
    assert not isinstance(other, str) and open_site.charged() == charged
    again = open_site.keeper.answer("query", request)
    assert wire.unpack_statistics(again) == wire.unpack_statistics(other)


def test_the_log_tells_who_asked_what_it_cost_and_under_which_guarantee(open_site):
    answer(open_site)
    kinds = {event.kind: event.fields for event in open_site.keeper.findings.events}
    assert list(kinds) == ["admitted", "reserved"] and kinds["reserved"]["purpose"] == "statistics"
    told = open_site.keeper.findings.guarantee
    assert told["guarantee"] == "dp" and told["unit"] == "record" and 0 < told["epsilon"] < 3
    (run,) = accounts(open_site.folder, DATASET)["runs"]
    assert kinds["admitted"]["account"] == run["run"] and kinds["admitted"]["submitter"] == "ana"
    assert submitters([open_site.folder.path / "audit.jsonl"]) == {}


def test_a_person_is_shown_that_it_trains_nothing_and_what_it_costs(bench):
    made = bench(policy={**RELEASE, "approval": "manual"})
    assert answer(made) == "FK577"
    from fedkit_client.approvals import Approvals

    approvals, now = Approvals(made.folder.approvals_file), time.time()
    (run,) = approvals.read().open(now)
    shown = text_of(described(run, approvals.read(), now))
    assert "statistics alone: noisy histograms of died, age" in shown and "epsilon" in shown and " rounds," not in shown
    assert Asked(made.folder.asked_file).find(run.run).circumstances(now, "", Standing()).statistics == question()
