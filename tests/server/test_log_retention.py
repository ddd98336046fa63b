"""Lines of server.log go when their days are over, with a receipt, by a clock that the test owns."""

import hashlib
import json
import logging
import time

import pytest
from fedkit_server import logs
from fedkit_server.log_retention import purge_log
from fedkit_server.upkeep import EVERY, Upkeep

from fedkit.cli.main import main
from fedkit.errors import DeploymentError
from fedkit.governance.retention import DAY
from fedkit.storage.audit_verify import readable_lines
from tests.server.test_retention import here  # noqa: F401


def keep_lines_for(here, days):  # noqa: F811
    values = json.loads(here.folder.settings_file.read_text()) | {"log_days": days}
    here.folder.settings_file.write_text(json.dumps(values))


def stamped(at, text):
    return f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(at))},000 INFO fedkit.server: {text}\n"


def receipts(here):  # noqa: F811
    return [line for line in readable_lines(here.folder.audit, ("deleted",))]


def written(here, *days):  # noqa: F811
    """A log with a line of each age, the oldest first, and a traceback behind each."""
    texts = [f"{stamped(here.now - age * DAY, f'PLANTED-{age}')}Traceback of it\n" for age in days]
    here.folder.log.write_text("".join(texts))
    return texts


def test_lines_go_after_their_days_with_what_belongs_to_them_and_not_a_second_before(here):  # noqa: F811
    old, new = written(here, 100, 1)
    rotated = here.folder.log.with_name("server.log.3")
    rotated.write_text(old)
    assert purge_log(here.folder, here.now, here.log.append) == []
    keep_lines_for(here, 90)
    assert purge_log(here.folder, here.now - 10 * DAY - 60, here.log.append) == [] and receipts(here) == []
    gone = purge_log(here.folder, here.now - 10 * DAY + 60, here.log.append)
    assert [(each.name, each.count, each.size) for each in gone] == [
        ("server.log.3", 2, len(old)), ("server.log", 2, len(old)),
    ]  # fmt: skip
    assert here.folder.log.read_text() == new and rotated.read_text() == ""
    told = receipts(here)[1]
    assert told.fields["what"] == "log" and told.fields["reason"] == "log_days of server.json"
    assert told.fields["digest"] == hashlib.sha256(old.encode()).hexdigest()
    assert told.signed_by(here.folder.key().public)
    assert purge_log(here.folder, here.now, here.log.append) == []


def test_a_running_coordinator_does_it_by_its_clock_and_logs_on_in_the_same_file(here, monkeypatch):  # noqa: F811
    written(here, 100, 80)
    keep_lines_for(here, 90)
    root, before, level = logging.getLogger(), list(logging.getLogger().handlers), logging.getLogger().level
    hook = logs.threading.excepthook
    logs.configure(here.folder.log, screen=False)
    try:
        now = [here.now - 15 * DAY]
        upkeep = Upkeep(here.folder, here.store, here.log.append, clock=lambda: now[0])
        upkeep.look()
        assert "PLANTED-100" in here.folder.log.read_text()
        now[0] = here.now
        upkeep.look()
        logging.getLogger("fedkit.server").warning("it goes on")
    finally:
        for handler in set(root.handlers) - set(before):
            handler.close()
        root.handlers[:] = before
        root.setLevel(level)
        logs.threading.excepthook = hook
        logging.captureWarnings(False)
    text = here.folder.log.read_text()
    assert "PLANTED-100" not in text and "PLANTED-80" in text and "it goes on" in text and "\0" not in text
    assert len(receipts(here)) == 1


def test_neither_rule_waits_for_the_other(here, monkeypatch):  # noqa: F811
    written(here, 100, 1)
    keep_lines_for(here, 90)
    monkeypatch.setattr("fedkit_server.upkeep.purge", lambda *_: (_ for _ in ()).throw(RuntimeError("a study")))
    now = [here.now]
    Upkeep(here.folder, here.store, here.log.append, clock=lambda: now[0]).look()
    assert "PLANTED-100" not in here.folder.log.read_text() and EVERY == 3600


def test_nothing_is_cut_whose_receipt_cannot_be_written_nor_through_a_link(here, tmp_path):  # noqa: F811
    texts = written(here, 100, 1)
    keep_lines_for(here, 90)

    def full(event):
        raise DeploymentError("no space", code="FK770")

    with pytest.raises(DeploymentError, match="FK770"):
        purge_log(here.folder, here.now, full)
    assert here.folder.log.read_text() == "".join(texts)
    outside = tmp_path / "another.log"
    here.folder.log.rename(outside)
    here.folder.log.symlink_to(outside)
    with pytest.raises(DeploymentError, match="FK700"):
        purge_log(here.folder, here.now, here.log.append)
    assert outside.read_text() == "".join(texts)


@pytest.mark.parametrize("days", [-1, 1.5, "90", 36_501, True])
def test_a_bound_that_cannot_be_is_refused(here, days):  # noqa: F811
    keep_lines_for(here, days)
    with pytest.raises(DeploymentError, match="FK705"):
        here.folder.settings()


def test_the_command_shows_first_and_then_cuts(here, capsys):  # noqa: F811
    written(here, 100, 1)
    keep_lines_for(here, 90)
    here.store.close()

    def run(*words):
        with pytest.raises(SystemExit) as ended:
            main(["server", "purge", str(here.folder.path), *words])
        assert ended.value.code == 0
        return capsys.readouterr().out

    shown = json.loads(run("--dry-run", "--json"))["lines"]
    assert shown[0]["name"] == "server.log" and "PLANTED-100" in here.folder.log.read_text()
    assert "2 lines of server.log are deleted" in run() and "PLANTED-100" not in here.folder.log.read_text()
    assert "nothing is beyond its deadline" in run()
