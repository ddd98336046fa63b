import errno
import stat

import numpy as np
import pytest

from fedkit.errors import RunError
from fedkit.runs.directory import cannot_write, create, read_digests, read_json
from fedkit.types import ClientUpdate, Predictions, RoundReport


def test_two_runs_in_one_second_get_two_folders(tmp_path):
    first, second = create(tmp_path, "x"), create(tmp_path, "x")
    assert first.path != second.path


def test_a_name_cannot_leave_the_runs_folder(tmp_path):
    made = create(tmp_path / "runs", "../../evil name")
    assert made.path.parent == tmp_path / "runs"


def test_recorded_updates_come_back_bit_for_bit(tmp_path):
    directory = create(tmp_path, "x")
    sent = [
        ClientUpdate("b", np.array([1.5, -0.0], np.float32), 3.0),
        ClientUpdate("a/é", np.zeros(2, np.float32), 1 / 3),
    ]
    directory.write_updates(4, sent)
    got = {update.site: update for update in directory.read_updates(4)}
    assert set(got) == {"b", "a/é"}
    for update in sent:
        assert got[update.site].delta.tobytes() == update.delta.tobytes()
        assert got[update.site].weight == update.weight
    with pytest.raises(RunError, match="round 5 was not recorded"):
        directory.read_updates(5)


def test_a_torn_last_line_is_passed_over(tmp_path):
    directory = create(tmp_path, "x")
    directory.append_round(RoundReport(0, (), {}, {"a": {"auroc": None}}, {}, "d0", 0.1))
    with (directory.path / "metrics.jsonl").open("a") as file:
        file.write('{"round": 1, "dig')
    assert read_digests(directory.path) == {0: "d0"}


def test_a_broken_manifest_is_named(tmp_path):
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(RunError, match="is no JSON"):
        read_json(tmp_path / "manifest.json")


def test_only_the_owner_may_look_into_a_run(tmp_path):
    assert stat.S_IMODE(create(tmp_path / "runs", "x").path.stat().st_mode) == 0o700


@pytest.mark.parametrize("line", ["{}", "[1]", "nonsense", '{"round": "x", "digest": "d"}'])
def test_a_whole_line_that_is_no_round_is_refused(tmp_path, line):
    directory = create(tmp_path, "x")
    (directory.path / "metrics.jsonl").write_text(line + "\n")
    with pytest.raises(RunError, match="line 1, is no round"):
        read_digests(directory.path)


@pytest.mark.parametrize("content", [b"", b"garbage", b"\xff" * 64])
def test_garbage_among_the_updates_is_named(tmp_path, content):
    directory = create(tmp_path, "x")
    (directory.path / "updates").mkdir()
    (directory.path / "updates" / "00001.safetensors").write_bytes(content)
    with pytest.raises(RunError, match="missing or broken"):
        directory.read_updates(1)


def test_predictions_are_replaced_whole(tmp_path, monkeypatch):
    directory = create(tmp_path, "x")
    scored = {"a": Predictions(np.array([1, 0]), np.array([0.5, 0.25]))}
    directory.write_predictions(scored)
    before = (directory.path / "predictions.npz").read_bytes()

    def torn(file, **_):
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", torn)
    with pytest.raises(OSError, match="No space"):
        directory.write_predictions(scored)
    assert (directory.path / "predictions.npz").read_bytes() == before


def test_a_full_disk_asks_for_space_and_a_locked_one_for_another_folder(tmp_path):
    assert "free space" in cannot_write(tmp_path, OSError(errno.ENOSPC, "No space left on device")).remedy
    assert "free space" not in cannot_write(tmp_path, OSError(errno.EACCES, "Permission denied")).remedy
