"""A site's draws against those of the reference's loop, from sources of the same seed."""

import dataclasses

import numpy as np
import pytest
import torch

from fedkit.errors import TrainingError
from fedkit.privacy.lattice import integer_noise
from fedkit.privacy.randomness import Seeded
from fedkit.training.lots import Lots
from tests.training.builders import local_plan, privacy_plan, round_plan, site
from tests.training.test_on_device import mlp

TWIN = torch.device("cpu", 0)


def drawn(where, privacy, splits=(6,), places=20, d=31):
    lots = Lots(where, round_plan(mlp(), {"north": local_plan(privacy=privacy)}), d, lambda plan: places)
    return lots, [lots.draw(steps, TWIN) for steps in splits]


def reference(where, privacy, d=31):
    """Rows and noise of each step, as `fedkit.privacy.dp_sgd.train_lots` draws them."""
    source, unit = Seeded(1, 1, "north", "lots and noise"), where.train.unit
    for _ in range(privacy.steps):
        rows = np.flatnonzero(source.poisson_mask(int(unit.max()) + 1, privacy.sample_rate)[unit])
        yield rows, integer_noise(source, d, privacy.noise_multiplier)


@pytest.mark.parametrize("splits", [(6,), (1, 2, 3)])
def test_lots_and_noise_are_the_references_however_many_steps_are_drawn_at_once(splits):
    where, privacy = site(), privacy_plan()
    _, found = drawn(where, privacy, splits)
    lots = [lot for each in found for lot in each.records]
    noise = torch.cat([each.noise for each in found])
    for (rows, expected), lot, mine in zip(reference(where, privacy), lots, noise, strict=True):
        assert lot.shape == (3, 20) and sorted(lot[lot < 40].tolist()) == rows.tolist()
        assert set(lot[lot >= 40].tolist()) == {40} and np.array_equal(mine.numpy(), expected)


def test_a_lot_beyond_its_places_is_whole_and_in_blocks_of_one_size():
    where, privacy = site(), privacy_plan(sample_rate=0.8, max_lot=4)
    _, (found,) = drawn(where, privacy, places=4)
    for (rows, _), lot in zip(reference(where, privacy), found.records, strict=True):
        assert len(rows) > 4 and len(lot) > 1 and lot.shape[1] == 4
        assert sorted(lot[lot < 40].tolist()) == rows.tolist()


def test_units_of_several_rows_come_one_by_one():
    where = site()
    unit = np.random.default_rng(0).permutation(np.arange(40) // 3)
    where = dataclasses.replace(where, train=dataclasses.replace(where.train, unit=unit))
    privacy = privacy_plan(unit="patient")
    lots, (found,) = drawn(where, privacy)
    assert not lots.records and not found.records
    for (rows, _), units in zip(reference(where, privacy), found.units, strict=True):
        assert sorted(np.concatenate(units).tolist()) == rows.tolist()
        assert all(len(set(unit[each])) == 1 for each in units)
        assert len(units) == len(set(unit[rows]))


def test_a_site_without_rows_draws_noise_like_any_other():
    lots, (found,) = drawn(site(n=0), privacy_plan())
    assert lots.records and found.noise.shape == (6, 31) and all((lot == 0).all() for lot in found.records)
    _, (found,) = drawn(site(n=0), privacy_plan(unit="patient"))
    assert found.units == [[]] * 6 and found.noise.any()


def test_places_do_not_follow_from_how_many_rows_a_lot_has():
    """One draw of places: the rows of a smaller table stand where they stood."""
    where, smaller = site(), site()
    smaller = dataclasses.replace(where, train=dataclasses.replace(
        where.train, x=where.train.x[:-1], y=where.train.y[:-1], unit=where.train.unit[:-1]))  # fmt: skip
    privacy = privacy_plan(sample_rate=1.0)
    for lot, other in zip(drawn(where, privacy)[1][0].records, drawn(smaller, privacy)[1][0].records, strict=True):
        joined = lot == 39
        assert joined.sum() == 1
        assert torch.equal(torch.where(joined | (lot == 40), -1, lot), torch.where(other == 39, -1, other))


def test_secure_draws_are_fresh():
    found = [drawn(site(), privacy_plan(noise="secure"))[1][0].noise for _ in range(2)]
    assert not torch.equal(*found)


def test_plans_that_disagree_are_refused():
    with pytest.raises(TrainingError, match="disagree on the steps") as caught:
        drawn(site(), privacy_plan(steps=5))
    assert caught.value.code == "FK409"
