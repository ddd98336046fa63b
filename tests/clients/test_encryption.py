"""What a site stores of records is nobody's without its key; what was spent is everybody's at the site, always."""

import base64
import dataclasses
import json
import os
import secrets
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from fedkit_client import lineage, logs, settling, vaults, withdrawals
from fedkit_client.console_factors import users_of
from fedkit_client.evidence import check_manifest, keep_evidence
from fedkit_client.folder import SiteFolder
from fedkit_client.gatekeeper import Gatekeeper
from fedkit_client.join import join
from fedkit_client.joining_key import key_for
from fedkit_client.opening import unopened
from fedkit_client.pseudonyms import pseudonym_key
from fedkit_client.record_check import lineage_check
from fedkit_client.settling import settle
from fedkit_client.start import open_site
from fedkit_client.usage import note_usage, read_usage

from fedkit.errors import DeploymentError, FederationError, PrivacyError
from fedkit.federation import wire
from fedkit.governance.encryption import Encryption, KeySource
from fedkit.privacy.ledger.ledger import Ledger
from fedkit.privacy.ledger.replies import replies
from fedkit.storage.keys import load_signing_key
from tests.clients.coordinator import DATASET, RECORDS, SITE, experiment, model, site_yaml

SIZE = 5
UNITS = [f"PATIENT-{n:04d}-PLANTED" for n in range(RECORDS)]


class _Used:
    cpu_seconds, peak_bytes = 1234.567, 7654321


class _Done:
    header, usage = {}, _Used()


def write_key(path):
    path.write_bytes(base64.b64encode(secrets.token_bytes(32)) + b"\n")
    path.chmod(0o600)
    return path


def name_keys(made, **encryption):
    values = json.loads(made.folder.site_yaml.read_text())
    values["encryption"] = {key: value for key, value in encryption.items() if value is not None}
    made.folder.site_yaml.write_text(json.dumps(values))


def opened(made):
    """The site as the next process finds it."""
    return open_site(made.folder.site_yaml)


def keeper(made):
    site = opened(made)
    return Gatekeeper(site.file, site.folder)


@pytest.fixture
def hospital(bench, tmp_path):
    """A site of patients whose ids are planted, in plain text as of a version before."""
    rows = "".join(f"{unit},{20 + n},{60 + n},{n % 2}\n" for n, unit in enumerate(UNITS))
    (tmp_path / "table.csv").write_text(f"pid,age,rate,died\n{rows}")
    return bench(
        data={
            "source": {"kind": "csv", "path": str(tmp_path / "table.csv")}, "unit": "patient", "unit_column": "pid",
        },
    )  # fmt: skip


def ask(made, keeper, kind="train", number=1, run="run-1"):
    jobs = made.__dict__.setdefault("jobs", {})
    job = jobs[run] = jobs.get(run) or made.coordinator.job(run, experiment("data.unit_column=pid"))
    size = 0 if kind == "end" else SIZE
    message = "train" if kind == "end" else kind
    return keeper.answer(message, made.coordinator.request(job, kind, number, model(size)))


def live(made):
    """Rounds, evaluations, a run that is over, withdrawals, a log and costs; returns what a thief would look for."""
    site, at = opened(made), keeper(made)
    folder, vault = site.folder, site.folder.vault()
    planted = []
    for number in (1, 2):
        update = wire.unpack_update(ask(made, at, number=number), SITE, SIZE)
        planted.append(np.asarray(update.delta, "<f4").tobytes())
    counts = wire.unpack_histograms(ask(made, at, "evaluate"), 16)
    planted.append(np.asarray(counts)[:8].tobytes())
    over = wire.unpack_update(ask(made, at, run="run-2"), SITE, SIZE)
    planted.append(np.asarray(over.delta, "<f4").tobytes())
    assert not isinstance(ask(made, at, "end", 1, run="run-2"), str)
    withdrawals.note(folder.withdrawals, DATASET, UNITS[:3], "withdrawn", time.time(), vault)
    note_usage(folder.usage, "train", "run-1", 1, _Done(), 3.25, vault)
    key = pseudonym_key(folder)
    planted += [key.of(DATASET, UNITS[5])[:16], key._key.hex().encode(), b"1234.567", UNITS[2].encode()]
    planted.append(users_of(folder).add("ana", "correct horse battery", time.time()).encode())
    return planted


def search(folder, planted):
    """Which of the planted values any file of a folder holds, raw."""
    contents = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {value: [path.name for path, content in contents.items() if value in content] for value in planted}


