"""Arrays over files are read in slices, and what has been read is no longer held."""

import mmap
from pathlib import Path

import numpy as np
import pytest

from fedkit.storage.mapped import CHUNK, slices, together

SIZE = 20 * 2**20 + 3


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "values.f32"
    path.write_bytes(b"head" + np.arange(SIZE, dtype="<f4").tobytes())
    return path


def held(path):
    """Bytes of a file's mapping that are in this process' memory."""
    found, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        words = line.split()
        if "-" in words[0] and not words[0].endswith(":"):
            inside = line.endswith(str(path))
        elif inside and words[0] == "Rss:":
            found += int(words[1]) * 1024
    return found


@pytest.mark.parametrize("size", [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 5])
def test_slices_cover_an_array_once_and_in_order(size):
    values = np.arange(size)
    assert np.array_equal(np.concatenate([values[:0], *(values[part] for part in slices(values))]), values)


def mapped(path):
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


VIEWS = {
    "of a view": lambda path: np.frombuffer(memoryview(mapped(path)), "<f4", SIZE, 4),
    "from its middle": lambda path: np.frombuffer(mapped(path), "<f4", SIZE, 4)[5:],
    "numpy's own": lambda path: np.memmap(path, "<f4", "r", 4),
}


@pytest.mark.slow
@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs /proc/self/smaps")
def test_no_more_of_a_mapped_file_is_held_than_the_slices_at_work(file, view):
    values = VIEWS[view](file)
    most, total = 0, 0.0
    for part in slices(values):
        total += float(values[part].sum(dtype=np.float64))
        most = max(most, held(file))
    assert 0 < most < 64 * 2**20 < 4 * SIZE
    assert held(file) < 2**20
    # They are there again when they are asked for.
    assert total == pytest.approx(float(values.sum(dtype=np.float64))) and total > 0


def test_what_was_written_to_a_private_mapping_stays(file):
    values = np.memmap(file, "<f4", "c", 4)
    values[:] = 7
    assert all((values[part] == 7).all() for part in slices(values))
    assert (values == 7).all()


@pytest.mark.parametrize("size", [1, 6, 7, 8, 50])
def test_arrays_side_by_side_are_covered_once_and_in_order(size):
    arrays = [np.arange(size), np.arange(size) + 1]
    parts = list(together(arrays, 7))
    for values in arrays:
        assert np.array_equal(np.concatenate([values[part] for part in parts]), values)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs /proc/self/smaps")
def test_files_read_side_by_side_are_not_held(file, tmp_path):
    (tmp_path / "more").mkdir()
    others = [tmp_path / "more" / f"{index}.f32" for index in range(3)]
    for other in others:
        other.write_bytes(file.read_bytes())
    files = [file, *others]
    arrays = [np.memmap(path, "<f4", "r", 4) for path in files]
    most = total = 0
    for part in together(arrays, 2**14):
        total += sum(float(values[part].sum(dtype=np.float64)) for values in arrays)
        most = max(most, sum(map(held, files))) if part.start % 2**18 == 0 else most
    assert total == 4 * np.arange(SIZE, dtype="<f4").sum(dtype=np.float64)
    assert 0 < most < 64 * 2**20 < 4 * 4 * SIZE
    assert sum(map(held, files)) < 4 * 2**20


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs /proc/self/smaps")
def test_a_reader_of_the_second_half_leaves_the_first_to_whoever_reads_it(file):
    values = np.memmap(file, "<f4", "r", 4)
    first = values[: SIZE // 2]
    assert float(first.sum()) > 0
    before = held(file)
    for part in slices(values[SIZE // 2 :]):
        values[SIZE // 2 :][part].sum()
    assert held(file) > before * 0.9
