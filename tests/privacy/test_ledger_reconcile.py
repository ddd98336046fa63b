"""A restored backup forgets what was spent; reconciling it charges whatever is known elsewhere, never less."""

import dataclasses
import json

import pytest

from fedkit.errors import PrivacyError
from fedkit.privacy.accounting import GaussianEvent
from fedkit.privacy.ledger.export import read_export, read_receipts
from fedkit.privacy.ledger.facts import Job
from fedkit.privacy.ledger.ledger import Ledger
from fedkit.privacy.ledger.messages import Message
from fedkit.privacy.ledger.reconcile import reconcile
from fedkit.privacy.rdp_filter import rounded
from fedkit.storage.chain import link

ROUND = GaussianEvent(1.0, 10.0, 1)
CLOCK = lambda: 1000.0  # noqa: E731


def refused(code, call, *arguments):
    with pytest.raises(PrivacyError) as caught:
        call(*arguments)
    assert caught.value.code == code, caught.value


def rounds(ledger, dataset="icu"):
    account = ledger.account(dataset)
    one = account.cost([rounded(ROUND)])
    assert account.spent % one == 0
    return account.spent // one


def message(number, run="r1", dataset="icu", digest=None):
    return Message(dataset, run, number, digest or f"d{number}")


def admit(ledger, run="r1", count=10, dataset="icu"):
    charges = (rounded(dataclasses.replace(ROUND, steps=count)),)
    ledger.admit(dataset, run, "sepsis", Job("record", "add_remove", charges), 5000.0)


def answer(ledger, asked):
    ledger.reserve(asked, [ROUND])
    return ledger.commit(asked, f"reply {asked.round}".encode()).receipt


def backup(ledger, path):
    ledger.file._sql.execute("VACUUM INTO ?", (str(path),))
    return path


@pytest.fixture
def site(tmp_path):
    """A ledger with rounds 1 and 2 answered, and 3 reserved."""
    with Ledger.create(tmp_path / "ledger.db", clock=CLOCK) as made:
        made.create_budget("icu", unit="record", limit=3.0, delta=1e-5)
        admit(made)
        answer(made, message(1))
        answer(made, message(2))
        made.reserve(message(3), [ROUND])
        yield made


def reopened(path):
    return Ledger(path, clock=CLOCK)


def test_an_export_charges_everything_that_the_backup_forgot_once(site, tmp_path):
    old = backup(site, tmp_path / "old.db")
    for number in (4, 5, 6):
        answer(site, message(number))
    export = site.export()
    with reopened(old) as restored:
        assert rounds(restored) == 3
        done = reconcile(restored, export)
        assert [lost.round for lost in done.charged] == [4, 5, 6]
        assert {lost.study for lost in done.charged} == {"sepsis"}
        assert rounds(restored) == rounds(site) == 6
        # The hold shrank with it, so that nothing is counted twice.
        assert restored.account("icu").held() == site.account("icu").held()
        again = reconcile(restored, export)
        assert (again.charged, again.closed, rounds(restored)) == ((), 0, 6)
    Ledger(old, clock=CLOCK, head=export).close()


def test_after_a_restore_no_message_is_answered_a_second_time(site, tmp_path):
    old = backup(site, tmp_path / "old.db")
    site.commit(message(3), b"sent after the backup")
    answer(site, message(4))
    with reopened(old) as restored:
        # Before: the backup believes that round 3 was never answered.
        assert restored.reserve(message(3), [ROUND]).reply is None
        assert reconcile(restored, site.export()).closed == 1
        refused("FK349", restored.reserve, message(3), [ROUND])
        refused("FK349", restored.commit, message(3), b"anew")
        refused("FK349", restored.reserve, message(4), [ROUND])
        refused("FK347", restored.reserve, message(4, digest="other"), [ROUND])
        assert restored.reserve(message(2), [ROUND]).reply == b"reply 2"
        assert answer(restored, message(5))
        assert rounds(restored) == 5


def test_a_backup_that_went_on_by_itself_is_charged_for_both_histories(site, tmp_path):
    old = backup(site, tmp_path / "old.db")
    for number in (4, 5):
        answer(site, message(number))
    with reopened(old) as restored:
        answer(restored, message(4))
        answer(restored, message(6))
        assert rounds(restored) == 5
        reconcile(restored, site.export())
        assert rounds(restored) == 7
        assert restored.reserve(message(4), [ROUND]).reply == b"reply 4"
    Ledger(old, clock=CLOCK, head=site.export()).close()


