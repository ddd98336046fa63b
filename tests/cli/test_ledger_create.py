import json
import stat
from pathlib import Path

import pytest

from fedkit.privacy.ledger.ledger import Ledger

ASKED = ["--dataset", "icu", "--unit", "patient", "--epsilon", "3", "--delta", "1e-5"]


def create(cli, *words, file="ledgers/va.sqlite"):
    status, out, err = cli("ledger", "create", file, *words, "--json")
    assert (status, err) == (0, ""), err
    assert len(out.splitlines()) == 1
    return json.loads(out)


def test_a_ledger_and_its_budget_are_made_and_the_order_is_told(cli):
    found = create(cli, *ASKED)
    assert found == {
        "ledger": "ledgers/va.sqlite",
        "file_created": True,
        "budget_created": True,
        "dataset": "icu",
        "unit": "patient",
        "adjacency": "add_remove",
        "epsilon": 3.0,
        "delta": 1e-5,
        "order": 7.5,
    }
    with Ledger("ledgers/va.sqlite") as ledger:
        budget = ledger.account("icu").budget
        assert (budget.unit, budget.limit, budget.delta, budget.order) == ("patient", 3.0, 1e-5, 7.5)
    assert stat.S_IMODE(Path("ledgers/va.sqlite").stat().st_mode) == 0o600
    assert stat.S_IMODE(Path("ledgers").stat().st_mode) == 0o700


def test_asking_for_the_same_again_changes_nothing(cli):
    first = create(cli, *ASKED)
    with Ledger("ledgers/va.sqlite") as ledger:
        before = ledger.export()
    again = create(cli, *ASKED)
    assert again == first | {"file_created": False, "budget_created": False}
    with Ledger("ledgers/va.sqlite") as ledger:
        assert ledger.export() == before


def test_an_existing_ledger_gets_a_further_budget_and_never_another_one_for_the_same_data(cli):
    create(cli, *ASKED)
    more = ["--dataset", "ward", "--unit", "record", "--epsilon", "8", "--delta", "1e-6", "--order", "4"]
    found = create(cli, *more)
    assert (found["file_created"], found["budget_created"], found["order"]) == (False, True, 4.0)
    for change in (["--epsilon", "4"], ["--unit", "record"], ["--delta", "1e-6"], ["--order", "6"]):
        status, out, err = cli("ledger", "create", "ledgers/va.sqlite", *ASKED, *change)
        assert (status, out) == (2, "")
        assert err.startswith("fedkit: FK340: the budget of icu is epsilon 3 at delta 1e-05 for one patient")
    with Ledger("ledgers/va.sqlite") as ledger:
        assert sorted(ledger.book().accounts) == ["icu", "ward"]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (["--epsilon", "0"], "FK301"),
        (["--epsilon", "-1"], "FK301"),
        (["--epsilon", "nan"], "FK301"),
        (["--epsilon", "inf"], "FK301"),
        (["--epsilon", "0.05"], "FK343"),
        (["--delta", "0"], "FK302"),
        (["--delta", "1"], "FK302"),
        (["--delta", "nan"], "FK302"),
        (["--unit", "person"], "FK343"),
        (["--dataset", ""], "FK343"),
        (["--order", "1.05"], "FK343"),
        (["--order", "nan"], "FK343"),
    ],
)
def test_impossible_budgets_are_refused_and_make_no_file(cli, change, code):
    status, out, err = cli("ledger", "create", "ledgers/va.sqlite", *ASKED, *change)
    assert (status, out) == (2, "")
    assert err.startswith(f"fedkit: {code}: ")
    assert not Path("ledgers").exists()


def test_what_is_no_ledger_and_what_cannot_be_made_keep_their_codes(cli):
    Path("text").write_text("no database")
    for file, code in (("text", "FK330"), ("text/va.sqlite", "FK336")):
        status, _, err = cli("ledger", "create", file, *ASKED)
        assert status == 2
        assert err.startswith(f"fedkit: {code}: ")
    assert Path("text").read_text() == "no database"


def test_people_are_told_what_it_means(cli):
    status, out, _ = cli("ledger", "create", "va.sqlite", *ASKED)
    assert status == 0
    said = " ".join(out.split())
    assert "the budget of icu is fixed for good: epsilon 3 at delta 1e-05 for one patient, add or remove" in said
    assert "enforced at Renyi order 7.5, which admits most" in said
    assert "a second budget for them would add to this one" in said
    assert "fedkit ledger export --ledger va.sqlite" in said
    _, out, _ = cli("ledger", "create", "va.sqlite", *ASKED)
    assert "was fixed before and stays" in out


def test_help_has_an_example(cli):
    status, out, _ = cli("ledger", "create", "--help")
    assert status == 0
    assert "Example: fedkit ledger create ledgers/va.sqlite --dataset heart_disease" in " ".join(out.split())
