"""A federation of an earlier fedkit goes on under this one; what a newer one wrote is refused, file by file."""

from __future__ import annotations

import json
import sqlite3
import tarfile
import time
from contextlib import closing
from pathlib import Path

import pytest
from fedkit_client import lineage
from fedkit_client.alert_book import AlertBook
from fedkit_client.approvals import Approvals
from fedkit_client.gatekeeper import Gatekeeper
from fedkit_client.ledgers import budgets, open_ledgers
from fedkit_client.recalled import require_withdrawals
from fedkit_client.settling import settle
from fedkit_client.start import open_site
from fedkit_server.folder import open_folder
from fedkit_server.profile import open_profile
from fedkit_server.state import State
from fedkit_server.store import Store

from fedkit.config.compose import compose
from fedkit.errors import FedkitError
from fedkit.federation.flower_link import Link
from fedkit.reporting.reader import read_run
from fedkit.runs.resume import resume_point
from fedkit.storage.audit_verify import readable_lines, verify
from fedkit.storage.keys import load_node_key, load_signing_key
from tests.clients.coordinator import Coordinator, model

PACKED = Path(__file__).parent / "fixtures" / "earlier" / "federation.tar.xz"
DATA, SITE = "heart_disease", "cleveland"


@pytest.fixture
def earlier(tmp_path):
    with tarfile.open(PACKED) as packed:
        # The other filter leaves the modes of folders out.
        packed.extractall(tmp_path, filter="tar")
    return tmp_path


@pytest.fixture
def site(earlier):
    return open_site(earlier / "site" / "site.yaml")


def lines_of(folder, *kinds):
    return list(readable_lines(folder.audit, kinds))


def signer(earlier):
    """Whoever signs for the earlier coordinator and its admin, by their own keys."""
    folder = open_folder(earlier / "coordinator")
    made = Coordinator(
        earlier / "signer", ca=folder.ca_pair(), key=folder.key(), root=open_profile(earlier / "admin").key()
    )
    made.keyring = folder.keyring()
    return made


def job_of(coordinator, run):
    settings = [f"data.records={{{SITE}: 303}}", "federation.num_rounds=2", "privacy.noise=secure"]
    return coordinator.job(run, compose(DATA, settings), submitter="admin")


def ask(keeper, coordinator, job, number):
    return keeper.answer("train", coordinator.request(job, "train", number, model(14)))


def test_a_site_of_before_is_enrolled_has_spent_what_it_had_and_its_log_verifies(site):
    folder, before = site.folder, budgets(site.file, site.folder)[DATA]
    digests = [line.digest for line in lines_of(folder)]
    assert before["spent"] > 0 and site.enrolment.site == SITE and not folder.vault_file.exists()
    # What a start does before it connects; here it encrypts what lay in the clear.
    settle(folder)
    open_ledgers(site.file, folder)
    require_withdrawals(site.file, folder)
    lineage.require_usable(folder)
    assert folder.vault_file.exists() and budgets(site.file, folder)[DATA] == before
    verify(folder.audit, [load_signing_key(folder.signing_key).public])
    assert [line.digest for line in lines_of(folder)][: len(digests)] == digests
    (run,) = {line.fields["run"] for line in lines_of(folder, "released") if line.kind == "released"}
    assert {each["round"] for each in lineage.rounds_of(folder, run)} == {1, 2}
    assert folder.keyring().federation == site.enrolment.federation


def test_a_request_of_before_still_waits_for_a_person(site):
    asked = [line for line in lines_of(site.folder, "requested") if line.kind == "requested"]
    (waiting,) = Approvals(site.folder.approvals_file).read().open(asked[-1].at)
    assert waiting.run == asked[-1].fields["run"]