def test_receipts_charge_what_they_show_and_close_what_they_show_was_answered(site, tmp_path):
    old = backup(site, tmp_path / "old.db")
    receipts = [site.commit(message(3), b"x").receipt, answer(site, message(4)), answer(site, message(5))]
    file = tmp_path / "receipts.jsonl"
    file.write_text("".join(json.dumps(receipt) + "\n" for receipt in receipts))
    with reopened(old) as restored:
        shown = read_receipts(file, restored.book().ledger)
        assert reconcile(restored, None, shown[:1]).closed == 1
        refused("FK349", restored.reserve, message(3), [ROUND])
        assert [lost.round for lost in reconcile(restored, None, shown).charged] == [4, 5]
        assert reconcile(restored, None, shown).charged == ()
        # The export then adds nothing that the receipts had shown.
        assert reconcile(restored, site.export(), shown).charged == ()
        assert rounds(restored) == 5
    Ledger(old, clock=CLOCK, head=site.export()).close()


def test_a_budget_made_after_the_backup_comes_back_with_its_charges(site, tmp_path):
    old = backup(site, tmp_path / "old.db")
    site.create_budget("ward", unit="record", limit=5.0, delta=1e-6, order=6.0)
    admit(site, "r7", 4, "ward")
    receipt = answer(site, message(1, "r7", "ward"))
    file = tmp_path / "receipts.json"
    file.write_text(json.dumps([receipt]))
    with reopened(old) as restored:
        refused("FK350", reconcile, restored, None, read_receipts(file, restored.book().ledger))
        assert reconcile(restored, site.export()).created == ("ward",)
        assert restored.account("ward").budget == site.account("ward").budget
        assert rounds(restored, "ward") == 1
        # Its hold is not made again; the run may be admitted anew.
        refused("FK345", restored.reserve, message(2, "r7", "ward"), [ROUND])
        admit(restored, "r7", 3, "ward")
        assert restored.reserve(message(2, "r7", "ward"), [ROUND]).fresh


def test_a_reconciled_ledger_can_itself_be_restored_and_reconciled(site, tmp_path):
    first = backup(site, tmp_path / "first.db")
    answer(site, message(4))
    second = backup(site, tmp_path / "second.db")
    with reopened(first) as restored:
        reconcile(restored, site.export())
        answer(restored, message(5))
        export = restored.export()
    with reopened(second) as older:
        # Entry for round 4 is known here, though the other copy knows it only from its reconciliation.
        assert [lost.round for lost in reconcile(older, export).charged] == [5]
        assert rounds(older) == 5
    third = Ledger.create(tmp_path / "other.db", clock=CLOCK)
    refused("FK350", reconcile, third, export)
    third.close()


def test_charges_beyond_the_limit_are_kept_and_close_the_budget(site, tmp_path):
    old = backup(site, tmp_path / "old.db")
    site.end("icu", "r1")
    admit(site, "r2", 41)
    site.reserve(message(0, "r2"), [dataclasses.replace(ROUND, steps=41)])
    with reopened(old) as restored:
        for number in range(4, 9):
            answer(restored, message(number))
        reconcile(restored, site.export())
        account = restored.account("icu")
        assert rounds(restored) == 49
        assert account.spent > account.capacity and account.left() == 0
        refused("FK339", admit, restored, "r3", 1)
        # Even what the run still holds is no longer there to be spent.
        assert account.held() == 2 * account.cost([rounded(ROUND)])
        refused("FK339", restored.reserve, message(9), [ROUND])
    with reopened(old) as again:
        assert rounds(again) == 49


def test_exports_and_receipts_that_were_altered_are_refused(site, tmp_path):
    receipt, path = answer(site, message(4)), tmp_path / "file.json"
    name = site.book().ledger
    export = site.export().to_dict()
    smaller = json.loads(json.dumps(receipt).replace("10000000,1]", "90000000,1]"))
    assert smaller != receipt
    commit = dataclasses.asdict(site.file.entries()[-1])
    for bad in (smaller, {**receipt, "ledger": "another"}, {"entry": {}}, [1], {"ledger": name, "entry": commit}):
        path.write_text(json.dumps(bad))
        refused("FK350", read_receipts, path, name)
    cut = {**export, "entries": export["entries"][:-1]}
    renamed = {**export, "ledger": "another"}
    for bad in (cut, renamed, {**export, "format": "2"}, {**export, "head": "x"}, {}, [], {**export, "entries": []}):
        path.write_text(json.dumps(bad))
        refused("FK350", read_export, path)
    path.write_text("no json")
    refused("FK350", read_export, path)
    refused("FK350", read_receipts, path, name)
    refused("FK350", read_export, tmp_path / "none.json")
    path.write_text(json.dumps(export))
    assert read_export(path) == site.export()
    refused("FK350", reconcile, site, None)


def test_an_invented_receipt_can_only_charge_more(site, tmp_path):
    path = tmp_path / "file.json"
    entry = link(None, json.loads(json.dumps(answer(site, message(4))))["entry"]["body"])
    path.write_text(json.dumps({"ledger": site.book().ledger, "entry": dataclasses.asdict(entry)}))
    before = rounds(site)
    reconcile(site, None, read_receipts(path, site.book().ledger))
    assert rounds(site) == before + 1


# Seconds of accounting or of real processes: make test runs these, the two-minute loop of make check does not.
pytestmark = pytest.mark.slow
