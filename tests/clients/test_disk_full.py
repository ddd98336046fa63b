"""A disk that takes no more of a file: nothing leaves that is not charged and logged, and what was there stays."""

import resource
import time
from contextlib import contextmanager

import pytest
from fedkit_client.approvals import Approvals
from fedkit_client.audit import Trail, record
from fedkit_client.decisions import approve_run, deny_run
from fedkit_client.lineage import runs_with

from fedkit.errors import FedkitError
from fedkit.storage.audit_verify import readable_lines, verify
from fedkit.storage.keys import load_signing_key
from tests.clients.coordinator import DATASET, experiment, model

SIZE = 5


@contextmanager
def at_most(size):
    """No file of this process grows beyond so many bytes; a write over it is cut short, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def train(made, run="run-1", number=1):
    job = made.coordinator.job(run, experiment())
    return made.keeper.answer("train", made.coordinator.request(job, "train", number, model(SIZE)))


@pytest.mark.parametrize("more", [0, 1, 100, 200])
def test_an_audit_log_that_takes_no_more_lets_nothing_out_and_stays_whole(bench, more):
    made = bench()
    folder, key = made.folder, load_signing_key(made.folder.signing_key)
    while not folder.audit.exists() or folder.audit.stat().st_size < 20_000:
        record(folder, "joined", site="north", padding="x" * 500)
    trail, before = Trail(folder, "north", key), folder.audit.stat().st_size
    with at_most(before + more):
        for _ in range(3):
            with pytest.raises(FedkitError, match="FK770"):
                trail.sealed("FK567", "train", "run-1", 1)
            with pytest.raises(FedkitError, match="FK770"):
                record(folder, "approved", run="r", job="j", dataset="d", days=1)
    assert trail.sealed("FK567", "train", "run-1", 1) == "FK567"
    kinds = [line.kind for line in readable_lines(folder.audit)]
    assert kinds[-2:] == ["requested", "refused"] and kinds.count("refused") == 1 and "approved" not in kinds
    assert verify(folder.audit, [key.public]).kinds["refused"] == 1


@pytest.mark.parametrize("more", [0, 4096, 8192, 12288])
def test_a_ledger_that_takes_no_more_answers_nothing_and_the_round_goes_on_under_one_charge(bench, more):
    made = bench()
    ledger = made.folder.ledger(DATASET)
    with at_most(ledger.stat().st_size + more):
        answer = train(made)
    if isinstance(answer, str):
        assert answer.startswith("FK")
    charged = made.charged()
    again = train(made)
    # Where the reply could not be stored the round is closed for good; else it is answered, and is charged once.
    assert not isinstance(again, str) or charged > 0
    once = made.charged()
    train(made)
    assert made.charged() == once and (charged in (0, once))


def test_an_approval_that_cannot_be_written_approves_nothing(bench):
    made = bench(policy={"approval": "manual"})
    assert train(made) == "FK577"
    folder, path = made.folder, made.folder.approvals_file
    record(folder, "joined", site="north", padding="x" * 100)
    before = path.read_bytes()
    # The log is shorter than the file: its line is written, the decision is not.
    assert folder.audit.stat().st_size + 600 < len(before)
    with at_most(len(before)), pytest.raises((FedkitError, OSError)):
        approve_run(folder, "run-1", 30, time.time())
    assert path.read_bytes() == before and train(made) == "FK577"
    assert Approvals(path).read().open(time.time())
    approve_run(folder, "run-1", 30, time.time())
    assert not isinstance(train(made), str)
    # A denial that the file does not take denies all the same: the log has it.
    with at_most(path.stat().st_size), pytest.raises((FedkitError, OSError)):
        deny_run(folder, "run-1", "no", time.time())
    assert train(made, number=2) == "FK577"


def test_where_nobody_can_write_whose_records_are_read_nothing_leaves(bench):
    """Lineage is written before an answer; a round that is trained stays charged."""
    made = bench(data={"consent": {"column": {"name": "rate", "values": ["73", "60", "86"]}, "unit": "age"}})
    lineage = made.folder.path / "lineage.sqlite"
    train(made, "run-0")
    assert lineage.exists()
    charged = made.charged()
    with at_most(min(lineage.stat().st_size, 4096)):
        answer = train(made, "run-1")
    assert isinstance(answer, str)
    assert all(use["run"] != "run-1" for age in ("20", "33") for use in runs_with(made.folder, DATASET, age))
    assert made.charged() >= charged
