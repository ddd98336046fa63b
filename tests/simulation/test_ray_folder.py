import fcntl
import os
import tempfile
import time
from pathlib import Path

import pytest

from fedkit.simulation import ray_folder
from fedkit.simulation.ray_folder import PREFIX, above, folder


@pytest.fixture
def there(monkeypatch, tmp_path):
    monkeypatch.setattr(ray_folder, "above", lambda: tmp_path)
    return tmp_path


def test_a_folder_for_sockets_is_short_wherever_temporary_folders_go(monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", "/a/very/long/folder/for/temporary/things")
    assert above() == Path("/tmp")
    monkeypatch.setattr(tempfile, "tempdir", "/scratch")
    assert above() == Path("/scratch")


def test_it_is_nobody_elses_and_gone_with_its_block_with_all_that_is_in_it(there):
    def interrupted():
        with folder() as made:
            assert made.parent == there and made.stat().st_mode & 0o077 == 0
            (made / "ray" / "logs").mkdir(parents=True)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not list(there.iterdir())


def test_what_a_killed_process_left_is_removed_by_the_next(there):
    process = os.fork()
    if process == 0:
        with folder() as made:
            (made / "ray").mkdir()
            os.kill(os.getpid(), 9)
    os.waitpid(process, 0)
    assert len(list(there.iterdir())) == 1
    with folder() as made:
        assert list(there.iterdir()) == [made]


def test_a_folder_whose_process_lives_or_that_is_just_being_made_stays(there):
    young, old, other = there / f"{PREFIX}young", there / f"{PREFIX}old", there / "other"
    for path in (young, old, other):
        path.mkdir()
    hours = time.time() - 7200
    os.utime(old, (hours, hours))
    os.utime(other, (hours, hours))
    with folder() as mine, folder() as also:
        assert mine.is_dir() and also.is_dir() and young.is_dir() and other.is_dir() and not old.exists()
        with (mine / "owner").open("rb") as lock, pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
