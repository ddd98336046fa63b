"""A ledger that is gone, or was put back from a backup, is noticed by the site's own log before the next start."""

import shutil

import pytest
from fedkit_client.audit import Trail
from fedkit_client.doctor import _ledgers
from fedkit_client.ledgers import open_ledgers
from fedkit_client.start import open_site
from fedkit_client.told_charges import told_charges

from fedkit.errors import PrivacyError
from fedkit.governance.site_file import read_site_file
from fedkit.privacy.ledger.ledger import Ledger
from fedkit.privacy.ledger.reconcile import reconcile
from fedkit.storage.keys import load_signing_key
from tests.clients.coordinator import DATASET, SITE, model
from tests.clients.test_statistics import RELEASE, answer

SIZE = 5


@pytest.fixture
def made(bench):
    made = bench(policy=RELEASE)
    made.trail = Trail(made.folder, SITE, load_signing_key(made.folder.signing_key))
    made.job = made.coordinator.job("run-1")
    return made


def logged(made, content, kind, run, number):
    """As the node's process logs an answer, once the child has told what it did."""
    assert not isinstance(content, str), content
    made.trail.child(made.keeper.findings.header())
    made.trail.sealed(content, kind, run, number)
    made.keeper.findings.events.clear()


def train(made, number):
    content = made.keeper.answer("train", made.coordinator.request(made.job, "train", number, model(SIZE)))
    logged(made, content, "train", "run-1", number)


def question(made, run, **changes):
    logged(made, answer(made, run, **changes), "statistics", run, 0)


def start(made):
    open_ledgers(read_site_file(made.folder.site_yaml), made.folder)


def spent(made):
    return made.charged()


def test_a_site_that_was_charged_starts_again_and_its_log_and_ledger_agree(made):
    start(made)
    for number in (1, 2):
        train(made, number)
    question(made, "question-1")
    # Asked again by another job, it is charged to the same account and told once more.
    question(made, "question-2")
    question(made, "question-3", anew="x")
    before = spent(made)
    start(made)
    assert spent(made) == before and len(told_charges(made.folder)[DATASET]) == 4


@pytest.mark.parametrize("charge", ["run", "question"])
def test_a_ledger_that_is_gone_is_not_made_anew(made, charge):
    train(made, 1) if charge == "run" else question(made, "question-1")
    made.folder.ledger(DATASET).unlink()
    with pytest.raises(PrivacyError, match=r"FK332.*is gone.*charges to icu"):
        start(made)
    assert not made.folder.ledger(DATASET).exists()


@pytest.mark.parametrize("charge", ["run", "question"])
def test_a_ledger_of_before_a_charge_is_refused_until_it_is_reconciled(made, tmp_path, charge):
    train(made, 1)
    ledger = made.folder.ledger(DATASET)
    shutil.copy(ledger, tmp_path / "backup")
    train(made, 2) if charge == "run" else question(made, "question-1")
    with Ledger(ledger, read_only=True) as newest:
        export = newest.export()
    shutil.copy(tmp_path / "backup", ledger)
    with pytest.raises(PrivacyError, match=r"FK332.*is older than the site's audit log.*1 of 2 charges"):
        start(made)
    with Ledger(ledger) as restored:
        reconcile(restored, export)
    start(made)


def test_charges_of_a_folder_that_was_joined_from_are_not_forgotten_with_its_ledger(made):
    train(made, 1)
    made.folder.audit.rename(made.folder.path / "audit.before-1.jsonl")
    start(made)
    made.folder.ledger(DATASET).unlink()
    with pytest.raises(PrivacyError, match=r"FK332.*is gone"):
        start(made)


def test_a_new_ledger_in_its_place_is_no_help(made):
    train(made, 1)
    ledger = made.folder.ledger(DATASET)
    ledger.unlink()
    with Ledger.create(ledger) as fresh:
        data = made.keeper.file.data[DATASET]
        fresh.create_budget(DATASET, unit=data.unit, limit=data.max_epsilon, delta=data.delta)
    with pytest.raises(PrivacyError, match="FK332"):
        start(made)


def test_a_log_that_cannot_be_read_is_no_empty_one(made, monkeypatch):
    train(made, 1)
    made.folder.audit.chmod(0)
    monkeypatch.setattr("fedkit_client.recalled.readable_lines", _denied)
    with pytest.raises(PrivacyError, match=r"FK332.*cannot be read"):
        start(made)


def _denied(*_):
    raise PermissionError(13, "Permission denied")


def test_the_doctor_finds_a_lost_ledger(made):
    train(made, 1)
    made.folder.ledger(DATASET).unlink()
    with pytest.raises(PrivacyError, match=r"FK332.*is gone"):
        _ledgers(open_site(made.folder.site_yaml))
