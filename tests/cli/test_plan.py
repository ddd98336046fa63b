import json
import math

import pytest

from fedkit.federation import site as federated
from fedkit.privacy.accounting import epsilon, noise_multiplier_for
from tests.simulation.conftest import write_table


@pytest.fixture(autouse=True)
def untrained(monkeypatch, tmp_path):
    """Nothing may train and nothing may be written, whatever the words."""

    def refuse(*_, **__):
        raise AssertionError("a plan must not train")

    monkeypatch.setattr(federated, "train", refuse)
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
    sigma = noise_multiplier_for(3.0, 1e-5, 0.1, 150)
    for site, records in (("cleveland", 303), ("switzerland", 123)):
        cost = found["sites"][site]
        assert (cost["sample_rate"], cost["steps"], cost["rounds"], cost["delta"]) == (0.1, 10, 15, 1e-5)
        assert (cost["records"], cost["records_declared"]) == (records, True)
        assert (cost["unit"], cost["adjacency"], cost["accountant"]) == ("record", "add_remove", "pld")
        assert cost["noise_multiplier"] == sigma
        assert cost["epsilon"] == epsilon(0.1, sigma, 150, 1e-5) <= 3.0 < cost["rdp_epsilon"] < 3.5
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
    assert "Binds: epsilon 3.00, at every site; noise/signal 0.896, the largest, at switzerland" in said
    assert "No ledger: rounds affordable are not known." in said
    assert "being left out is never credited" in said
    row = next(line for line in out.splitlines() if line.startswith("switzerland"))
    assert row.split() == ["switzerland", "123", "0.1000", "1.943", "10", "8.1", "3.00", "3.30", "0.896"]


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
