import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedkit.strategies.streaming import fold
from fedkit.strategies.tree import Part, cuts, join, mean_from, mean_over, part_of, spans_within

D = 7


def updates(count, seed, gone=()):
    draw = np.random.default_rng(seed)
    made = [(draw.normal(size=D).astype(np.float32), float(draw.uniform(1, 500))) for _ in range(count)]
    return [None if place in gone else each for place, each in enumerate(made)]


def taking(found):
    return lambda place: None if found[place] is None else part_of(*found[place])


@st.composite
def rounds(draw):
    count = draw(st.integers(1, 40))
    gone = draw(st.sets(st.integers(0, count - 1)))
    ends = draw(st.sets(st.integers(1, count - 1))) if count > 1 else set()
    return updates(count, draw(st.integers(0, 99)), gone), [0, *sorted(ends), count]


@given(rounds(), st.booleans())
def test_the_mean_has_the_same_bits_however_its_places_are_shared_out(case, precise):
    found, ends = case
    whole = mean_over((0, len(found)), taking(found), precise=precise)
    parts = {}
    for first, last in itertools.pairwise(ends):
        for span in spans_within(len(found), first, last):
            parts[span] = mean_over(span, taking(found), precise=precise)
    again = mean_from(len(found), parts, precise=precise)
    if whole is None:
        assert again is None and not any(found)
    else:
        assert np.array_equal(whole.mean, again.mean) and whole.weight == again.weight


@given(rounds(), st.booleans())
def test_the_mean_is_the_running_mean_to_float32s_rounding(case, precise):
    found, _ = case
    mean, total = np.zeros(D, np.float32), 0.0
    for each in found:
        if each is not None:
            total = fold(mean, total, *each, precise=precise)
    tree = mean_over((0, len(found)), taking(found), precise=precise)
    if not total:
        assert tree is None
    else:
        assert tree.weight == pytest.approx(total, rel=1e-12)
        # Updates of about 1 in size: what is lost is lost of that, also where they cancel out.
        assert np.abs(tree.mean - mean).max() <= 2e-6


@given(st.integers(1, 60), st.data())
def test_spans_cover_a_range_once_in_order_and_are_few(places, data):
    first = data.draw(st.integers(0, places - 1))
    last = data.draw(st.integers(first + 1, places))
    spans = spans_within(places, first, last)
    assert [place for low, high in spans for place in range(low, high)] == list(range(first, last))
    assert len(spans) <= 2 * places.bit_length()


@given(st.integers(1, 60), st.integers(0, 7))
def test_a_range_between_two_cuts_of_a_level_is_one_subtree(places, depth):
    ends = cuts(places, depth)
    for low, high in itertools.pairwise(ends):
        assert spans_within(places, low, high) == [(low, high)]


def test_updates_are_not_written_to():
    delta = np.ones(3, np.float32)
    delta.setflags(write=False)
    joined = join(part_of(delta, 1.0), Part(delta, 2.0))
    assert np.array_equal(joined.mean, delta) and joined.weight == 3.0


def test_a_place_that_nobody_covers_is_an_error_and_not_a_smaller_mean():
    with pytest.raises(KeyError):
        mean_from(4, {(0, 2): None})
