"""A site that joins anew forgets no budget unsaid, and never has one budget in two folders."""

import json
import shutil
import time

import pytest
from fedkit_client import moving
from fedkit_client.cli import main
from fedkit_client.join import join
from fedkit_client.retired import CLOSED

from fedkit.errors import DeploymentError
from fedkit.storage.audit_verify import raw_lines, readable_lines
from fedkit.storage.keys import fingerprint, load_signing_key
from tests.clients.coordinator import SITE, Coordinator, site_yaml


@pytest.fixture(scope="module")
def coordinator(tmp_path_factory):
    made = Coordinator(tmp_path_factory.mktemp("coordinator")).up()
    yield made
    made.down()


@pytest.fixture
def old(coordinator, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "file.yaml").write_text(site_yaml(tmp_path / "data"))
    made = join(_address(coordinator), coordinator.invite(), tmp_path / "old", tmp_path / "file.yaml").folder
    made.ledger("heart").write_text("spent")
    made.ledger("heart").with_name("heart.sqlite-journal").write_text("half")
    for name in ("rounds.json", "lineage.sqlite", "lineage.sqlite-journal"):
        (made.path / name).write_text(f"{name} of old")
    for path in made.path.rglob("*"):
        path.chmod(0o700 if path.is_dir() else 0o600)
    return made


def _address(coordinator):
    return f"127.0.0.1:{coordinator.port}"


def test_the_site_s_own_file_comes_along_unless_another_is_named(coordinator, old, tmp_path):
    text = old.site_yaml.read_text()
    done = join(_address(coordinator), coordinator.invite(), tmp_path / "new", old=old.path)
    assert done.folder.site_yaml.read_text() == text and not done.blank
    # With a mistake in it too: it is mended there.
    done.folder.site_yaml.write_text(f"{text}\nnonsense: [")
    again = join(_address(coordinator), coordinator.invite(), tmp_path / "third", old=done.folder.path)
    assert again.blank and again.folder.site_yaml.read_bytes() == done.folder.site_yaml.read_bytes()
    named = join(
        _address(coordinator), coordinator.invite(), tmp_path / "fourth", tmp_path / "file.yaml", old=again.folder.path
    )
    assert named.folder.site_yaml.read_bytes() == (tmp_path / "file.yaml").read_bytes() and not named.blank


def _joined(folder):
    (line,) = readable_lines(folder.audit, ("joined",))
    return line.fields


@pytest.mark.parametrize(("place", "how"), [("new", False), ("new", True), ("elsewhere/new", True)])
def test_joining_beside_the_ledgers_of_the_site_is_refused_before_anything_is_sent(
    coordinator, old, tmp_path, place, how
):
    site_file = old.site_yaml if how else None
    with pytest.raises(DeploymentError, match="FK758") as refused:
        join("127.0.0.1:1", coordinator.invite(), tmp_path / place, site_file)
    assert f"--from {old.path}" in refused.value.remedy and not (tmp_path / place).exists()


def test_ledgers_that_nobody_can_tell_whose_they_are_count_as_the_sites(coordinator, old, tmp_path):
    old.enrolment_file.write_text("broken")
    with pytest.raises(DeploymentError, match="FK758"):
        join(_address(coordinator), coordinator.invite(), tmp_path / "new")


def test_another_sites_ledgers_are_in_nobodys_way(coordinator, old, tmp_path):
    told = json.loads(old.enrolment_file.read_text())
    old.enrolment_file.write_text(json.dumps(told | {"site": "another"}))
    assert _joined(join(_address(coordinator), coordinator.invite(), tmp_path / "new").folder)["budgets"] == "new"


def test_empty_ledgers_are_said_and_logged(coordinator, old, tmp_path):
    made = join(_address(coordinator), coordinator.invite(), tmp_path / "new", empty_ledgers=True).folder
    assert _joined(made)["budgets"] == "new, as was asked for"
    assert old.enrolment().site == SITE


def test_a_copy_that_may_be_older_is_not_taken_over_beside_the_folder_itself(coordinator, old, tmp_path):
    shutil.copytree(old.path, tmp_path / "backup")
    with pytest.raises(DeploymentError, match="FK758"):
        join(_address(coordinator), coordinator.invite(), tmp_path / "new", old=tmp_path / "backup")


def test_the_audit_log_stays_under_its_key_and_the_new_one_tells_where_it_ended(coordinator, old, tmp_path):
    log, key = old.audit.read_bytes(), fingerprint(load_signing_key(old.signing_key).public)
    made = join(_address(coordinator), coordinator.invite(), tmp_path / "new", old=old.path).folder
    assert (made.path / "audit.before-1.jsonl").read_bytes() == log
    told = _joined(made)
    assert (told["budgets"], told["before_key"]) == ("taken along", key)
    assert told["before_seq"] == len(list(raw_lines(old.audit)))
    for name in ("rounds.json", "lineage.sqlite", "lineage.sqlite-journal", "ledgers/heart.sqlite-journal"):
        assert (made.path / name).read_text() == (old.path / name).read_text()
    made.require_closed()
    assert all(path.stat().st_mode & 0o077 == 0 for path in made.path.rglob("*"))
    # The folder that was taken over is in nobody's way; the one in use is.
    with pytest.raises(DeploymentError, match="FK758") as refused:
        join(_address(coordinator), coordinator.invite(), tmp_path / "third")
    assert f"--from {made.path}" in refused.value.remedy
    third = join(_address(coordinator), coordinator.invite(), tmp_path / "third", old=made.path).folder
    assert (third.path / "audit.before-1.jsonl").read_bytes() == log
    assert (third.path / "audit.before-2.jsonl").read_bytes() == made.audit.read_bytes()


def test_a_folder_that_was_taken_over_says_so_and_never_to_restore_it(coordinator, old, tmp_path):
    join(_address(coordinator), coordinator.invite(), tmp_path / "new", old=old.path)
    day = time.strftime("%Y-%m-%d", time.gmtime())
    with pytest.raises(DeploymentError, match=f"FK741.*closed by `fedkit client join --from` .on {day}") as refused:
        old.enrolment()
    assert "restore" not in str(refused.value) and "start that one" in refused.value.remedy
    # One that is broken otherwise is another matter.
    (old.path / CLOSED).unlink()
    with pytest.raises(DeploymentError, match=r"FK741.*restore it"):
        old.enrolment()


def test_the_old_folder_is_closed_before_the_new_one_is_there_and_open_again_if_it_never_is(
    coordinator, old, tmp_path, monkeypatch
):
    close = moving.close

    def late(folder):
        assert not (tmp_path / "new").exists(), "a kill now leaves two folders with one budget"
        close(folder)
        (tmp_path / "new").write_text("in the way")

    monkeypatch.setattr("fedkit_client.join.close", late)
    with pytest.raises(DeploymentError, match="FK740"):
        join(_address(coordinator), coordinator.invite(), tmp_path / "new", old=old.path)
    assert old.enrolment().site == SITE


def test_files_that_are_not_fedkits_are_named_and_left_to_their_owner(coordinator, old, tmp_path, capsys):
    (old.path / "table.csv").write_text("age\n7\n")
    (old.path / "webhook.secret").write_text("s" * 32)
    (tmp_path / "token").write_text(coordinator.invite())
    words = ["--token-file", str(tmp_path / "token"), "--from", str(old.path), "--folder", str(tmp_path / "new")]
    main(["join", _address(coordinator), *words])
    assert f"in {old.path} there are left: table.csv, webhook.secret\n" in capsys.readouterr().out
