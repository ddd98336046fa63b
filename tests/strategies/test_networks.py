"""Every network is right for every column: by the 0-1 principle, all columns of zeros and ones are enough."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from fedkit.strategies.networks import selecting, sorting


def _columns(size):
    return np.array(list(itertools.product([0, 1], repeat=size)), dtype=np.int8).T


@pytest.mark.parametrize("size", range(1, 14))
def test_merge_exchange_sorts(size):
    rows = list(_columns(size))
    for low, high in sorting(size):
        assert low < high < size
        rows[low], rows[high] = np.minimum(rows[low], rows[high]), np.maximum(rows[low], rows[high])
    assert np.array_equal(np.stack(rows), np.sort(_columns(size), axis=0))


@pytest.mark.parametrize("size", range(1, 12))
def test_wanted_wires_hold_the_wanted_places_and_no_more_is_compared(size):
    for start, stop in itertools.combinations(range(size + 1), 2):
        wanted, rows = range(start, stop), list(_columns(size))
        exchanges = selecting(size, wanted)
        for one in exchanges:
            low, high = np.minimum(rows[one.low], rows[one.high]), np.maximum(rows[one.low], rows[one.high])
            # What nobody looks at again may be anything.
            rows[one.low] = low if one.keeps_low else np.full_like(low, 7)
            rows[one.high] = high if one.keeps_high else np.full_like(high, 7)
        found = np.sort(np.stack([rows[place] for place in wanted]), axis=0)
        assert np.array_equal(found, np.sort(_columns(size), axis=0)[start:stop])
        assert len(exchanges) <= len(list(sorting(size))) and (exchanges or len(wanted) == size)