def test_a_further_run_is_asked_for_approved_and_charged_on_top(site, earlier, monkeypatch):
    monkeypatch.setattr("fedkit_client.gatekeeper.apply", lambda file, size=0: None)
    settle(site.folder)
    open_ledgers(site.file, site.folder)
    keeper, coordinator = Gatekeeper(site.file, site.folder), signer(earlier)
    before = budgets(site.file, site.folder)[DATA]["spent"]
    (old,) = {line.fields["run"] for line in lines_of(site.folder, "released") if line.kind == "released"}
    job = job_of(coordinator, "run-after")
    assert ask(keeper, coordinator, job, 1) == "FK577"
    Approvals(site.folder.approvals_file).approve("run-after", 30.0, time.time())
    assert not isinstance(ask(keeper, coordinator, job, 1), str)
    assert budgets(site.file, site.folder)[DATA]["spent"] > before > 0
    # A run that had ended stays ended, whoever signs it anew.
    again = job_of(coordinator, old)
    assert ask(keeper, coordinator, again, 1) == "FK577"
    Approvals(site.folder.approvals_file).approve(coordinator.opened(again).digest, 30.0, time.time())
    assert ask(keeper, coordinator, again, 1) == "FK542"


def test_a_coordinator_of_before_knows_its_site_its_runs_and_its_users(earlier):
    folder = open_folder(earlier / "coordinator")
    store = Store(folder.database)
    try:
        (row,) = store.sites()
        assert (row.name, row.revoked_at) == (SITE, None)
        assert row.site_key == load_signing_key(earlier / "site" / "signing.key").public
        state = State(folder, folder.settings(), store, Link.open(folder.link, folder.path / "objects"))
        state.reconcile()
        node = state.link.state.get_node_id_by_public_key(row.node_key)
        assert (
            node is not None and load_node_key(earlier / "site" / "node.key").public_pem.strip() == row.node_key.strip()
        )
        runs = store.runs()
        assert runs[-1].state == "finished" and len(runs) == 2
        for run in runs:
            assert read_run(folder.runs / run.run).manifest["name"] == DATA
            assert resume_point(folder.runs / run.run / "journal") is not None
        assert [user for _, user in store.tokens()] == ["admin"] and open_profile(earlier / "admin").name == "admin"
        verify(folder.audit, [folder.key().public])
    finally:
        store.close()


def json_newer(path):
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 9, "fedkit": "9.8.7"}))


def sqlite_newer(path):
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA user_version = 9")


def opened_store(base):
    Store(base / "coordinator" / "fedkit.db").close()


def opened_site(base):
    return open_site(base / "site" / "site.yaml")


def opened_ledgers(base):
    open_ledgers(opened_site(base).file, opened_site(base).folder)


NEWER = {
    "site/enrolment.json": (json_newer, opened_site),
    "site/vault.json": (json_newer, lambda base: opened_site(base).folder.vault()),
    "site/ledgers/heart_disease.sqlite": (sqlite_newer, opened_ledgers),
    "site/lineage.sqlite": (sqlite_newer, lambda base: lineage.require_database(opened_site(base).folder)),
    "site/alerts.sqlite": (sqlite_newer, lambda base: AlertBook(base / "site" / "alerts.sqlite").recall()),
    "coordinator/server.json": (json_newer, lambda base: open_folder(base / "coordinator")),
    "coordinator/fedkit.db": (sqlite_newer, opened_store),
    "admin/profile.json": (json_newer, lambda base: open_profile(base / "admin")),
}


@pytest.mark.parametrize("name", NEWER)
def test_what_a_newer_fedkit_has_written_is_refused_with_its_format_and_stays_as_it_is(site, earlier, name):
    settle(site.folder)
    AlertBook(site.folder.alerts).remember({"a": 1})
    path, (newer, opens) = earlier / name, NEWER[name]
    opens(earlier)
    newer(path)
    before = path.read_bytes()
    with pytest.raises(FedkitError, match=r"has format 9\b.*reads format.*1\. Remedy: .*(install|use)") as refused:
        opens(earlier)
    assert refused.value.code == ("FK330" if name.startswith("site/ledgers") else "FK759")
    assert ("9.8.7" in str(refused.value)) is (newer is json_newer)
    assert path.read_bytes() == before
