import gc

import numpy as np
import torch

from fedkit.training.placed import Placed
from tests.training.builders import BINARY, examples

CPU = torch.device("cpu", 0)


def test_rows_are_placed_once_with_nobody_s_behind_them():
    placed, some = Placed(CPU, BINARY, 10**6), examples(7)
    rows = placed.rows(some)
    assert placed.rows(some) is rows and rows.nobody == 7
    assert np.array_equal(rows.x[:-1].numpy(), some.x) and not rows.x[-1].any()
    assert rows.y.tolist() == [*some.y.tolist(), 0.0]
    assert placed.rows(examples(7)) is not rows


def test_a_site_without_rows_has_nobody():
    rows = Placed(CPU, BINARY, 10**6).rows(examples(0))
    assert rows.nobody == 0 and rows.x.shape == (1, 5)


def test_the_rows_that_were_trained_longest_ago_make_room():
    first, second, third = (examples(10, seed) for seed in range(3))
    placed = Placed(CPU, BINARY, 500)  # 264 bytes each
    kept = placed.rows(first)
    others = placed.rows(second)
    assert placed.rows(second) is others and placed.rows(first) is not kept
    assert placed.rows(third) is placed.rows(third)
    assert len(placed._held) == 1 and placed._bytes == 264


def test_rows_of_a_site_that_is_gone_are_not_kept():
    placed = Placed(CPU, BINARY, 10**6)
    placed.rows(examples(10))
    gc.collect()
    placed.rows(kept := examples(10, 1))
    assert len(placed._held) == 1 and placed._bytes == 264 and kept is not None
