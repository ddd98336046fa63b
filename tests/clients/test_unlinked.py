"""A link in a site's folder leads nobody out of it: nothing there is read, shown, changed or deleted."""

import json
import shutil
import time

import pytest
from fedkit_client.alert_book import AlertBook
from fedkit_client.console.app import console_app, desk_of
from fedkit_client.console.site import Site
from fedkit_client.moving import require_open
from fedkit_client.pseudonyms import pseudonym_key
from fedkit_client.quarantining import quarantine_site
from fedkit_client.retention import purge
from fedkit_client.unlinked import links, require_unlinked
from fedkit_client.withdrawals import note

from fedkit.cli.main import main
from fedkit.errors import DeploymentError
from fedkit.governance.retention import Retention
from fedkit.web.users import Users
from tests.clients.console.conftest import PASSWORD, TOKEN, Desk
from tests.clients.coordinator import DATASET, SITE, model
from tests.web.hashes import cheap_hashes

__all__ = ["cheap_hashes"]
FILES = (
    "enrolment.json", "authorities.jsonl", "keyring.jsonl", "rounds.json", "plans.json", "asked.json",
    "approvals.jsonl", "approvals.lock",
    "usage.jsonl", "usage.jsonl.1", "withdrawals.jsonl", "rectified.jsonl", "pseudonym.key", "lineage.sqlite",
    "audit.jsonl", "state.json", "client.pid", "alerts.sqlite", "console_users.json", "console_users.lock",
    "console_wrong.json", "vault.json", "vault.lock", "client.log", "client.log.1", f"ledgers/{DATASET}.sqlite",
    "ledgers", "studies", "evidence", "evidence/20200101T000000.000000Z",
)  # fmt: skip
COMMANDS = (
    ("status",), ("doctor",), ("requests", "--json"), ("approve", "run-1"), ("deny", "run-1", "--reason", "no"),
    ("inventory",), ("log", "show", "--kind", "all"), ("log", "verify"), ("log", "text"), ("alerts",), ("purge",),
    ("encrypt",), ("encrypt", "--rotate"), ("encrypt", "--check"), ("console-user", "list"),
    ("console-user", "remove", "ana"), ("withdraw", "--data", DATASET, "--unit", "7"), ("study", "list"),
    ("explain", "run-1"), ("backup", "copy"), ("trust",),
    ("incident", "--since", "7d", "--out", "incident"),
)  # fmt: skip
PLANTED = "PLANTED-OUTSIDE"


@pytest.fixture
def made(bench, cheap_hashes):
    made = bench(policy={"approval": "manual"}, data={"consent": {"unit": "age"}})
    job = made.coordinator.job("run-1")
    made.keeper.answer("train", made.coordinator.request(job, "train", 1, model(5)))
    folder, made.job = made.folder, job.digest
    made.secret = Users(folder.console_users).add("ana", PASSWORD, time.time())
    note(folder.withdrawals, DATASET, ["3"], "withdrawn", time.time())
    pseudonym_key(folder)
    AlertBook(folder.alerts).remember({"head": [1, "ab"]})
    folder.log.write_text("2020-01-01 00:00:00,000 1 INFO fedkit.node: old\n")
    return made


def plant(made, name, outside):
    """A link in the folder to what was there, outside it, with a word in it that is looked for."""
    path = made.folder.path / name
    outside.mkdir()
    path.parent.mkdir(exist_ok=True, mode=0o700)
    target = outside / "target"
    if path.exists():
        shutil.move(path, target)
    elif "." not in name or name.endswith("Z"):
        target.mkdir()
    if target.is_dir():
        (target / "note.json").write_text(json.dumps(PLANTED))
        (target / "20200101T000000.000000Z").mkdir()
        (target / "20200101T000000.000000Z" / "file").write_text(PLANTED)
    elif name != "enrolment.json":
        # As whatever it is read as, it is none; that of the site's place is looked at before all else.
        with target.open("ab") as file:
            file.write(f"{PLANTED}\n".encode())
    path.symlink_to(target)


