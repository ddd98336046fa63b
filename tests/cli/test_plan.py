import json
import math

import pytest

from fedkit.privacy.accounting import GaussianEvent, epsilon_of
from fedkit.privacy.calibration import noise_multiplier_for
from fedkit.privacy.events import gaussian_delta
from fedkit.training import local
from fedkit.training.cohort import Cohort
from tests.simulation.conftest import write_table


@pytest.fixture(autouse=True)
def untrained(monkeypatch, tmp_path):
    """Nothing may train and nothing may be written, whatever the words."""

    def refuse(*_, **__):
        raise AssertionError("a plan must not train")

    monkeypatch.setattr(Cohort, "train", refuse)
    monkeypatch.setattr(local, "train", refuse)
    yield
    assert not (tmp_path / "runs").exists()


def planned(cli, *words):
    status, out, err = cli("plan", *words, "--json")
    assert (status, err) == (0, ""), err
    assert len(out.splitlines()) == 1
    return json.loads(out)


def test_every_site_has_its_plan_its_cost_and_its_noise(cli):
    found = planned(cli, "heart_disease")
    assert list(found["sites"]) == ["cleveland", "hungary", "switzerland", "va"]
    for site, records in (("cleveland", 303), ("switzerland", 123)):
        cost = found["sites"][site]
        assert (cost["sample_rate"], cost["steps"], cost["rounds"], cost["delta"]) == (0.1, 10, 15, 1e-5)
        assert (cost["records"], cost["records_declared"]) == (records, True)
        assert (cost["unit"], cost["adjacency"], cost["accountant"]) == ("record", "add_remove", "pld")
        # The evaluation comes first; the training's noise is calibrated to what it leaves.
        sigma, measured = cost["noise_multiplier"], cost["evaluation"]
        histograms = measured["histograms"] * len(measured["rounds"])
        others = (GaussianEvent(1.0, measured["noise_multiplier"], histograms),)
        assert sigma == noise_multiplier_for(3.0, gaussian_delta(1e-5), 0.1, 150, others)
        spent = epsilon_of((GaussianEvent(0.1, sigma, 150), *others), gaussian_delta(1e-5))
        assert cost["epsilon"] == spent <= 3.0 < cost["rdp_epsilon"] < 3.5
        assert cost["lot_size"] == pytest.approx(0.1 * records * 0.66)
        assert cost["noise_to_signal"] == pytest.approx(sigma * math.sqrt(14) / cost["lot_size"])
    assert found["parameters"] == 14


def test_the_site_that_binds_is_named(cli, tmp_path):
    found = planned(cli, "heart_disease")
    assert found["binds"]["epsilon"] == ["cleveland", "hungary", "switzerland", "va"]
    assert found["binds"]["noise_to_signal"] == ["switzerland"]
    # One multiplier and batch size for two sites: the smaller one samples a larger share, and costs more.
    my = write_table(tmp_path / "my", sizes={"north": 120, "south": 80}, records="records: {north: 120, south: 80}")
    words = ["privacy.epsilon=null", "privacy.noise_multiplier=2", "privacy.sample_rate=null", "training.batch_size=12"]
    mine = planned(cli, "--config-dir", str(my), "data=icu", *words)
    sites = mine["sites"]
    assert sites["south"]["sample_rate"] == 12 / 80
    assert sites["south"]["epsilon"] > sites["north"]["epsilon"] + 0.1
    assert mine["binds"]["epsilon"] == ["south"]
    assert mine["unit"] == sites["south"]["unit"] == "patient"
    assert mine["notes"] == []


def test_rounds_affordable_are_not_known_without_a_ledger_and_it_says_so(cli):
    found = planned(cli, "heart_disease")
    assert found["ledger"] is None
    assert {site["rounds_affordable"] for site in found["sites"].values()} == {None}
    assert found["ledger_statement"] == "no ledger: rounds affordable are not known"


PAID = ["heart_disease", "privacy.noise=secure", "ledgers_dir=ledgers"]
SITES = ("cleveland", "hungary", "switzerland", "va")


def budgets(cli, *sites, limit):
    for site in sites or SITES:
        words = ["--dataset", "heart_disease", "--unit", "record", "--epsilon", f"{limit}", "--delta", "1e-5"]
        assert cli("ledger", "create", f"ledgers/{site}.sqlite", *words)[0] == 0


