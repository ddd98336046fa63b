import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from fedkit.simulation.shares import for_training, shares
from fedkit.simulation.workers import cost
from fedkit.strategies.tree import spans_within
from tests.training.builders import local_plan, site


def plans(steps):
    return {f"s{place}": local_plan(each) for place, each in enumerate(steps)}


@given(st.lists(st.integers(1, 30), min_size=1, max_size=80), st.integers(1, 12))
def test_every_place_is_in_one_share_and_no_share_is_empty(steps, count):
    parted = shares(list(plans(steps)), plans(steps), count)
    assert [place for first, last in parted for place in range(first, last)] == list(range(len(steps)))
    assert all(first < last for first, last in parted) and len(parted) <= count


@given(st.integers(1, 9), st.integers(0, 9999))
def test_shares_of_many_sites_are_about_equal_and_few_means_travel(count, seed):
    steps = np.random.default_rng(seed).integers(5, 15, 1000).tolist()
    made = plans(steps)
    parted = shares(list(made), made, count)
    loads = [sum(cost(made[f"s{place}"]) for place in range(first, last)) for first, last in parted]
    assert len(parted) == count and max(loads) <= 1.2 * sum(loads) / count
    assert all(len(spans_within(1000, first, last)) <= 8 for first, last in parted)


def test_two_actors_of_equal_sites_send_one_mean_each():
    made = plans([3] * 20)
    assert [spans_within(20, *each) for each in shares(list(made), made, 2)] == [[(0, 10)], [(10, 20)]]


def test_what_training_does_not_read_stays_behind():
    full = site()
    left = for_training(full)
    assert left.train.x is full.train.x and len(left.test) == 0 and not left.train.subgroups
    assert left.test.x.shape[1:] == full.test.x.shape[1:]
