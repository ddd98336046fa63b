"""The round journal: every step on disk, readable after a crash at any point, refused once it was tampered with."""

import os
import stat
import subprocess
import sys
from unittest.mock import Mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedkit.errors import RunError
from fedkit.runs import journal as journals
from fedkit.runs.directory import RunDirectory
from fedkit.runs.resume import STEPS
from fedkit.types import ClientUpdate
from tests.federation.scripted import Recorder, ScriptedGrid, loop_over

MODEL = np.arange(4, dtype=np.float32)
IDENTITY = {"seed": 1}
EVIL = ["../../etc/passwd", "a\nb", "", "é" * 300]


_OPEN = []


@pytest.fixture(autouse=True)
def _close_all():
    yield
    while _OPEN:
        _OPEN.pop().close()


def open_journal(folder):
    _OPEN.append(journals.open_journal(folder))
    return _OPEN[-1]


def _begun(folder, state=None):
    journal = open_journal(folder)
    journal.begin(IDENTITY, MODEL, state or {})
    return journal


def _again(journal):
    journal.close()
    return open_journal(journal.folder)


def test_an_empty_journal_says_nothing(tmp_path):
    assert open_journal(tmp_path / "journal").load() is None
    assert stat.S_IMODE((tmp_path / "journal").stat().st_mode) == 0o700


def test_what_was_written_comes_back_bit_for_bit(tmp_path):
    journal = _begun(tmp_path, {"m": MODEL * 2})
    journal.ask(0, "exact", EVIL, {"proximal_mu": 0.1})
    journal.keep_reply(0, "exact", EVIL[0], {"rows": 3.0, "metrics": {"r2": None, "rmse": 0.1}})
    journal.refuse(0, "exact", EVIL[1], "FK512: bad")
    journal.close_phase(0, "exact", {EVIL[2]: "no reply"})
    point = _again(journal).load()
    assert (point.round, point.aggregated, point.outcome, point.identity) == (0, False, None, IDENTITY)
    assert point.parameters.tobytes() == MODEL.tobytes() and point.state["m"].tobytes() == (MODEL * 2).tobytes()
    phase = point.phases["exact"]
    assert phase.asked == tuple(EVIL) and phase.request == {"proximal_mu": 0.1}
    assert phase.replies == {EVIL[0]: {"rows": 3.0, "metrics": {"r2": None, "rmse": 0.1}}}
    assert phase.refused == {EVIL[1]: "FK512: bad"} and phase.missing == {EVIL[2]: "no reply"}


def test_updates_of_sites_with_any_name_are_mapped_from_their_files(tmp_path):
    journal = _begun(tmp_path)
    journal.ask(1, "train", EVIL, {})
    for place, site in enumerate(EVIL):
        journal.keep_update(1, place, ClientUpdate(site, MODEL + place, 0.1 + place, {"train_loss": 0.5}))
    assert {path.parent for path in tmp_path.rglob("*.f32")} == {tmp_path}
    journal = _again(journal)
    replies = journal.load().phases["train"].replies
    for place, site in enumerate(EVIL):
        update = journal.read_update(1, place, site, replies[site])
        assert isinstance(update.delta, np.memmap)
        assert update.delta.tobytes() == (MODEL + place).tobytes()
        assert (update.weight, update.metrics) == (0.1 + place, {"train_loss": 0.5})


def test_the_disk_holds_the_newest_model_and_the_round_in_progress_only(tmp_path):
    journal = _begun(tmp_path, {"m": MODEL})
    for number in range(1, 6):
        journal.ask(number, "train", ["a"], {})
        journal.keep_update(number, 0, ClientUpdate("a", MODEL, 1.0))
        journal.keep_model(number, MODEL + number, {"m": MODEL})
        journal.end(number, {}, [f"note {number}"], degraded=number == 2)
    assert {path.name for path in tmp_path.glob("0*")} == {"00005-model.f32", "00005-state-m.f32"}
    point = _again(journal).load()
    assert point.round == 6 and point.degraded and point.notes == tuple(f"note {n}" for n in range(1, 6))
    assert point.parameters.tobytes() == (MODEL + 5).tobytes()


def test_what_an_unfinished_step_left_is_deleted(tmp_path):
    journal = _begun(tmp_path)
    (tmp_path / "00001-update-0000.safetensors").write_bytes(b"half")
    _again(journal)
    assert [path.name for path in tmp_path.glob("0*")] == ["00000-model.f32"]


