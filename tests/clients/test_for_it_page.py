"""What docs/for-it.md says of backup and restore, done by its own commands on real files."""

import json
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from fedkit.privacy.ledger.ledger import Ledger
from tests.clients.conftest import FEDKIT, NO_PROXY
from tests.clients.coordinator import DATASET, model

PAGE = Path(__file__).parents[2] / "docs" / "for-it.md"


def commands(heading):
    """The lines of the section's blocks of commands, for the tests' data set."""
    section = PAGE.read_text(encoding="utf-8").split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    lines = "".join(re.findall(r"```console\n(.*?)```", section, re.DOTALL)).splitlines()
    assert lines
    return [line.replace("heart_disease", DATASET) for line in lines]


def run(line, folder, status=0):
    words = shlex.split(line)
    assert words[0] == "fedkit"
    environment = {**os.environ, **NO_PROXY}
    done = subprocess.run([*FEDKIT, *words[1:]], cwd=folder, capture_output=True, text=True, env=environment)
    assert done.returncode == status, (line, done.stdout, done.stderr)
    return done.stdout + done.stderr


def spent(site):
    with Ledger(site.ledger(DATASET), read_only=True) as ledger:
        return ledger.account(DATASET).spent


@pytest.mark.deploy
def test_a_folder_that_was_put_back_knows_what_was_spent_since_once_the_page_was_followed(bench, tmp_path):
    made = bench()
    site, keeper, coordinator = made.folder, made.keeper, made.coordinator
    (tmp_path / "elsewhere").mkdir()
    backup, export, restore, verify = commands("Backup and restore")
    job = coordinator.job("run-1")
    assert not isinstance(keeper.answer("train", coordinator.request(job, "train", 1, model(5))), str)
    assert "read again" in run(backup, tmp_path)
    before = spent(site)
    assert not isinstance(keeper.answer("train", coordinator.request(job, "train", 2, model(5))), str)
    run(export, tmp_path)
    since = spent(site)
    assert since > before
    # The machine is lost; the backup is put back on another one.
    shutil.rmtree(site.path)
    assert "1 charged since" in run(restore, tmp_path)
    assert spent(site) == since
    run(verify, tmp_path)
    told = json.loads(run("fedkit client status site/site.yaml --json", tmp_path))
    assert told["paused"]["reason"].startswith("put back from the backup of")
