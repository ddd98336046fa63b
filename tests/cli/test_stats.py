import json

import pytest

from fedkit.assurance import collect
from fedkit.errors import PrivacyError
from fedkit.privacy.accounting import GaussianEvent, epsilon_of
from fedkit.privacy.events import gaussian_delta
from fedkit.privacy.ledger.ledger import Ledger
from fedkit.privacy.randomness import Seeded
from tests.simulation.conftest import write_table

SITES = ("cleveland", "hungary", "switzerland", "va")
ASK = ("stats", "heart_disease", "--epsilon", "1", "--columns", "age,cp,num")


def asked(cli, *words):
    status, out, err = cli(*words, "--json")
    assert (status, err) == (0, ""), err
    assert len(out.splitlines()) == 1
    return json.loads(out)


def refused(cli, code, *words):
    status, out, err = cli(*words)
    assert (status, out) == (2, ""), err
    assert err.startswith("fedkit: FK")
    assert code in err
    return err


@pytest.fixture
def unread(monkeypatch):
    """No record may be read, whatever the words."""

    def refuse(*_):
        raise AssertionError("no record may be read")

    monkeypatch.setattr(collect, "read_rows", refuse)


@pytest.fixture
def budgets(tmp_path):
    def make(limit=3.0, dataset="heart_disease", sites=SITES, unit="record"):
        folder = tmp_path / "budgets"
        folder.mkdir()
        for site in sites:
            with Ledger.create(folder / f"{site}.sqlite") as ledger:
                ledger.create_budget(dataset, unit=unit, limit=limit, delta=1e-5)
        return folder

    return make


def spent(folder, dataset="heart_disease"):
    found = []
    for path in sorted(folder.glob("*.sqlite")):
        with Ledger(path) as ledger:
            found.append((ledger.account(dataset).spent, ledger.account(dataset).held()))
    return found


def test_the_json_holds_the_cost_and_every_figure(cli):
    found = asked(cli, *ASK)
    assert (found["noise"], found["private"], found["unit"], found["adjacency"]) == (
        "seeded",
        False,
        "record",
        "add_remove",
    )
    assert (found["ledgers"], found["run"], found["study"], found["bins"]) == (None, None, None, 10)
    assert found["columns"] == ["age", "cp", "num"]
    sigma = found["noise_multiplier"]
    assert found["events"] == [{"sample_rate": 1.0, "noise_multiplier": sigma, "steps": 3}]
    assert (
        found["epsilon"]
        == epsilon_of([GaussianEvent(1.0, sigma, 3)], gaussian_delta(1e-5))
        <= found["target_epsilon"]
        == 1.0
    )
    assert found["charges"] == {
        site: {"noise_multiplier": sigma, "epsilon": found["epsilon"], "state": "unpaid"} for site in SITES
    }
    assert list(found["sites"]) == list(SITES)
    for scope in (found["pooled"], *found["sites"].values()):
        assert set(scope) == {"count", "noise", "columns"}
        age, cp, num = scope["columns"]
        assert set(age) == {"name", "role", "missing", "missing_share", "mean", "variance", "quantiles", "cells",
                            "outside", "outside_share"}  # fmt: skip
        assert age["outside"] is not None and cp["outside"] is None
        assert list(age["quantiles"]) == ["0.05", "0.25", "0.5", "0.75", "0.95"]
        assert (age["cells"][0]["label"], age["cells"][0]["high"], age["cells"][-1]["low"]) == ("below 20", 20.0, 90.0)
        assert (age["cells"][1]["label"], age["cells"][1]["low"], age["cells"][-2]["high"]) == ("20 to 27", 20.0, 90.0)
        assert [cell["label"] for cell in cp["cells"]] == ["1", "2", "3", "4", "other"]
        assert (cp["mean"], cp["quantiles"], num["role"]) == (None, {}, "target")
        for figure in (scope["count"], age["mean"], age["cells"][4]["count"], cp["cells"][3]["share"]):
            assert set(figure) == {"value", "low", "high", "suppressed", "below"}
            assert figure["suppressed"] == (figure["value"] is None)
    count = found["pooled"]["count"]
    # One interval in twenty does not hold it; how often they do is tested where they are made.
    assert abs(count["value"] - 920) < 2 * (count["high"] - count["low"])


