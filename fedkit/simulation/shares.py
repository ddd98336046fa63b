"""How a round is parted among processes that add up what they train, and what of a site goes to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from fedkit.simulation.workers import cost
from fedkit.strategies.tree import cuts
from fedkit.types import LocalPlan, Site

_FINER = 4
"""Halvings beyond one subtree a process, by which shares may be evened out."""


def shares(names: Sequence[str], plans: Mapping[str, LocalPlan], count: int) -> list[tuple[int, int]]:
    """A round's places in at most so many ranges of about equal work, which few subtrees cover.

    >>> plan = LocalPlan(1, 8, 0.1, "sgd", None)
    >>> shares("abcdefgh", dict.fromkeys("abcdefgh", plan), 2)
    [(0, 4), (4, 8)]
    """
    done = np.concatenate([[0.0], np.cumsum([cost(plans[name]) for name in names])])
    least = max(1, count - 1).bit_length() if count > 1 else 0
    ends = [0]
    for index in range(1, count):
        target = done[-1] * index / count
        for depth in range(least, least + _FINER + 1):
            end = min(cuts(len(names), depth), key=lambda place: abs(done[place] - target))
            if abs(done[end] - target) <= done[-1] / (16 * count):
                break
        ends.append(end)
    ends = sorted({*ends, len(names)})
    return list(pairwise(ends))


def for_training(site: Site) -> Site:
    """A site without what training does not read."""
    nobody = replace(site.test, x=site.test.x[:0], y=site.test.y[:0], unit=site.test.unit[:0], subgroups={})
    return replace(site, train=replace(site.train, subgroups={}), test=nobody)