def test_a_folder_of_before_shows_what_is_looked_for_and_none_of_it_once_it_is_encrypted(hospital, tmp_path):
    planted = live(hospital)
    found = search(hospital.folder.path, planted)
    # The run that is over was pruned; its bytes lie in freed pages, or were overwritten there.
    assert all(found[value] for value in planted if value != planted[3])
    name_keys(hospital, key_file=str(write_key(tmp_path / "north.key")))
    assert settle(opened(hospital).folder)
    found = search(hospital.folder.path, [*planted, *map(str.encode, UNITS)])
    assert not any(found.values()), found
    # It reads as before.
    folder = opened(hospital).folder
    assert withdrawals.read_withdrawn(folder.withdrawals, DATASET, folder.vault()) == set(UNITS[:3])
    assert [run["train"] for run in lineage.runs_with(folder, DATASET, UNITS[5]) if run["run"] == "run-1"] == [[1, 2]]
    assert lineage.rounds_of(folder, "run-1")[0]["units"] == RECORDS
    assert next(read_usage(folder.usage, folder.vault()))["cpu_seconds"] == 1234.567
    assert not unopened(folder, [DATASET])


def test_evidence_of_before_is_signed_and_stays_as_it_was_and_somebody_is_told(hospital, tmp_path):
    live(hospital)
    folder, signing = opened(hospital).folder, load_signing_key(hospital.folder.signing_key)
    kept = Path(keep_evidence(folder, signing, time.time())["folder"])
    name_keys(hospital, key_file=str(write_key(tmp_path / "north.key")))
    said = settle(opened(hospital).folder)
    assert any(kept.name in each and "in the clear" in each for each in said), said
    assert check_manifest(kept, "evidence", signing.public)["failed"] == {}
    # One that is made from now on holds nothing that is not under the key, and is told of no more.
    later = Path(keep_evidence(opened(hospital).folder, signing, time.time() + 1)["folder"])
    assert not any(search(later, [*map(str.encode, UNITS)]).values())
    shutil.rmtree(kept)
    new = {"key_file": str(write_key(tmp_path / "newer.key")), "previous": {"key_file": str(tmp_path / "north.key")}}
    name_keys(hospital, **new)
    assert not any("in the clear" in each for each in settle(opened(hospital).folder, renew=True))


def test_pages_that_an_older_version_has_freed_show_nothing_once_a_folder_is_encrypted(hospital, tmp_path):
    planted = live(hospital)
    path = hospital.folder.ledger(DATASET)
    with sqlite3.connect(path) as sql:
        sql.execute("PRAGMA secure_delete = OFF")
        big = secrets.token_bytes(40_000)
        sql.execute("INSERT INTO replies VALUES ('0', ?, x'')", (big,))
    with sqlite3.connect(path) as sql:
        sql.execute("PRAGMA secure_delete = OFF")
        sql.execute("DELETE FROM replies WHERE digest = '0'")
    planted.append(big[1000:1032])
    assert search(hospital.folder.path, planted[-1:])[planted[-1]]
    name_keys(hospital, key_file=str(write_key(tmp_path / "north.key")))
    settle(opened(hospital).folder)
    assert not any(search(hospital.folder.path, planted).values())


def test_a_site_that_was_encrypted_from_the_start_never_writes_a_byte_of_it(hospital, tmp_path):
    name_keys(hospital, key_file=str(write_key(tmp_path / "north.key")))
    settle(opened(hospital).folder)
    planted = live(hospital)
    copy = tmp_path / "elsewhere"
    shutil.copytree(hospital.folder.path, copy)
    assert not any(search(copy, [*planted, *map(str.encode, UNITS)]).values())
    stored = ask(hospital, keeper(hospital), number=2)
    assert np.asarray(wire.unpack_update(stored, SITE, SIZE).delta, "<f4").tobytes() == planted[1]