def test_a_seed_decides_the_noise_and_secure_noise_has_none(cli):
    first = asked(cli, *ASK)
    assert first["seed"] == 0 or first["seed"] > 0
    assert asked(cli, *ASK) == first
    assert asked(cli, *ASK, "--seed", str(first["seed"])) == first
    assert asked(cli, *ASK, "--seed", "98765")["pooled"] != first["pooled"]
    secure = [asked(cli, *ASK, "--noise", "secure") for _ in range(2)]
    assert secure[0]["pooled"] != secure[1]["pooled"]
    assert (secure[0]["private"], secure[0]["seed"], secure[0]["noise"]) == (True, None, "secure")


def test_words_never_promise_more_than_the_noise_keeps(cli):
    seeded, secure = asked(cli, *ASK), asked(cli, *ASK, "--noise", "secure")
    assert seeded["statement"].startswith("Not private: the noise is seeded, for replay.")
    assert secure["statement"].startswith(
        "Everything shown costs epsilon 1.00 at delta 1e-5 for one record at each site"
    )
    assert "No ledger keeps count" in secure["statement"]


def test_what_it_charges_is_printed_before_anything_is_computed(cli, monkeypatch):
    def refuse(*_):
        raise PrivacyError("no record was read yet", code="FK376")

    monkeypatch.setattr(collect, "read_rows", refuse)
    status, out, err = cli(*ASK)
    assert status == 2 and "FK376" in err
    said = " ".join(out.split())
    assert "3 columns, 4 sites" in said and "Not private: the noise is seeded" in said
    for site in SITES:
        assert any(line.startswith(site) and line.split()[-1] == "1.00" for line in out.splitlines())


def test_the_table_shows_charges_then_columns_by_site(cli, monkeypatch, budgets):
    monkeypatch.setenv("COLUMNS", "100")
    # Which cells are suppressed everywhere is a matter of the noise.
    monkeypatch.setattr(collect, "Secure", lambda: Seeded(1))
    status, out, _ = cli(*ASK, "--ledgers", str(budgets()), "--study", "sepsis")
    assert status == 0
    said = " ".join(out.split())
    assert "one noisy histogram a column at each site" in said
    assert "takes left before budget" in said
    assert "100.00 % epsilon 3 at 1e-5" in said
    assert said.index("charged to each site's ledger before its records are read") < said.index("age (number)")
    for word in ("pooled cleveland hungary switzerland va", "median", "cp (category)", "num (category, target)"):
        assert word in said
    assert "suppressed everywhere" in said and "what protects a person is the noise" in said
    assert all(len(line) <= 100 for line in out.splitlines())


def test_ledgers_are_charged_once_and_asking_again_is_free(cli, budgets):
    folder = budgets()
    words = (*ASK, "--ledgers", str(folder), "--study", "sepsis")
    first = asked(cli, *words)
    before = spent(folder)
    assert (first["noise"], first["private"], first["study"]) == ("secure", True, "sepsis")
    assert {charge["state"] for charge in first["charges"].values()} == {"new"}
    assert all(0 < charge["share"] < charge["left"] == 1.0 for charge in first["charges"].values())
    assert {paid > 0 and held == 0 for paid, held in before} == {True}
    again = asked(cli, *words)
    assert spent(folder) == before
    assert (again["pooled"], again["sites"]) == (first["pooled"], first["sites"])
    assert {charge["state"] for charge in again["charges"].values()} == {"answered"}
    assert again["statement"].startswith("Nothing is charged")
    assert "--run NAME asks anew" in again["notes"][0]
    anew = asked(cli, *words, "--run", "second")
    assert anew["pooled"] != first["pooled"] and anew["run"] == "second"
    assert spent(folder) == [(2 * paid, 0) for paid, _ in before]


def test_the_experiments_own_ledgers_are_charged(cli, budgets):
    folder = budgets()
    found = asked(cli, *ASK, f"ledgers_dir={folder}", "privacy.noise=secure")
    assert (found["ledgers"], found["noise"]) == (str(folder), "secure")
    assert all(paid > 0 for paid, _ in spent(folder))


def test_a_budget_that_is_short_is_refused_before_anything_is_spent(cli, budgets, unread):
    folder = budgets(limit=0.5)
    said = refused(cli, "FK372", *ASK, "--ledgers", str(folder))
    for word in ("cleveland would pay", "epsilon 0.5", "100 % left", "--epsilon 0.", "nothing was spent"):
        assert word in said
    assert spent(folder) == [(0, 0)] * 4


