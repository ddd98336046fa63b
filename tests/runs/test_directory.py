import numpy as np
import pytest

from fedkit.errors import RunError
from fedkit.runs.directory import create, read_digests, read_json
from fedkit.types import ClientUpdate, RoundReport


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
