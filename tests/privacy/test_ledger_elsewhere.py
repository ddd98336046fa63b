"""What a newest export is held against: nothing counts as spent here but what was charged here."""

import dataclasses
import shutil

import pytest

from fedkit.errors import PrivacyError
from fedkit.privacy.accounting import GaussianEvent
from fedkit.privacy.ledger.export import Export
from fedkit.privacy.ledger.facts import Created, Job, Reconciled
from fedkit.privacy.ledger.ledger import Ledger
from fedkit.privacy.ledger.messages import Message
from fedkit.privacy.ledger.reconcile import reconcile
from fedkit.privacy.rdp_filter import rounded
from fedkit.storage.chain import Entry

ROUND = GaussianEvent(1.0, 10.0, 1)
JOB = Job("record", "add_remove", (rounded(dataclasses.replace(ROUND, steps=10)),))


def opened(path, head=None):
    return Ledger(path, clock=lambda: 1000.0, head=head)


def code_of(path, head):
    try:
        opened(path, head).close()
    except PrivacyError as error:
        return error.code
    return None


def message(number):
    return Message("icu", "r1", number, f"d{number}", "train")


def answer(ledger, number):
    ledger.reserve(message(number), [ROUND])
    return ledger.commit(message(number), f"reply {number}".encode())


def forge(path, *facts):
    """Append facts as someone would who can rewrite the file: the chain is perfect."""
    with opened(path) as ledger, ledger.file.writing():
        for fact in facts:
            ledger.file.append(fact, 1.0)


@pytest.fixture
def site(tmp_path):
    """A ledger with three answered rounds, its export, and a backup from before the first."""
    path = tmp_path / "site.db"
    with Ledger.create(path, clock=lambda: 1000.0) as ledger:
        ledger.create_budget("icu", unit="record", limit=3.0, delta=1e-5)
        ledger.admit("icu", "r1", "sepsis", JOB, 5000.0)
    backup = shutil.copy(path, tmp_path / "backup.db")
    with opened(path) as ledger:
        receipts = [Entry(**answer(ledger, number).receipt["entry"]) for number in (1, 2, 3)]
        yield ledger, backup, receipts


def test_a_reconciliation_that_names_the_export_and_charges_nothing_does_not_satisfy_it(site):
    ledger, backup, _ = site
    export = ledger.export()
    named = tuple(entry.digest for entry in export.entries)
    forge(backup, Reconciled((), (), named, "x"))
    assert code_of(backup, export) == "FK334"
    forge(backup, *[Reconciled((), (), named, "x")] * 9)
    assert code_of(backup, export) == "FK335"
    assert code_of(backup, export.head) == "FK335"
    with opened(backup) as restored:
        assert [lost.round for lost in reconcile(restored, export).charged] == [1, 2, 3]
        assert restored.account("icu").spent == ledger.account("icu").spent
    assert code_of(backup, export) is None


def test_a_reservation_charged_with_other_events_is_not_charged(site):
    ledger, backup, _ = site
    export = ledger.export()
    with opened(shutil.copy(backup, backup.with_name("other.db"))) as other:
        honest = reconcile(other, export).charged
    less = tuple(dataclasses.replace(lost, charges=(rounded(GaussianEvent(1e-9, 1e4, 1)),)) for lost in honest)
    forge(backup, Reconciled((), less, (), "x"))
    assert code_of(backup, export) == "FK334"
    with opened(backup) as restored:
        assert len(reconcile(restored, export).charged) == 3
    assert code_of(backup, export) is None


@pytest.mark.parametrize("shown", [0, 1, 2])
def test_one_receipt_of_many_silences_nothing(site, shown):
    ledger, backup, receipts = site
    ledger.reserve(message(4), [ROUND])
    # The export's head is a reservation, whose receipt would name it.
    export = ledger.export()
    receipts = [*receipts, Entry(**ledger.receipt(message(4))["entry"])]
    with opened(backup) as restored:
        reconcile(restored, None, receipts[shown:])
    assert code_of(backup, export) == (None if shown == 0 else "FK334")
    # A bare head cannot tell what was charged: it is accepted only as an entry of this very chain.
    assert code_of(backup, export.head) == "FK334"
    assert code_of(ledger.file.path, export.head) is None


def test_a_budget_that_was_made_anew_with_more_is_another_history(site, tmp_path):
    ledger, backup, _ = site
    ledger.create_budget("ward", unit="record", limit=3.0, delta=1e-5)
    export = ledger.export()
    with opened(backup) as restored:
        reconcile(restored, Export(export.ledger, export.entries[:-1]))
    assert code_of(backup, export) == "FK334"
    forge(backup, Created("ward", "record", "add_remove", 30.0, 1e-5, 7.5))
    assert code_of(backup, export) == "FK335"


def test_a_round_that_the_export_shows_as_answered_is_never_open(site):
    ledger, _, _ = site
    ledger.reserve(message(4), [ROUND])
    ledger.file._sql.execute("VACUUM INTO ?", (str(ledger.file.path.with_name("late.db")),))
    ledger.commit(message(4), b"sent")
    late, export = ledger.file.path.with_name("late.db"), ledger.export()
    assert code_of(late, export) == "FK334"
    with opened(late) as restored:
        assert reconcile(restored, export).closed == 1
    assert code_of(late, export) is None


def test_unanswered_rounds_are_closed_even_where_the_export_ends_with_the_backup(site):
    ledger, _, _ = site
    ledger.reserve(message(4), [ROUND])
    late, export = ledger.file.path.with_name("late.db"), ledger.export()
    ledger.file._sql.execute("VACUUM INTO ?", (str(late),))
    ledger.commit(message(4), b"sent")
    with opened(late, export) as restored:
        assert (reconcile(restored, export).closed, reconcile(restored, export).closed) == (1, 0)
        for call in (lambda: restored.reserve(message(4), [ROUND]), lambda: restored.commit(message(4), b"anew")):
            with pytest.raises(PrivacyError, match="may have been sent before"):
                call()