def test_patients_are_the_unit_where_they_are_declared(cli, tmp_path, budgets):
    my = write_table(tmp_path / "my", sizes={"north": 120, "south": 80}, records="records: {north: 120, south: 80}")
    folder = budgets(dataset="icu", sites=("north", "south"), unit="patient")
    words = ("--config-dir", str(my), "data=icu", "--epsilon", "2", "--columns", "age", "--ledgers", str(folder))
    found = asked(cli, "stats", *words, "privacy.delta=0.001")
    assert found["unit"] == "patient"
    assert "spends this at each of them" in found["notes"][0]
    count = found["pooled"]["count"]
    # The noise is the system's, and a 95 % interval misses once in 20 runs; 3.5 of its arms are 6.9 standard errors.
    assert abs(count["value"] - 200) <= 3.5 * (count["high"] - count["value"])


@pytest.mark.parametrize(
    ("code", "words", "said"),
    [
        ("FK308", [], ["--epsilon is not given", "add --epsilon 1"]),
        ("FK301", ["--epsilon", "0"], ["'0'", "from 0.0001 to 100"]),
        ("FK301", ["--epsilon", "-1"], ["'-1'"]),
        ("FK301", ["--epsilon", "nan"], ["'nan'"]),
        ("FK301", ["--epsilon", "inf"], ["'inf'"]),
        ("FK301", ["--epsilon", "much"], ["'much'"]),
        ("FK302", ["--epsilon", "1", "--delta", "0"], ["--delta"]),
        ("FK302", ["--epsilon", "1", "--delta", "1"], ["--delta"]),
        ("FK302", ["--epsilon", "1", "--delta", "0.01"], ["1/303", "cleveland"]),
        ("FK370", ["--epsilon", "1", "--columns", "agee"], ["'agee'", "did you mean 'age'?"]),
        ("FK370", ["--epsilon", "1", "--columns", "age,site"], ["'site'"]),
        ("FK370", ["--epsilon", "1", "--columns", ","], ["--columns"]),
        ("FK371", ["--epsilon", "1", "--bins", "1"], ["'1'", "2 to 1000"]),
        ("FK371", ["--epsilon", "1", "--bins", "1001"], ["'1001'"]),
        ("FK371", ["--epsilon", "1", "--bins", "2.5"], ["'2.5'"]),
        ("FK371", ["--epsilon", "1", "--bins", "nan"], ["'nan'"]),
        ("FK375", ["--epsilon", "1", "--noise", "loud"], ["'loud'", "--noise secure"]),
        ("FK375", ["--epsilon", "1", "--seed", "-1"], ["'-1'"]),
        ("FK375", ["--epsilon", "1", "--seed", "3", "--noise", "secure"], ["secure noise has no seed"]),
        ("FK375", ["--epsilon", "1", "--study", "sepsis"], ["--study", "--ledgers DIR"]),
        ("FK342", ["--epsilon", "1", "--ledgers", "x", "--noise", "seeded"], ["seeded", "--noise secure"]),
        ("FK309", ["--epsilon", "0.0001"], ["fewer columns"]),
        ("FK330", ["--epsilon", "1", "--ledgers", "nowhere"], ["site cleveland", "no ledger", "fedkit ledger create"]),
        ("FK301", ["--epsilon", "0", "--bins", "0", "--columns", "agee"], ["3 problems", "FK371", "FK370"]),
        ("FK", ["privacy.epsilonn=1", "--epsilon", "1"], ["privacy.epsilonn"]),
    ],
)
def test_bad_words_are_refused_before_a_record_is_read(cli, unread, code, words, said):
    err = refused(cli, code, "stats", "heart_disease", *words)
    for word in said:
        assert word in err, err


def test_ledgers_want_declared_sites(cli, tmp_path, unread):
    my = write_table(tmp_path / "my", sizes={"north": 60, "south": 60})
    words = ("--config-dir", str(my), "data=icu", "--epsilon", "1", "--ledgers", str(tmp_path), "privacy.delta=0.001")
    assert "data.records" in refused(cli, "FK373", "stats", *words)


def test_help_has_an_example(cli):
    status, out, _ = cli("stats", "--help")
    assert status == 0
    assert "Example: fedkit stats heart_disease --epsilon 1" in " ".join(out.split())
