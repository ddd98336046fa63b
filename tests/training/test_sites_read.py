import gc

import numpy as np
import pytest

from fedkit.errors import TrainingError
from fedkit.training import sites_read
from fedkit.training.sites_read import SitesRead
from fedkit.types import Examples, Site, Task
from tests.training.builders import BINARY, examples, site


def test_a_site_is_read_once_for_as_long_as_its_records_are_held(monkeypatch):
    read = []
    inner = sites_read.rows_of
    monkeypatch.setattr(sites_read, "rows_of", lambda site, width: read.append(site.name) or inner(site, width))
    reads, north, south = SitesRead(), site("north"), site("south", seed=1)
    first = [reads.of(each, BINARY, 5) for each in (north, south)]
    again = [reads.of(each, BINARY, 5) for each in (north, Site("other", south.train, south.test, 40, True))]
    assert [a is b for a, b in zip(first, again, strict=True)] == [True, True] and read == ["north", "south"]
    assert len(reads) == 2
    del first, again, south
    gc.collect()
    assert len(reads) == 1
    # Another's records in the place of those that have gone are read.
    for seed in range(2, 30):
        part = examples(7, seed)
        found = reads.of(Site("new", part, part, 7, True), BINARY, 5)
        assert np.array_equal(found.x, part.x) and np.array_equal(found.y, part.y)
        assert found.addresses == (found.x.ctypes.data, found.y.ctypes.data, found.order.ctypes.data)
    assert len(reads) == 2


def test_another_task_or_width_is_another_reading_and_a_wrong_one_is_kept_by_nobody():
    reads, north = SitesRead(), site()
    as_number = reads.of(north, BINARY, 5)
    as_class = reads.of(north, Task("multiclass", ("a", "b")), 5)
    assert as_number.y.dtype == np.float32 and as_class.y.dtype == np.int64
    with pytest.raises(TrainingError, match="model of 4 inputs") as caught:
        reads.of(north, BINARY, 4)
    assert caught.value.code == "FK401"
    part = Examples(north.train.x, north.train.y[:-1], north.train.unit)
    with pytest.raises(TrainingError, match="another number of targets"):
        reads.of(Site("short", part, part, 40, True), BINARY, 5)
    assert len(reads) == 1


def test_rows_come_in_the_order_of_their_units_whatever_memory_they_lie_in():
    shuffled = np.random.default_rng(3).permutation(12)
    part = examples(12)
    part = Examples(np.asfortranarray(part.x)[:, ::-1], part.y, shuffled)
    found = SitesRead().of(Site("s", part, part, 12, True), BINARY, 5)
    assert found.x.flags.c_contiguous and np.array_equal(part.unit[found.order], np.arange(12))
