"""What is lost without a trace in its own file is missed by the audit log: withdrawals, charges of a ledger."""

from __future__ import annotations

import shutil

import pytest
from fedkit_client import withdrawals
from fedkit_client.audit import record
from fedkit_client.doctor import _ledgers
from fedkit_client.ledgers import budgets, open_ledgers
from fedkit_client.pseudonyms import unit_pseudonym
from fedkit_client.recalled import withdrawn
from fedkit_client.start import open_site

from fedkit.errors import FederationError, PrivacyError
from fedkit.governance.site_file import read_site_file
from tests.clients.coordinator import DATASET


def note(folder, unit, action="withdrawn", data=DATASET, *, written=True):
    """What `fedkit client withdraw` does; without ``written``, killed in between."""
    record(folder, action, dataset=data, unit=unit_pseudonym(folder, data, unit))
    if written:
        withdrawals.note(folder.withdrawals, data, [unit], action, 1.0)


@pytest.fixture
def folder(bench):
    return bench().folder


def test_a_file_of_withdrawals_that_is_gone_denies(folder):
    note(folder, "p1")
    assert withdrawn(folder, DATASET) == {"p1"}
    folder.withdrawals.unlink()
    with pytest.raises(FederationError, match=r"FK593.*1 that it does not have.*backup"):
        withdrawn(folder, DATASET)
    # Another data set's withdrawals are no reason to stop this one.
    assert withdrawn(folder, "another") == frozenset()


def test_an_older_file_denies_until_every_logged_withdrawal_is_there(folder):
    note(folder, "p1")
    shutil.copy2(folder.withdrawals, folder.path / "older")
    note(folder, "p2")
    shutil.copy2(folder.path / "older", folder.withdrawals)
    with pytest.raises(FederationError, match="FK593"):
        withdrawn(folder, DATASET)
    note(folder, "p2")
    assert withdrawn(folder, DATASET) == {"p1", "p2"}


def test_a_withdrawal_that_was_killed_between_log_and_file_denies_until_it_is_repeated(folder):
    note(folder, "p1", written=False)
    with pytest.raises(FederationError, match="FK593"):
        withdrawn(folder, DATASET)
    note(folder, "p1")
    assert withdrawn(folder, DATASET) == {"p1"}


def test_one_that_was_taken_back_is_not_missed(folder):
    note(folder, "p1")
    note(folder, "p1", "revoked")
    folder.withdrawals.unlink()
    assert withdrawn(folder, DATASET) == frozenset()


def test_without_the_key_nobody_knows_whom_the_log_means(folder):
    note(folder, "p1")
    folder.pseudonym_key.unlink()
    with pytest.raises(FederationError, match="FK593"):
        withdrawn(folder, DATASET)


def test_withdrawals_of_folders_before_count_too(folder):
    note(folder, "p1")
    folder.audit.rename(folder.path / "audit.before-1.jsonl")
    folder.withdrawals.unlink()
    with pytest.raises(FederationError, match="FK593"):
        withdrawn(folder, DATASET)


def test_a_file_that_goes_while_the_site_runs_stops_the_next_round_before_a_record_is_read(bench, monkeypatch):
    from tests.clients.coordinator import model

    made = bench()
    monkeypatch.setattr("fedkit.data.load.load_site_dataset", lambda *a, **k: pytest.fail("a record was read"))
    note(made.folder, "p1")
    made.folder.withdrawals.unlink()
    before = made.charged()
    answer = made.keeper.answer("train", made.coordinator.request(made.coordinator.job(), "train", 1, model()))
    assert isinstance(answer, str)
    assert made.charged() == before


def reserved(folder, epsilon, data=DATASET):
    record(
        folder,
        "reserved",
        run="r",
        purpose="train",
        round=1,
        dataset=data,
        epsilon_spent=epsilon,
        delta=1e-5,
        again=False,
    )


def test_a_ledger_that_is_gone_is_not_made_anew_and_doctor_says_so(folder):
    reserved(folder, 1.5)
    folder.ledger(DATASET).unlink()
    for look in (
        lambda: open_ledgers(read_site_file(folder.site_yaml), folder),
        lambda: _ledgers(open_site(folder.site_yaml)),
    ):
        with pytest.raises(PrivacyError, match=r"FK332.*is gone.*reconcile"):
            look()
    assert not folder.ledger(DATASET).exists()


def test_status_tells_a_ledger_that_is_still_to_be_made_from_one_that_was_lost(folder):
    file = read_site_file(folder.site_yaml)
    folder.ledger(DATASET).unlink()
    assert budgets(file, folder)[DATASET]["absent"]
    reserved(folder, 1.5)
    told = budgets(file, folder)[DATASET]
    assert "absent" not in told and "FK332" in told["problem"]