@pytest.mark.slow
def test_without_its_key_a_site_reads_no_record_charges_nothing_and_still_tells_its_budget(hospital, tmp_path):
    key = write_key(tmp_path / "north.key")
    name_keys(hospital, key_file=str(key))
    settle(opened(hospital).folder)
    ask(hospital, keeper(hospital))
    charged, entries = hospital.charged(), hospital.entries()
    kept = key.read_bytes()
    (tmp_path / "table.csv").rename(tmp_path / "away.csv")
    for content in (None, base64.b64encode(secrets.token_bytes(32))):
        key.unlink()
        if content is not None:
            key.write_bytes(content)
            key.chmod(0o600)
        # Neither a round that was answered nor a new one; a table that is away would be FK500.
        assert ask(hospital, keeper(hospital)) == "FK585"
        assert ask(hospital, keeper(hospital), number=2) == "FK585"
        assert ask(hospital, keeper(hospital), run="another") == "FK585"
        assert hospital.charged() == charged and hospital.entries() == entries
        with Ledger(hospital.folder.ledger(DATASET)) as ledger:
            assert replies(ledger.file) == (0, 1)
            with pytest.raises(PrivacyError, match="is lost") as caught:
                ledger.state(DATASET, "run-1")
            assert caught.value.code == "FK359"
        words = [sys.executable, "-m", "fedkit", "ledger", "show", "--json", "--no-pld"]
        done = subprocess.run(
            [*words, "--ledger", str(hospital.folder.ledger(DATASET))], capture_output=True, text=True
        )
        assert json.loads(done.stdout)["datasets"][0]["spent"] > 0, done.stderr
        if content is None:
            key.write_bytes(b"")
    # A run can be ended, which frees what it holds.
    assert not isinstance(ask(hospital, keeper(hospital), "end", 1), str)
    key.write_bytes(kept)
    key.chmod(0o600)
    assert not unopened(opened(hospital).folder, [DATASET])


def test_withdrawals_that_cannot_be_opened_let_nobody_be_read(hospital, tmp_path):
    name_keys(hospital, key_file=str(write_key(tmp_path / "north.key")))
    settle(opened(hospital).folder)
    folder = opened(hospital).folder
    withdrawals.note(folder.withdrawals, DATASET, UNITS[:2], "withdrawn", 1, folder.vault())
    first, second = folder.withdrawals.read_bytes().splitlines()
    for content in (second + b"\n" + first, first + b"\n" + first, b'{"at": 1}', first[:-8] + b"AAAAAAA="):
        folder.withdrawals.write_bytes(content + b"\n")
        with pytest.raises(FederationError) as caught:
            withdrawals.read_withdrawn(folder.withdrawals, DATASET, folder.vault())
        assert caught.value.code == "FK593"
        assert ask(hospital, keeper(hospital)) == "FK500"


def test_a_stored_reply_opens_at_its_own_place_alone(hospital, tmp_path):
    name_keys(hospital, key_file=str(write_key(tmp_path / "north.key")))
    settle(opened(hospital).folder)
    at = keeper(hospital)
    ask(hospital, at)
    ask(hospital, at, number=2)
    with sqlite3.connect(hospital.folder.ledger(DATASET)) as sql:
        (one, first), (two, second) = sql.execute("SELECT digest, reply FROM replies").fetchall()
        sql.execute("UPDATE replies SET reply = ? WHERE digest = ?", (second, one))
        sql.execute("UPDATE replies SET reply = ? WHERE digest = ?", (first, two))
    spent = hospital.charged()
    assert [ask(hospital, at, number=number) for number in (1, 2)] == ["FK359", "FK359"]
    assert hospital.charged() == spent


def rotated(hospital, tmp_path):
    """A site under one key whose file names another, with the one before."""
    old, new = write_key(tmp_path / "old.key"), write_key(tmp_path / "new.key")
    name_keys(hospital, key_file=str(old))
    settle(opened(hospital).folder)
    planted = live(hospital)
    name_keys(hospital, key_file=str(new), previous={"key_file": str(old)})
    return old, new, planted


def test_a_rotation_leaves_nothing_that_the_key_before_or_its_vault_opens(hospital, tmp_path):
    old, new, planted = rotated(hospital, tmp_path)
    stolen = hospital.folder.vault_file.read_bytes()
    before = opened(hospital)
    assert before.folder.vault() is not None
    del before
    assert any("--rotate" in each for each in settle(opened(hospital).folder))
    settle(opened(hospital).folder, renew=True)
    name_keys(hospital, key_file=str(new))
    assert not unopened(opened(hospital).folder, [DATASET])
    assert not any(search(hospital.folder.path, planted).values())
    name_keys(hospital, key_file=str(old))
    with pytest.raises(DeploymentError) as caught:
        opened(hospital).folder.vault()
    assert caught.value.code == "FK791"
    # Nor the old vault with the old key, which a thief may have kept.
    hospital.folder.vault_file.write_bytes(stolen)
    assert len(unopened(opened(hospital).folder, [DATASET])) >= 3


