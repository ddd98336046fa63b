"""A log that is read on: each line once, and whatever was altered, cut or put back is found."""

import pytest

from fedkit.storage.audit import Log
from fedkit.storage.audit_follow import FULL_EVERY, Following
from fedkit.storage.audit_line import Event
from fedkit.storage.audit_verify import BrokenLog
from fedkit.storage.keys import new_signing_key


@pytest.fixture
def log(tmp_path):
    found = Log(tmp_path / "audit.jsonl", new_signing_key())
    for number in range(5):
        found.append(Event("started", {"number": number}))
    return found


@pytest.fixture
def reader(log):
    return Following(log.path, [log.key.public])


def seqs(lines):
    return [line.seq for line in lines]


def test_each_line_comes_once(log, reader):
    assert seqs(reader.advance(0.0)) == [1, 2, 3, 4, 5] and reader.advance(1.0) == []
    log.append(Event("stopped"), Event("started"))
    assert seqs(reader.advance(2.0)) == [6, 7] and reader.known == log.head()
    assert reader.advance(FULL_EVERY + 1) == []


def test_where_there_is_no_log_there_is_nothing_and_one_that_is_gone_is_missing(log, reader, tmp_path):
    assert Following(tmp_path / "none", [log.key.public]).advance(0.0) == []
    reader.advance(0.0)
    log.path.unlink()
    with pytest.raises(BrokenLog, match="missing"):
        reader.advance(1.0)


def test_a_log_that_was_cut_is_found_also_by_the_next_process(log, reader):
    reader.advance(0.0)
    whole = log.path.read_bytes()
    log.path.write_bytes(b"".join(whole.splitlines(keepends=True)[:3]))
    for each in (reader, Following(log.path, [log.key.public], reader.known)):
        with pytest.raises(BrokenLog, match="missing"):
            each.advance(1.0)
    log.path.write_bytes(whole)
    assert reader.advance(2.0) == []


def test_a_log_that_was_cut_and_went_on_is_another(log, reader):
    reader.advance(0.0)
    log.path.write_bytes(b"".join(log.path.read_bytes().splitlines(keepends=True)[:3]))
    for _ in range(4):
        log.append(Event("started"))
    with pytest.raises(BrokenLog):
        reader.advance(1.0)


def test_a_byte_far_back_is_found_at_once_where_nothing_grew_and_else_within_the_hour(log, reader):
    reader.advance(0.0)
    good = log.path.read_bytes()
    log.path.write_bytes(good.replace(b'"number":1', b'"number":9'))
    with pytest.raises(BrokenLog):
        reader.advance(1.0)
    log.path.write_bytes(good)
    assert reader.advance(2.0) == []
    log.path.write_bytes(good.replace(b'"number":1', b'"number":9'))
    log.append(Event("stopped"))
    assert seqs(reader.advance(3.0)) == [6]
    with pytest.raises(BrokenLog):
        reader.advance(FULL_EVERY + 3.0)


def test_a_line_by_another_key_and_a_torn_one_are_found(log, reader):
    reader.advance(0.0)
    good = log.path.read_bytes()
    with log.path.open("ab") as file:
        file.write(b'{"seq":6')
    with pytest.raises(BrokenLog, match="torn"):
        reader.advance(1.0)
    log.path.write_bytes(good)
    other = Log(log.path.with_name("other.jsonl"), new_signing_key())
    for _ in range(6):
        other.append(Event("started"))
    with log.path.open("ab") as file:
        file.write(other.path.read_bytes().splitlines(keepends=True)[5])
    with pytest.raises(BrokenLog):
        reader.advance(2.0)