def test_ledgers_say_what_they_would_charge_and_the_rounds_that_they_afford(cli):
    budgets(cli, limit=8)
    found = planned(cli, *PAID)
    assert "refused" not in found
    assert found["ledger"]["dir"] == "ledgers"
    for site in SITES:
        cost, ledger = found["sites"][site], found["ledger"]["sites"][site]
        assert cost["rounds_affordable"] == ledger["rounds_affordable"] > 15
        assert (ledger["limit"], ledger["delta"], ledger["order"]) == (8.0, 1e-5, 3.9)
        assert (ledger["spent"], ledger["held"], ledger["left"], ledger["affordable"]) == (0, 0, 1, True)
        assert ledger["takes"] + ledger["left_after"] == pytest.approx(1)
        assert ledger["epsilon_filter"] > ledger["epsilon_pld_after"] >= cost["epsilon"]
        assert ledger["binds"] == "filter"
    assert found["binds"]["rounds_affordable"] == list(SITES)
    assert "at every site" in found["ledger_statement"] and "the ledger's filter binds" in found["ledger_statement"]
    # Nothing was held: asking again gives the same.
    assert planned(cli, *PAID) == found


def test_a_site_that_cannot_pay_is_refused_beside_the_whole_table(cli, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    budgets(cli, "cleveland", "hungary", "switzerland", limit=8)
    budgets(cli, "va", limit=2)
    status, out, err = cli("plan", *PAID)
    assert status == 2
    assert err.startswith("fedkit: FK339: va: the run would take ")
    assert "Remedy: set privacy.epsilon=" in err
    said = " ".join(out.split())
    assert "the fewest, at va; 15 are planned" in said
    assert "Everything that the sites' updates and histograms reveal" in said
    assert max(len(line) for line in out.splitlines()) <= 80
    status, out, err = cli("plan", *PAID, "--json")
    assert status == 2 and len(out.splitlines()) == 1
    found = json.loads(out)
    assert found["refused"]["code"] == "FK339"
    assert found["refused"]["message"].startswith("va: ") and "privacy.epsilon=" in found["refused"]["remedy"]
    assert found["binds"]["rounds_affordable"] == ["va"]
    assert err.startswith("fedkit: FK339: va: ")
    # The remedy is one.
    mended = planned(cli, *PAID, found["refused"]["remedy"].split(",")[0].removeprefix("set "))
    assert "refused" not in mended


def test_missing_ledgers_are_refused_with_the_commands_that_make_them(cli):
    budgets(cli, "cleveland", "hungary", limit=8)
    status, out, err = cli("plan", *PAID, "--json")
    found = json.loads(out)
    assert status == 2 and found["refused"]["code"] == "FK330"
    assert list(found["ledger"]["sites"]) == ["cleveland", "hungary"]
    assert found["sites"]["va"]["rounds_affordable"] is None
    commands = [line.split("`")[1] for line in err.splitlines() if "`fedkit ledger create" in line]
    assert len(commands) == 2
    for command in commands:
        assert cli(*command.split()[1:])[0] == 0
    assert "refused" not in planned(cli, *PAID)
    status, out, _ = cli("plan", *PAID[:2], "ledgers_dir=elsewhere")
    assert status == 2
    assert "No ledger in elsewhere can be used: rounds affordable are not known." in " ".join(out.split())


def test_a_long_ledger_says_that_its_figure_is_being_computed(cli, monkeypatch):
    from contextlib import contextmanager

    from fedkit.cli import ledger_commands

    said = []

    @contextmanager
    def status(sentence):
        said.append(sentence)
        yield

    monkeypatch.setattr(ledger_commands, "computing", lambda *, enabled: status if enabled else None)
    budgets(cli, limit=8)
    assert cli("plan", *PAID)[0] == 0
    assert [sentence.split(":")[0] for sentence in said] == list(SITES)
    assert all("computing the PLD figure of heart_disease" in sentence for sentence in said)
    assert cli("plan", *PAID)[0] == 0
    assert len(said) == 4


def test_seeded_noise_is_never_planned_against_a_ledger(cli):
    status, _, err = cli("plan", "heart_disease", "ledgers_dir=ledgers")
    assert status == 2
    assert "a ledger charges only real noise" in err


@pytest.mark.parametrize("noise", ["seeded", "secure"])
def test_only_real_noise_is_called_private(cli, noise):
    found = planned(cli, "heart_disease", f"privacy.noise={noise}")
    assert (found["noise"], found["private"]) == (noise, noise == "secure")
    assert ("Not private" in found["statement"]) == (noise == "seeded")
    for word in ("epsilon 3.00", "delta 1e-5", "one record", "add or remove", "every site"):
        assert word in found["statement"]


def test_without_privacy_nothing_is_promised(cli):
    found = planned(cli, "heart_disease", "privacy=none")
    assert (found["mode"], found["noise"], found["private"], found["binds"]) == ("none", None, False, {})
    assert found["sites"]["va"] == {"steps": 10, "batch_size": 14, "rounds": 15}
    assert found["statement"].startswith("Not private: with privacy=none")
    status, out, _ = cli("plan", "heart_disease", "privacy=none")
    assert status == 0
    assert "Not private" in out
    assert "none" in out
    assert "edger" not in out


def test_the_table_fits_eighty_columns_and_says_what_its_numbers_are(cli, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    status, out, _ = cli("plan", "heart_disease", "federation.fraction_train=0.5")
    assert status == 0
    said = " ".join(out.split())
    for word in ("cleveland", "sigma", "by RDP", "noise/signal", "sigma * sqrt(parameters) / lot", "Not private"):
        assert word in said
    cost = planned(cli, "heart_disease")["sites"]["switzerland"]
    noise = f"{cost['noise_to_signal']:.3g}"
    assert f"Binds: epsilon 3.00, at every site; noise/signal {noise}, the largest, at switzerland" in said
    assert "No ledger: rounds affordable are not known." in said
    assert "being left out is never credited" in said
    row = next(line for line in out.splitlines() if line.startswith("switzerland"))
    # Protection is rounded down: as shown, no noise is larger than it is.
    sigma, measured = (
        f"{math.floor(1e4 * value) / 1e4:.4f}"
        for value in (cost["noise_multiplier"], cost["evaluation"]["noise_multiplier"])
    )
    rdp = f"{math.ceil(100 * cost['rdp_epsilon']) / 100:.2f}"
    # 3 histograms: overall, sex, age.
    cells = ["switzerland", "123", "0.1000", sigma, "10", "8.1", "3", "at", measured, "3.00", rdp, noise]
    assert row.split() == cells


def test_without_an_evaluation_the_plan_says_none(cli):
    status, out, _ = cli("plan", "heart_disease", "privacy.evaluation.share=null", "privacy.noise=secure")
    assert status == 0
    row = next(line for line in out.splitlines() if line.startswith("switzerland"))
    assert row.split()[6] == "none"
    assert "Everything that the sites' updates reveal" in " ".join(out.split())


def test_a_plan_warns_of_the_data_and_names_sites_that_release_no_histogram(cli, tmp_path):
    my = write_table(tmp_path / "my", sizes={"north": 120, "south": 16}, records="records: {north: 120, south: 16}")
    table = my / "data" / "icu.csv"
    lines = table.read_text(encoding="utf-8").splitlines()
    # Three rows without an outcome.
    untold = [line[: line.rindex(",") + 1] for line in lines[1:4]]
    table.write_text("\n".join([lines[0], *untold, *lines[4:]]) + "\n", encoding="utf-8")
    found = planned(cli, "--config-dir", str(my), "data=icu")
    assert "south releases no histogram: at least 5 declared test units are needed" in found["notes"]
    assert "3 of 136 rows have no died and are left out" in " ".join(found["notes"])
    assert found["sites"]["north"]["evaluation"] and found["sites"]["south"]["evaluation"] is None
    status, out, _ = cli("plan", "--config-dir", str(my), "data=icu")
    assert status == 0
    said = " ".join(out.split())
    assert "! south releases no histogram" in said and "3 of 136 rows have no died" in said


def test_a_true_count_that_stands_in_is_marked(cli):
    found = planned(cli, "data=breast_cancer")
    assert not any(site["records_declared"] for site in found["sites"].values())
    assert "not declared" in found["notes"][-1]
    status, out, _ = cli("plan", "data=breast_cancer")
    assert status == 0
    assert f"{found['sites']['site_1']['records']}*" in out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["heart_diseas"], ["did you mean 'heart_disease'"]),
        (["heart_disease", "privacy.epsilon=-1", "federation.num_rounds=0"], ["privacy.epsilon", "num_rounds"]),
        (
            ["heart_disease", "privacy.epsilon=1e-6", "privacy.delta=1e-9"],
            ["privacy.epsilon is 1e-06", "at least 0.0001"],
        ),
        (["heart_disease", "privacy.delta=0.01"], ["1 / 303", "privacy.delta="]),
        (["heart_disease", "federation.min_sites=9"], ["min_sites", "4 sites"]),
        (["heart_disease", "strategy=bulyan", "strategy.num_malicious=3"], ["bulyan"]),
    ],
)
def test_impossible_plans_are_refused_with_the_remedy(cli, words, said):
    status, out, err = cli("plan", *words)
    assert (status, out) == (2, "")
    assert err.startswith("fedkit: FK")
    for word in said:
        assert word in err


def test_help_has_an_example(cli):
    status, out, _ = cli("plan", "--help")
    assert status == 0
    assert "Example: fedkit plan heart_disease" in " ".join(out.split())


# Seconds of accounting or of real processes: make test runs these, the two-minute loop of make check does not.
pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("digits", "training.engine=closed_form"), "FK417"),
        (("heart_disease", "training.engine=closed_form", "training.memory_gb=1e-5"), "FK418"),
    ],
)
def test_an_engine_that_simulate_would_refuse_is_refused(cli, words, code):
    """The second's smallest site would fit without its lots."""
    status, out, err = cli("plan", *words)
    assert (status, out) == (2, "") and f"{code}: training.engine=closed_form cannot train this model" in err