@pytest.mark.deploy
@pytest.mark.parametrize("part", range(4))
def test_a_kill_at_any_line_of_a_rotation_leaves_the_old_key_or_the_new_one_and_the_next_try_ends_it(
    hospital, tmp_path, part
):
    old, new, _ = rotated(hospital, tmp_path)
    template = tmp_path / "template"
    shutil.copytree(hospital.folder.path, template)
    watched = {settling.__file__, vaults.__file__}
    last = False
    factors = users_of(opened(hospital).folder)
    secret = factors.factors(factors.read())["ana"]
    # Who has opened a vault keeps others from changing it.
    del factors
    for kill_at in range(1 + 3 * part, 2000, 12):
        shutil.rmtree(hospital.folder.path)
        shutil.copytree(template, hospital.folder.path)
        child = os.fork()
        if not child:
            _settle_until(kill_at, watched, hospital)
        _, status = os.waitpid(child, 0)
        last = not os.WIFSIGNALED(status)
        folder = opened(hospital).folder
        assert not unopened(folder, [DATASET]), kill_at
        users = users_of(folder)
        assert users.factors(users.read()) == {"ana": secret}, kill_at
        del folder, users
        settle(opened(hospital).folder, renew=True)
        name_keys(hospital, key_file=str(new))
        assert not unopened(opened(hospital).folder, [DATASET]), kill_at
        name_keys(hospital, key_file=str(new), previous={"key_file": str(old)})
        if last:
            break
    assert last and kill_at > 50


def _settle_until(kill_at, watched, hospital):
    count = 0

    def trace(frame, event, _):
        nonlocal count
        if frame.f_code.co_filename not in watched:
            return None
        count += event == "line"
        if count >= kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)
    try:
        settle(opened(hospital).folder, renew=True)
    finally:
        os._exit(0)