def test_an_update_that_was_linked_outlives_its_round_and_whatever_is_written_at_its_place(tmp_path):
    journal = _begun(tmp_path / "run" / "journal")
    directory = RunDirectory(tmp_path / "run")
    sent = [ClientUpdate("a/b", MODEL + 1, 2.0), ClientUpdate("c", MODEL - 1, 1 / 3)]
    for place, update in enumerate(sent):
        journal.keep_update(1, place, update)
    files = [journal.update_file(1, place) for place in range(2)]
    for _ in range(2):
        directory.link_updates(1, files)
    assert {file.stat().st_nlink for file in files} == {2}, "not copied"
    assert journal.read_update(1, 1, "c", {"weight": 1, "metrics": {}}).delta.tobytes() == (MODEL - 1).tobytes()
    journal.keep_update(1, 0, ClientUpdate("a/b", MODEL * 7, 2.0))
    journal.end(1, {}, [], degraded=False)
    got = {update.site: update for update in directory.read_updates(1)}
    assert {name: (u.delta.tobytes(), u.weight) for name, u in got.items()} == {
        u.site: (u.delta.tobytes(), u.weight) for u in sent
    }


def test_an_update_is_copied_where_the_file_system_knows_no_links(tmp_path, monkeypatch):
    journal = _begun(tmp_path / "run" / "journal")
    directory = RunDirectory(tmp_path / "run")
    journal.keep_update(1, 0, ClientUpdate("a", MODEL, 2.0))
    monkeypatch.setattr("os.link", Mock(side_effect=PermissionError))
    directory.link_updates(1, [journal.update_file(1, 0)])
    assert directory.read_updates(1)[0].delta.tobytes() == MODEL.tobytes()


@pytest.mark.parametrize("torn", [b"x", b"x\n", b"\0" * 40, b"\xff\n", b"0" * 64 + b' {"step": "end"}\n'])
def test_a_torn_last_step_never_happened_and_the_next_one_is_readable(tmp_path, torn):
    journal = _begun(tmp_path)
    journal.close()
    with (tmp_path / STEPS).open("ab") as file:
        file.write(torn)
    journal = open_journal(tmp_path)
    assert journal.load().round == 0
    journal.end(0, {}, [], degraded=False)
    assert _again(journal).load().round == 1


@pytest.mark.parametrize("at", [0, 70, 200])
def test_a_corrupted_earlier_step_is_refused(tmp_path, at):
    journal = _begun(tmp_path)
    journal.end(0, {}, [], degraded=False)
    journal.close()
    content = bytearray((tmp_path / STEPS).read_bytes())
    content[at] ^= 1
    (tmp_path / STEPS).write_bytes(content)
    with pytest.raises(RunError, match="step 1 of") as caught:
        open_journal(tmp_path)
    assert caught.value.code == "FK631"


def test_a_step_that_was_cut_out_is_refused(tmp_path):
    journal = _begun(tmp_path)
    for number in range(3):
        journal.end(number, {}, [], degraded=False)
    journal.close()
    lines = (tmp_path / STEPS).read_bytes().splitlines(keepends=True)
    (tmp_path / STEPS).write_bytes(b"".join(lines[:2] + lines[3:] + lines[3:]))
    with pytest.raises(RunError, match="step 3 of"):
        open_journal(tmp_path)


@pytest.mark.parametrize("how", ["missing", "altered"])
def test_an_array_that_is_not_what_was_written_is_refused(tmp_path, how):
    journal = _begun(tmp_path)
    if how == "missing":
        (tmp_path / "00000-model.f32").unlink()
    else:
        (tmp_path / "00000-model.f32").write_bytes(MODEL[::-1].tobytes())
    with pytest.raises(RunError, match=r"00000-model\.f32 is") as caught:
        journal.load()
    assert caught.value.code == "FK632"


