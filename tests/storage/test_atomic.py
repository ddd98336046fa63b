import json

import pytest

from fedkit.storage.atomic import append_line, write_json, write_text


def test_a_failed_write_leaves_the_old_content_and_no_scrap(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_text(path, "old")
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_json_refuses_nan_and_keeps_what_was_there(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"a": float("nan")})
    assert json.loads(path.read_text()) == {"a": 1}


def test_lines_are_appended_in_order(tmp_path):
    path = tmp_path / "log"
    for line in ("a", "b"):
        append_line(path, line)
    assert path.read_text() == "a\nb\n"