def test_a_migration_that_was_killed_is_gone_on_with_and_used_by_nobody_before(hospital, tmp_path, monkeypatch):
    planted = live(hospital)
    name_keys(hospital, key_file=str(write_key(tmp_path / "north.key")))

    def dies(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(settling, "_lines", dies)
        with pytest.raises(KeyboardInterrupt):
            settle(opened(hospital).folder)
    assert ask(hospital, keeper(hospital)) == "FK585"
    # Whoever can write the folder cannot have plain text taken for the site's own.
    settle(opened(hospital).folder)
    values = json.loads(hospital.folder.vault_file.read_text())
    assert not any(search(hospital.folder.path, planted).values())
    hospital.folder.vault_file.write_text(json.dumps({**values, "pending": "seal"}))
    with pytest.raises(DeploymentError) as caught:
        settle(opened(hospital).folder)
    assert caught.value.code == "FK791"


def test_a_vault_in_use_is_changed_by_nobody(hospital, tmp_path, monkeypatch):
    monkeypatch.setattr("fedkit_client.vault_lock.PATIENCE", 0.1)
    _, _, _ = rotated(hospital, tmp_path)
    using = opened(hospital).folder
    assert using.vault() is not None
    with pytest.raises(DeploymentError) as caught:
        settle(opened(hospital).folder, renew=True)
    assert caught.value.code == "FK793"


def test_a_key_that_no_file_names_lies_beside_the_folder_and_is_never_made_twice(hospital, tmp_path):
    said = settle(opened(hospital).folder)
    key = hospital.folder.path.with_name("site.key")
    assert key.exists() and any(str(key) in each for each in said)
    ask(hospital, keeper(hospital))
    key.unlink()
    with pytest.raises(DeploymentError) as caught:
        settle(opened(hospital).folder)
    assert caught.value.code == "FK790" and not key.exists()


def test_plain_text_is_what_a_file_has_to_ask_for(hospital):
    name_keys(hospital, allow_plaintext=True)
    assert settle(opened(hospital).folder) == [settling.PLAIN]
    assert not isinstance(ask(hospital, keeper(hospital)), str)
    assert not hospital.folder.vault_file.exists()


def test_a_folder_that_is_encrypted_is_not_used_without_a_key_by_whoever_forgets_it(hospital):
    settle(opened(hospital).folder)
    with pytest.raises(DeploymentError) as caught:
        SiteFolder(hospital.folder.path).vault()
    assert caught.value.code == "FK790"
    assert ask(hospital, dataclasses.replace(hospital.keeper)) == "FK585"


def test_a_log_keeps_what_may_speak_of_records_under_the_key(hospital, tmp_path):
    settle(opened(hospital).folder)
    words = [sys.executable, "-c", _LOGS, str(hospital.folder.site_yaml)]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0 and "PLANTED" not in done.stdout + done.stderr, done.stderr
    raw = hospital.folder.log.read_text()
    assert "PLANTED" not in raw and "connected to the coordinator" in raw
    folder = opened(hospital).folder
    told = "\n".join(logs.opened_lines(folder.log, folder.vault()))
    for each in ("PLANTED-SITE", "PLANTED-CHILD", "PLANTED-PRINT", "PLANTED-TRACE"):
        assert each in told
    shown = subprocess.run(
        [sys.executable, "-m", "fedkit", "client", "log", "text", str(hospital.folder.site_yaml)],
        capture_output=True, text=True,
    )  # fmt: skip
    assert "PLANTED-TRACE" in shown.stdout


_LOGS = """
import logging, os, sys
from pathlib import Path
from fedkit_client import logs
from fedkit_client.start import open_site
folder = open_site(Path(sys.argv[1])).folder
logs.configure(folder.log, folder.vault())
logging.getLogger("fedkit.node").info("connected to the coordinator")
logging.getLogger("fedkit.site").info("PLANTED-SITE")
if not os.fork():
    logs.redirect(folder.log, folder.vault())
    logging.getLogger("fedkit.node").info("PLANTED-CHILD")
    print("PLANTED-PRINT")
    os.system("echo PLANTED-NATIVE")
    try:
        raise ValueError("PLANTED-TRACE")
    except ValueError:
        import traceback
        traceback.print_exc()
    sys.stdout.flush()
    os._exit(0)
os.wait()
"""


@pytest.mark.deploy
def test_the_command_encrypts_rotates_and_checks(hospital, tmp_path):
    live(hospital)

    def run(*words):
        line = [sys.executable, "-m", "fedkit", "client", "encrypt", str(hospital.folder.site_yaml), "--json", *words]
        done = subprocess.run(line, capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr

    old, new = write_key(tmp_path / "old.key"), write_key(tmp_path / "new.key")
    name_keys(hospital, key_file=str(old))
    assert run()[0] == 0 and run("--check")[0] == 0
    name_keys(hospital, key_file=str(new), previous={"key_file": str(old)})
    assert json.loads(run("--rotate")[1])["encrypted_by"] == f"key_file {new}"
    name_keys(hospital, key_file=str(new))
    assert run("--check") == (0, json.dumps({"ok": True, "problems": []}) + "\n")
    hospital.folder.pseudonym_key.write_bytes(b"0" * 64 + b"\n")
    assert run("--check")[0] == 1


@pytest.mark.deploy
def test_a_real_site_s_folder_is_encrypted_by_joining_and_shows_no_reply(running):
    coordinator, site = running()
    reply = coordinator.ask(coordinator.request(coordinator.job("sealed"), "train", 1, model(SIZE)))
    update = wire.unpack_update(reply.content, SITE, SIZE)
    key = site.folder.path.with_name("site.key")
    assert key.exists() and site.folder.vault_file.exists()
    value = np.asarray(update.delta, "<f4").tobytes()
    assert not search(site.folder.path, [value])[value]
    folder = open_site(site.folder.site_yaml).folder
    with Ledger(folder.ledger(DATASET), read_only=True, vault=folder.vault()) as ledger:
        assert ledger.verify() == 1
    for pid in site.children().values():
        with open(f"/proc/{pid}/limits", encoding="ascii") as file:
            (line,) = [each.split() for each in file if each.startswith("Max core file size")]
        assert line[4:6] == ["0", "0"]
    # The same folder where the key is not: it does not start, and says which key is missing.
    site.kill()
    key.rename(key.with_name("moved.key"))
    done = subprocess.run(
        [*site.command, "client", "start", str(site.folder.site_yaml)], capture_output=True, text=True
    )
    assert done.returncode == 2 and "FK790" in done.stderr and str(key) in done.stderr


@pytest.mark.deploy
def test_a_real_site_s_folder_with_its_evidence_shows_nothing_and_the_evidence_opens_by_the_key_of_its_time(
    running, tmp_path
):
    rows = "".join(f"{unit},{20 + n},{60 + n},{n % 2}\n" for n, unit in enumerate(UNITS))
    (tmp_path / "table.csv").write_text(f"pid,age,rate,died\n{rows}")
    source = {"kind": "csv", "path": str(tmp_path / "table.csv")}
    coordinator, site = running(data={"source": source, "unit": "patient", "unit_column": "pid"})
    job = coordinator.job("run-1", experiment("data.unit_column=pid"))
    update = wire.unpack_update(coordinator.ask(coordinator.request(job, "train", 1, model(SIZE))).content, SITE, SIZE)
    reply = coordinator.ask(coordinator.request(job, "evaluate", 1, model(SIZE)), "evaluate")
    counts = wire.unpack_histograms(reply.content, 16)
    name = str(site.folder.site_yaml)

    def run(*words):
        done = subprocess.run([*site.command, "client", *words], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    run("withdraw", name, "--data", DATASET, "--unit", UNITS[2])
    run("rectify", name, "--data", DATASET, "--unit", UNITS[3])
    run("quarantine", name, "--reason", "looked at")
    site.kill()
    folder = open_site(site.folder.site_yaml).folder
    mark = pseudonym_key(folder)
    planted = [
        np.asarray(update.delta, "<f4").tobytes(), np.asarray(counts)[:8].tobytes(), mark._key,
        mark._key.hex().encode(), *map(str.encode, UNITS), mark.of(DATASET, UNITS[5])[:16],
    ]  # fmt: skip
    (evidence,) = folder.evidence.iterdir()
    for each in ("lineage.sqlite", "withdrawals.jsonl", f"ledgers/{DATASET}.sqlite", "client.log", "vault.json"):
        assert (evidence / each).stat().st_size > 0, each
    found = search(folder.path, planted)
    assert not any(found.values()), found
    # What was kept opens by the key of its time, after another has come into force too.
    key, new = folder.path.with_name("site.key"), write_key(tmp_path / "new.key")
    del folder, mark
    name_keys(site, key_file=str(new), previous={"key_file": str(key)})
    run("encrypt", name, "--rotate")
    kept = SiteFolder(evidence, vaults.Keys(evidence, Encryption(KeySource(file=key))))
    assert withdrawals.read_withdrawn(kept.withdrawals, DATASET, kept.vault()) == {UNITS[2]}
    with Ledger(kept.ledger(DATASET), read_only=True, vault=kept.vault()) as ledger:
        assert ledger.verify() == 2
    with pytest.raises(DeploymentError, match="FK791"):
        SiteFolder(evidence, vaults.Keys(evidence, Encryption(KeySource(file=new)))).vault()


def test_a_site_that_joins_again_opens_what_it_brings_along(running, tmp_path):
    coordinator, site = running(start=False)
    old = site.folder.path
    before = open_site(site.folder.site_yaml).folder
    withdrawals.note(before.withdrawals, DATASET, UNITS[:1], "withdrawn", 1, before.vault())
    del before
    done = join(f"127.0.0.1:{coordinator.port}", coordinator.invite(), tmp_path / "anew", old=old)
    done.folder.site_yaml.write_text(site_yaml(done.folder.path))
    folder = open_site(done.folder.site_yaml).folder
    assert (tmp_path / "anew.key").read_bytes() == old.with_name("site.key").read_bytes()
    assert withdrawals.read_withdrawn(folder.withdrawals, DATASET, folder.vault()) == {UNITS[0]}


def contents(folder):
    """Every file of a folder but the locks, which a refusal may take."""
    locks = ("vault.lock", "client.pid")
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name not in locks}


def client(*words):
    done = subprocess.run([sys.executable, "-m", "fedkit", "client", *words], capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.deploy
def test_a_vault_that_is_lost_is_named_by_every_command_before_anything_is_written(hospital, tmp_path):
    name_keys(hospital, key_file=str(write_key(tmp_path / "north.key")))
    settle(opened(hospital).folder)
    live(hospital)
    evidence = keep_evidence(opened(hospital).folder, load_signing_key(hospital.folder.signing_key), time.time())
    vault, name = hospital.folder.vault_file, str(hospital.folder.site_yaml)
    away = vault.rename(tmp_path / "vault.json")
    before, charged = contents(hospital.folder.path), hospital.charged()
    for words in (("start",), ("start", "--detach"), ("encrypt",), ("encrypt", "--rotate"), ("encrypt", "--check")):
        code, told = client(words[0], name, *words[1:])
        assert code == 2 and "FK791" in told and f"{vault} is missing" in told, told
        assert "restore vault.json from the folder's backup, or from evidence/" in told, told
        assert contents(hospital.folder.path) == before, words
    told = json.loads(client("doctor", name, "--json")[1])
    (found,) = [each for each in told["checks"] if each["check"] == "encryption"]
    assert found["state"] == "fail" and "vault.json is missing" in found["found"], found
    assert ask(hospital, keeper(hospital), number=3) == "FK585" and hospital.charged() == charged
    # The log of the executor that `doctor` has looked with.
    assert {path: text for path, text in contents(hospital.folder.path).items() if text or path in before} == before
    anew = tmp_path / "anew"
    with pytest.raises(DeploymentError, match="FK791"), key_for(anew, opened(hospital).file.encryption, vault.parent):
        pytest.fail("a site joined again with what nothing opens any more")
    # The copy that lies in evidence/ is the same one here; it, or the old one, opens all.
    assert (Path(evidence["folder"]) / "vault.json").read_bytes() == away.read_bytes()
    shutil.copy(away, vault)
    assert client("encrypt", name, "--check")[0] == 0


def test_a_lineage_that_is_no_database_is_one_error_of_whoever_encrypts_it(hospital, tmp_path):
    live(hospital)
    hospital.folder.lineage.write_bytes(b"no database " * 100)
    name_keys(hospital, key_file=str(write_key(tmp_path / "north.key")))
    with pytest.raises(FederationError, match=r"lineage\.sqlite cannot be used") as caught:
        settle(opened(hospital).folder)
    assert caught.value.code == "FK593" and "backup" in caught.value.remedy


SEALED = (
    "lineage.sqlite", "pseudonym.key", "withdrawals.jsonl", "usage.jsonl", "client.log", "ledgers",
    "console_users.json",
)  # fmt: skip


def _keep_only(path, kept):
    for each in SEALED:
        if each != kept and (path / each).exists():
            shutil.rmtree(path / each) if (path / each).is_dir() else (path / each).unlink()
    (path / "ledgers").mkdir(mode=0o700, exist_ok=True)


def test_each_thing_that_is_sealed_tells_that_a_vault_was_lost_and_nothing_in_the_clear_does(hospital, tmp_path):
    live(hospital)
    name_keys(hospital, allow_plaintext=True)
    log = hospital.folder.log
    piece = base64.b64encode(b"fks1" + bytes(100)).decode()
    log.write_text(f"2026-01-01 00:00:00,000 7 INFO fedkit.node: the coordinator says sealed:{piece}\n")
    assert settle(opened(hospital).folder) == [settling.PLAIN]
    # From plain text to sealed, file by file.
    name_keys(hospital, key_file=str(write_key(tmp_path / "north.key")))
    settle(opened(hospital).folder)
    hospital.folder.vault_file.unlink()
    template = tmp_path / "template"
    shutil.copytree(hospital.folder.path, template)
    for kept in SEALED:
        shutil.rmtree(hospital.folder.path)
        shutil.copytree(template, hospital.folder.path)
        _keep_only(hospital.folder.path, kept)
        for encryption in ({"key_file": str(tmp_path / "north.key")}, {"allow_plaintext": True}, {}):
            name_keys(hospital, **encryption) if encryption else _name_none(hospital)
            before = contents(hospital.folder.path)
            for use in (settle, lambda folder: folder.vault()):
                with pytest.raises(DeploymentError, match=f"missing, and {kept}") as caught:
                    use(opened(hospital).folder)
                assert caught.value.code == "FK791"
            assert contents(hospital.folder.path) == before
            assert not hospital.folder.path.with_name("site.key").exists()
    _keep_only(hospital.folder.path, "")
    settle(opened(hospital).folder)


def _name_none(made):
    values = json.loads(made.folder.site_yaml.read_text())
    del values["encryption"]
    made.folder.site_yaml.write_text(json.dumps(values))


def test_a_bit_of_a_vault_that_was_flipped_sends_its_owner_to_the_backup_too(hospital, tmp_path):
    name_keys(hospital, key_file=str(write_key(tmp_path / "north.key")))
    settle(opened(hospital).folder)
    vault = hospital.folder.vault_file
    kept = vault.read_bytes()
    values = json.loads(kept)
    wrapped = bytearray(base64.b64decode(values["keys"][0]["wrapped"]))
    wrapped[20] ^= 1
    values["keys"][0]["wrapped"] = base64.b64encode(wrapped).decode()
    for content in (json.dumps(values).encode(), kept[:-40], kept.replace(b"format", b"fermat")):
        vault.write_bytes(content)
        with pytest.raises(DeploymentError) as caught:
            settle(opened(hospital).folder)
        assert caught.value.code == "FK791" and vault.read_bytes() == content
        assert "may be damaged: restore vault.json from the folder's backup" in caught.value.remedy
    vault.write_bytes(kept)
    assert not unopened(opened(hospital).folder, [DATASET])


def test_a_key_file_that_was_damaged_is_to_come_back_and_no_new_one_is_to_be_made(hospital, tmp_path):
    key = write_key(tmp_path / "north.key")
    name_keys(hospital, key_file=str(key))
    good = key.read_bytes()
    # Before anything is sealed by it a new one does.
    key.write_bytes(good[:30])
    with pytest.raises(DeploymentError, match="make one by: head"):
        settle(opened(hospital).folder)
    key.write_bytes(good)
    settle(opened(hospital).folder)
    for content in (good[:30], b"", good[4:], good.decode().encode("utf-16"), bytes(32).hex().encode()):
        key.write_bytes(content)
        with pytest.raises(DeploymentError) as caught:
            settle(opened(hospital).folder)
        assert caught.value.code == "FK790" and "head -c" not in caught.value.remedy
        assert "back from its copy; do not make a new one" in caught.value.remedy
    for content in (b"\xef\xbb\xbf" + good, good.strip() + b"\r\n", b"\xef\xbb\xbf" + good.strip() + b"\r\n"):
        key.write_bytes(content)
        settle(opened(hospital).folder)
        assert not unopened(opened(hospital).folder, [DATASET])


@pytest.mark.deploy
def test_a_rotation_says_what_the_key_before_is_still_needed_for(hospital, tmp_path):
    rotated(hospital, tmp_path)
    name, folder = str(hospital.folder.site_yaml), hospital.folder.path
    code, told = client("encrypt", name, "--rotate")
    assert code == 0 and "backups that were made before" in told and str(folder / "evidence") not in told, told
    newest, newer = {"key_file": str(tmp_path / "new.key")}, write_key(tmp_path / "newer.key")
    name_keys(hospital, **newest)
    kept = Path(keep_evidence(opened(hospital).folder, load_signing_key(hospital.folder.signing_key), 1)["folder"])
    name_keys(hospital, key_file=str(newer), previous=newest)
    code, told = client("encrypt", name, "--rotate")
    assert code == 0 and f"backups that were made before the rotation and what lies in {kept.parent}" in told, told
    checks = json.loads(client("doctor", name, "--json")[1])["checks"]
    (found,) = [each for each in checks if each["check"] == "encryption"]
    assert "keep it apart for as long as them" in found["remedy"] and str(kept.parent) in found["remedy"]
    # And that is so.
    copied = SiteFolder(kept, vaults.Keys(kept, Encryption(KeySource(file=tmp_path / "new.key"))))
    assert not unopened(copied, [DATASET])


def test_doctor_without_the_key_sends_nobody_to_a_backup_for_the_lineage(hospital, tmp_path):
    key = write_key(tmp_path / "north.key")
    name_keys(hospital, key_file=str(key))
    settle(opened(hospital).folder)
    live(hospital)
    assert lineage_check(opened(hospital)).state == "ok"
    key.rename(tmp_path / "away.key")
    found = lineage_check(opened(hospital))
    assert found.state == "fail" and "not looked at" in found.found and str(key) in found.found, found
    assert "pseudonym" not in found.remedy and "lineage" not in found.remedy, found


@pytest.mark.deploy
def test_status_without_the_key_tells_no_cost_in_place_of_none(hospital, tmp_path):
    key = write_key(tmp_path / "north.key")
    name_keys(hospital, key_file=str(key))
    settle(opened(hospital).folder)
    live(hospital)
    name = str(hospital.folder.site_yaml)
    assert "1 answers, 1235 CPU seconds in all" in client("status", name)[1]
    key.rename(tmp_path / "away.key")
    code, told = client("status", name)
    assert code == 0 and "1 answers, CPU seconds that cannot be read without its key" in told, told
    used = json.loads(client("status", name, "--json")[1])["usage"]
    assert used == {"answers": 1, "cpu_seconds": None, "peak_bytes": None}
    assert "epsilon" in told


@pytest.mark.deploy
def test_a_site_whose_key_command_is_away_or_fails_does_not_start_and_writes_nothing(hospital, tmp_path):
    key, program = write_key(tmp_path / "north.key"), tmp_path / "vault"
    program.write_text(f'#!/bin/sh\necho "PLANTED-TOKEN" >&2\ncat {key}\n')
    program.chmod(0o700)
    name_keys(hospital, key_command=[str(program), "get", "north"])
    name = str(hospital.folder.site_yaml)
    assert client("encrypt", name)[0] == 0
    live(hospital)
    before = contents(hospital.folder.path)

    def away():
        program.rename(tmp_path / "moved")

    def fails():
        program.write_text('#!/bin/sh\necho "PLANTED-TOKEN" >&2\nexit 2\n')
        program.chmod(0o700)

    for change, why in ((fails, "ends with status 2"), (away, "cannot be run (No such file or directory)")):
        change()
        for words in (("start", name), ("start", name, "--detach"), ("encrypt", name), ("encrypt", name, "--check")):
            code, told = client(*words)
            assert code == 2 and "FK790" in told and why in told and str(program) in told, told
            assert "PLANTED" not in told and contents(hospital.folder.path) == before, words
    program.write_text(f"#!/bin/sh\ncat {key}\n")
    program.chmod(0o700)
    assert client("encrypt", name, "--check")[0] == 0