def test_another_format_is_refused(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(journals, "FORMAT", 1)
        _begun(tmp_path).close()
    with pytest.raises(RunError, match="has format 1; this fedkit reads 2") as caught:
        open_journal(tmp_path)
    assert caught.value.code == "FK635"


def test_one_process_at_a_time(tmp_path):
    _begun(tmp_path)
    with pytest.raises(RunError, match="open in another process") as caught:
        open_journal(tmp_path)
    assert caught.value.code == "FK630"


def test_a_lock_dies_with_its_process(tmp_path):
    script = f"import os; from pathlib import Path; from fedkit.runs.journal import open_journal\n" \
             f"j = open_journal(Path({str(tmp_path)!r})); os.kill(os.getpid(), 9)"  # fmt: skip
    subprocess.run([sys.executable, "-c", script], check=False)
    assert open_journal(tmp_path).load() is None


def test_a_step_that_the_disk_refuses_closes_the_journal(tmp_path, monkeypatch):
    journal = _begun(tmp_path)

    def full(_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(RunError, match="cannot be written: No space left"):
            journal.end(0, {}, [], degraded=False)
    with pytest.raises(RunError, match="is closed") as caught:
        journal.end(0, {}, [], degraded=False)
    assert caught.value.code == "FK634"


class _Crash(BaseException):
    pass


def _run(folder, grid, record, crash_at=None, kept=1.0):
    """Run over the journal; die at one fsync, where the file that is not yet durable keeps a part of its bytes."""
    real, count, at = os.fsync, 0, folder / "journal"

    def fsync(handle):
        nonlocal count
        count += 1
        if count == crash_at:
            path = os.readlink(f"/proc/self/fd/{handle}")
            if os.path.isfile(path):
                before = synced.get(path, 0) if path.endswith(STEPS) else 0
                size = os.path.getsize(path)
                os.truncate(path, before + int(kept * (size - before)))
            raise _Crash
        real(handle)
        path = os.readlink(f"/proc/self/fd/{handle}")
        if os.path.isfile(path):
            synced[path] = os.path.getsize(path)

    synced = {str(path): path.stat().st_size for path in at.glob("*")} if at.exists() else {}
    os.fsync = fsync
    try:
        journal = open_journal(at)
        try:
            finish = loop_over(grid, num_rounds=2, journal=journal).run(np.zeros(7, np.float32), record)
        finally:
            journal.close()
    finally:
        os.fsync = real
    return finish, count


def _nan(site, message):
    from tests.federation.scripted import honest

    content = honest(site, message)
    if message.metadata.message_type == "train":
        from flwr.app import Array, ArrayRecord

        content["arrays"] = ArrayRecord({"parameters": Array(np.full(7, np.nan, np.float32))})
    return content


SITES = {"north": None, "liar": _nan, "south/../x": None, "e": None}


def _check_crashes(folder, crashes, shuffle):
    whole, expected = ScriptedGrid(SITES), Recorder()
    finish, writes = _run(folder / "whole", whole, expected)

    def order(waiting, _):
        return sorted(waiting, key=shuffle.index)

    found, asked = Recorder(), []
    for crash_at, kept in [*crashes, (None, 1.0)]:
        grid = ScriptedGrid(SITES, order)
        try:
            resumed, _ = _run(folder / "crashed", grid, found, crash_at, kept)
        except _Crash:
            continue
        finally:
            asked += grid.asked
    assert resumed.parameters.tobytes() == finish.parameters.tobytes()
    assert (resumed.outcome, resumed.rounds, resumed.notes) == (finish.outcome, finish.rounds, finish.notes)
    assert found.rounds == expected.rounds and found.updates == expected.updates
    # Nobody is ever asked a second question for a round: a ledger answers the first one from its store.
    questions = {(site, number, kind): digest for site, number, kind, digest in whole.asked}
    assert {(site, number, kind): digest for site, number, kind, digest in asked} == questions
    assert {entry[3] for entry in asked} == set(questions.values())
    return writes


@settings(max_examples=10)
@given(
    crashes=st.lists(st.tuples(st.integers(1, 110), st.floats(0, 1)), min_size=1, max_size=4),
    shuffle=st.permutations(list(SITES)),
)
def test_a_crash_at_any_write_resumes_to_the_same_bits(tmp_path_factory, crashes, shuffle):
    _check_crashes(tmp_path_factory.mktemp("run"), crashes, shuffle)


@pytest.mark.slow
def test_a_crash_at_every_single_write_resumes_to_the_same_bits(tmp_path):
    writes, at = 1, 0
    while at < writes:
        at += 1
        writes = _check_crashes(tmp_path / str(at), [(at, (0.0, 0.5, 1.0)[at % 3])], list(SITES)[:: 1 - 2 * (at % 2)])
    assert writes > 60


def test_a_run_that_has_ended_is_told_again_and_asks_nobody(tmp_path):
    first, _ = _run(tmp_path, ScriptedGrid(SITES), Recorder())
    grid, record = ScriptedGrid(SITES), Recorder()
    second, _ = _run(tmp_path, grid, record)
    assert grid.asked == [] and record.rounds == {}
    assert second.parameters.tobytes() == first.parameters.tobytes()
    assert (second.outcome, second.rounds, second.notes) == (first.outcome, first.rounds, first.notes)
