"""A file that is put back from a backup brings back no word that the audit log knows to be taken back."""

import shutil
import time

import pytest
from fedkit_client.approvals import Approvals
from fedkit_client.decisions import approve_run, deny_run
from fedkit_client.start import open_site
from fedkit_client.study_check import study_findings
from fedkit_client.taken_back import approval_standing

from tests.clients.coordinator import experiment, model
from tests.clients.test_studies import call, joined, sign, train  # noqa: F401

SIZE = 5


@pytest.fixture
def manual(bench):
    made = bench(policy={"approval": "manual"})
    made.job = made.coordinator.job("run-1", experiment())
    assert ask(made) == "FK577"
    return made


def ask(made):
    answer = made.keeper.answer("train", made.coordinator.request(made.job, "train", 1, model(SIZE)))
    return answer if isinstance(answer, str) else "answered"


def standing(made, now=None):
    return approval_standing(made.folder, made.job.digest, time.time() if now is None else now)


def test_an_approval_that_was_denied_since_does_not_count_again(manual):
    folder = manual.folder
    approve_run(folder, "run-1", 30, time.time())
    shutil.copy2(folder.approvals_file, folder.path / "backup")
    deny_run(folder, "run-1", "no ethics vote", time.time())
    shutil.copy2(folder.path / "backup", folder.approvals_file)
    assert Approvals(folder.approvals_file).standing(manual.job.digest, time.time()) == "approved"
    before = manual.entries()
    assert ask(manual) == "FK577" and "denied, as the audit log tells" in standing(manual)
    assert manual.entries() == before
    # A person can approve it once more.
    approve_run(folder, "run-1", 30, time.time())
    assert ask(manual) == "answered"


def test_a_denial_that_was_killed_between_log_and_file_denies(manual):
    folder = manual.folder
    approve_run(folder, "run-1", 30, time.time())
    from fedkit_client.audit import record

    record(folder, "denied", run="run-1", job=manual.job.digest, dataset="icu")
    assert ask(manual) == "FK577"


def test_an_older_file_lets_no_approval_last_longer_than_the_newest_one(manual):
    folder, now = manual.folder, time.time()
    approve_run(folder, "run-1", 300, now)
    shutil.copy2(folder.approvals_file, folder.path / "backup")
    approve_run(folder, "run-1", 1, now)
    shutil.copy2(folder.path / "backup", folder.approvals_file)
    assert standing(manual) == "approved" and standing(manual, now + 2 * 86_400) == "expired"
    assert Approvals(folder.approvals_file).standing(manual.job.digest, now + 2 * 86_400) == "approved"


def test_logs_of_folders_before_count_and_a_log_that_was_begun_anew_denies_nothing(manual):
    folder = manual.folder
    approve_run(folder, "run-1", 30, time.time())
    kept = folder.approvals_file.read_bytes()
    deny_run(folder, "run-1", "no", time.time())
    folder.approvals_file.write_bytes(kept)
    folder.audit.rename(folder.path / "audit.before-1.jsonl")
    assert ask(manual) == "FK577"
    (folder.path / "audit.before-1.jsonl").unlink()
    assert ask(manual) == "answered"


def test_a_log_that_cannot_be_read_approves_nothing(manual):
    approve_run(manual.folder, "run-1", 30, time.time())
    manual.folder.audit.unlink()
    manual.folder.audit.mkdir()
    assert standing(manual).startswith("not readable") and ask(manual) == "FK577"


def test_a_study_that_was_left_does_not_count_again(joined):  # noqa: F811
    study = sign(joined)
    path = joined.folder.studies / "heart.json"
    kept = path.read_bytes()
    call(joined, "study", "leave", "heart")
    path.write_bytes(kept)
    before = joined.entries()
    assert train(joined, agreement=study.digest) == "FK579" and joined.entries() == before
    ((_, state, why, _),) = study_findings(open_site(joined.folder.site_yaml))
    assert state == "warn" and "has left it" in why
    call(joined, "study", "sign", joined.file, "--digest", study.digest)
    assert not isinstance(train(joined, run="again", agreement=study.digest), str)


def test_an_older_text_does_not_count_again(joined):  # noqa: F811
    older = sign(joined)
    path = joined.folder.studies / "heart.json"
    kept = path.read_bytes()
    newer = sign(joined, version=2, data={"max_rounds": 5})
    assert newer.digest != older.digest
    path.write_bytes(kept)
    assert train(joined, agreement=older.digest) == "FK579"
    call(joined, "study", "sign", joined.file, "--digest", newer.digest)
    assert not isinstance(train(joined, run="new", agreement=newer.digest), str)