def contents(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.deploy
@pytest.mark.parametrize("name", FILES)
def test_no_command_follows_a_link(made, name, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plant(made, name, tmp_path / "outside")
    before = contents(tmp_path / "outside")
    for words in COMMANDS:
        verb = 2 if words[0] in ("log", "study") else 1
        with pytest.raises(SystemExit) as ended:
            main(["client", *words[:verb], str(made.folder.site_yaml), *words[verb:]])
        told = capsys.readouterr()
        assert PLANTED not in told.out + told.err, words
        assert ended.value.code in (1, 2) and "FK706" in told.out + told.err, (words, told)
        assert "Traceback" not in told.err
    assert contents(tmp_path / "outside") == before and (made.folder.path / name).is_symlink()


PAGES = ("/", "/requests", "/budgets", "/log", "/log?kind=all", "/consent", "/log/verify", "/inventory")


@pytest.mark.parametrize("name", [each for each in FILES if not each.startswith(("console_", "vault.lock"))])
def test_no_page_follows_a_link_and_a_pause_and_a_quarantine_do_their_work(made, name, tmp_path):
    desk = Desk(made, made.secret)
    assert desk.login().status_code == 303
    token = {"sure": "yes", "reason": "a link", "token": TOKEN.search(desk.browser.get("/").text)[1]}
    plant(made, name, tmp_path / "outside")
    before = contents(tmp_path / "outside")
    for page in PAGES:
        found = desk.browser.get(page)
        assert found.status_code == 409 and "FK706" in found.text and PLANTED not in found.text, page
    job = made.job
    for path in (f"/requests/{job}/approve", f"/requests/{job}/deny", "/resume", "/withdraw"):
        found = desk.browser.post(path, data={**token, "days": "3", "units": "5", "data": DATASET, "what": "withdraw"})
        assert found.status_code == 409 and PLANTED not in found.text
    for path in ("/pause", "/quarantine"):
        assert desk.browser.post(path, data=token).status_code == 303
    assert made.folder.pause.there() and made.folder.quarantine.there()
    assert contents(tmp_path / "outside") == before
    # Evidence is of the folder alone.
    if not made.folder.evidence.is_symlink():
        made_now = max(each for each in made.folder.evidence.iterdir() if not each.is_symlink())
        assert PLANTED.encode() not in b"".join(contents(made_now).values())


def test_a_link_that_comes_while_the_site_runs_has_nothing_deleted(made, tmp_path):
    plant(made, "asked.json", tmp_path / "outside")
    before = contents(tmp_path / "outside")
    with pytest.raises(DeploymentError, match="FK706"):
        purge(made.folder, SITE, Retention({"caches": 0, "logs": 0}), time.time() + 9e6, lambda event: None)
    assert contents(tmp_path / "outside") == before and "old" in made.folder.log.read_text()


def test_a_folder_with_a_link_is_not_taken_over(made, tmp_path):
    plant(made, "withdrawals.jsonl", tmp_path / "outside")
    with pytest.raises(DeploymentError, match="FK706"):
        require_open(made.folder.path)


def test_a_quarantine_stands_where_its_evidence_cannot_be_kept(made, tmp_path):
    plant(made, "evidence", tmp_path / "outside")
    before = contents(tmp_path / "outside")
    done = quarantine_site(made.folder, "a link", time.time(), seconds=1.0)
    assert made.folder.quarantine.there() and any("is a link" in each for each in done.problems)
    assert contents(tmp_path / "outside") == before


def test_users_through_a_link_let_nobody_in(made, tmp_path):
    plant(made, "console_users.json", tmp_path / "outside")
    door = desk_of(made.folder, "north", "127.0.0.1:1").door
    with pytest.raises(DeploymentError, match="FK795"):
        door.login("ana", PASSWORD, "123456")
    assert console_app(desk_of(made.folder, "north", "x"), Site(made.folder.site_yaml, made.folder)) is not None


def test_what_comes_from_elsewhere_by_design_may_be_a_link_and_so_may_the_way_to_the_folder(made, tmp_path):
    for name in ("site.yaml", "ca.crt", "signing.key"):
        path = made.folder.path / name
        shutil.move(path, tmp_path / name)
        path.symlink_to(tmp_path / name)
    (tmp_path / "way").symlink_to(made.folder.path)
    require_unlinked(tmp_path / "way")
    assert list(links(made.folder.path)) == []
