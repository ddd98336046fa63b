"""Sums of lots on a device: a row's integers are its own, wherever the others are."""

import numpy as np
import pytest
import torch
from torch import nn

from fedkit.errors import TrainingError
from fedkit.privacy.lattice import G, slack
from fedkit.privacy.randomness import Seeded
from fedkit.training import device_copy
from fedkit.training.device_copy import DeviceCopy
from fedkit.training.local import as_found, summed
from fedkit.training.losses import target_type
from fedkit.training.on_device import deterministic, device_of
from fedkit.training.placed import Rows
from fedkit.training.tap_gradients import tap_gradients
from fedkit.training.tapped import tapped
from fedkit.types import Task
from tests.training.builders import BINARY, privacy_plan
from tests.training.test_on_device import DIGITS, Attending, Reading, cnn, mlp

TWIN = torch.device("cpu", 0)
gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU here")
everywhere = pytest.mark.parametrize("where", ["twin", pytest.param("cuda", marks=gpu)])
MODELS = pytest.mark.parametrize(
    ("make", "task", "shape"),
    [(mlp, BINARY, (5,)), (cnn, DIGITS, (1, 8, 8)), (Attending, DIGITS, (1, 8, 8)), (Reading, DIGITS, (1, 8, 8))],
    ids=["mlp", "cnn", "attention", "embedding"],
)


def device(where):
    return TWIN if where == "twin" else device_of("cuda", "device")


def rows(task: Task, shape, n=40, size=1.0):
    drawn = np.random.default_rng(7)
    x = torch.tensor(drawn.normal(size=(n + 1, *shape)), dtype=torch.float32)
    y = torch.tensor(drawn.integers(0, task.num_outputs if task.kind == "multiclass" else 2, n + 1))
    x[-2] *= size
    x[-1], y[-1] = 0, 0
    return x, y.to(target_type(task))


def copied(model, task, shape, there):
    found = tapped(model, shape)
    assert not isinstance(found, str), found
    copy = DeviceCopy(model, found, task, there)
    copy.receive(model)
    return copy


@everywhere
@MODELS
@pytest.mark.parametrize("size", [1.0, 1e3, 1e18], ids=["ordinary", "large", "overflowing"])
@pytest.mark.parametrize("most", [256, 16])
def test_a_row_that_joins_moves_no_other_row_s_integers(make, task, shape, size, most, where, monkeypatch):
    """The guarantee of `fedkit.privacy.placement`, with parameters for which rounding is not small."""
    monkeypatch.setattr(device_copy, "MOST_PLACES", most)
    model, there, plan = make(), device(where), privacy_plan(max_lot=40)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(100.0)
    with as_found(), deterministic(there), torch.no_grad():
        copy = copied(model, task, shape, there)
        held = Rows(*(part.to(there) for part in rows(task, shape, size=size)))
        places = copy.places_of(plan)
        order = np.random.default_rng(1).permutation(-(-40 // places) * places)

        def total(present):
            index = np.full(len(order), 40)
            index[order[present]] = present
            return copy.of_records(held, torch.from_numpy(index.reshape(-1, places)).to(there), plan).clone()

        everyone, others, own = (total(who) for who in (np.arange(40), np.arange(39), np.array([39])))
        # Its own term, but that a sum of products is rounded to the lattice.
        assert int((everyone - others - own).abs().max()) <= 1
        assert float((everyone - others).double().norm()) <= slack(len(own)) * G
        assert torch.equal(everyone, total(np.arange(40)))
        assert not total(np.array([], dtype=np.int64)).any()


@everywhere
@MODELS
def test_sums_are_those_of_the_cpu(make, task, shape, where):
    model, there, plan = make(), device(where), privacy_plan(max_lot=60)
    x, y = rows(task, shape)
    with tap_gradients(model, tapped(model, shape), summed(task), Seeded("places")) as gradients:
        expected = gradients.of_records(x[:40], y[:40], 1.0, Seeded("lots"), max_lot=60, lot_size=40.0)
        unit = np.arange(40) // 3
        of_units = gradients.of_units(x[:40], y[:40], unit, 1.0, Seeded("lots"))
    with as_found(), deterministic(there), torch.no_grad():
        copy, held = copied(model, task, shape, there), Rows(x.to(there), y.to(there))
        index = torch.full((1, copy.places_of(plan)), 40)
        index[0, torch.randperm(60)[:40]] = torch.arange(40)
        ours = copy.of_records(held, index.to(there), plan)
        units = copy.of_units(held, np.split(np.arange(40), range(3, 40, 3)), plan, Seeded("lots"))
        copy.close()
    for mine, other in ((ours, expected), (units, of_units)):
        assert (mine.cpu() - other).double().norm() <= 1e-4 * other.double().norm()


def test_places_follow_from_the_plan_and_memory_alone(monkeypatch):
    copy = copied(cnn(), DIGITS, (1, 8, 8), TWIN)
    of = {most: copy.places_of(privacy_plan(max_lot=most)) for most in (1, 50, 256, 257, 600)}
    assert of == {1: 2, 50: 52, 256: 256, 257: 144, 600: 208}
    monkeypatch.setattr(copy, "_most", 1)
    assert copy.places_of(privacy_plan(max_lot=50)) == 1


def test_a_copy_is_its_own_and_closing_it_sees_what_it_keeps():
    class Keeping(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.kept = nn.Linear(5, 1), None

        def forward(self, x):
            self.kept = float(x.sum())
            return self.layer(x)

    model, plan = Keeping(), privacy_plan(max_lot=40)
    before = model.layer.weight.clone()
    copy = copied(model, BINARY, (5,), TWIN)
    copy.of_records(Rows(*rows(BINARY, (5,))), torch.arange(40)[None], plan)
    copy.flat.zero_()
    assert torch.equal(model.layer.weight, before) and model.kept is None
    with pytest.raises(TrainingError, match="kept changed") as caught:
        copy.close()
    assert caught.value.code == "FK404"
