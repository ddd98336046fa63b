"""No row's arithmetic may depend on another's presence, whatever the parameters."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedkit.config.experiment import ModelConfig
from fedkit.models import build
from fedkit.models.flat import pack
from fedkit.privacy.dp_sgd import lot_gradients
from fedkit.privacy.lattice import G, slack
from fedkit.privacy.placement import COLUMNS, blocks_of, columns_of
from fedkit.privacy.randomness import Secure, Seeded
from fedkit.training.evaluate import predict
from fedkit.types import Examples, Task

BINARY = Task("binary", ("no", "yes"))


class Given:
    """Places that a test gives; what a joining row gets is left to it."""

    def __init__(self, permutation=None, columns=None):
        self._permutation, self._columns = permutation, columns

    def permutation(self, n):
        return self._permutation

    def columns(self, n, width):
        return self._columns[:n]

    def seed(self):
        return 7


def loss(outputs, y):
    return F.binary_cross_entropy_with_logits(outputs.squeeze(1), y, reduction="sum")


def hostile(model, x, size=1e9):
    """Parameters at which logits are rounding noise alone: huge, and orthogonal to the first rows."""
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(size if p.dim() > 1 else 0.0)
        first = next(p for p in model.parameters() if p.dim() == 2)
        basis = torch.linalg.qr(x[: min(8, x.shape[1] - 2)].double().T).Q
        first -= ((first.double() @ basis) @ basis.T).float()
    return model


MODELS = {
    "logistic": lambda: build(ModelConfig("logistic", {}), (13,), 1, 0),
    "mlp": lambda: build(ModelConfig("mlp", {"hidden": [8]}), (13,), 1, 0),
    "mlp, odd": lambda: build(ModelConfig("mlp", {"hidden": [33, 5]}), (13,), 1, 0),
    "dropout": lambda: nn.Sequential(nn.Linear(13, 9), nn.ReLU(), nn.Dropout(0.5), nn.Linear(9, 1)),
    "groupnorm": lambda: nn.Sequential(nn.Linear(13, 8), nn.GroupNorm(2, 8), nn.ReLU(), nn.Linear(8, 1)),
}


def rows(n=40, seed=0):
    random = torch.Generator().manual_seed(seed)
    return torch.rand((n, 13), generator=random), (torch.rand(n, generator=random) > 0.5).float()


@pytest.mark.parametrize("size", [1.0, 1e9])
@pytest.mark.parametrize("layout", ["slots", "columns"])
@pytest.mark.parametrize("name", MODELS)
def test_a_row_that_joins_adds_its_own_integers_and_changes_no_other(name, layout, size):
    x, y = rows()
    module = hostile(MODELS[name](), x, size)
    d = sum(p.numel() for p in module.parameters())
    bound = {"max_lot": 60, "lot_size": 10.0} if layout == "slots" else {"max_lot": 10**9, "lot_size": 10.0}
    for lot in (1, 2, 3, 4, 7, 8, 15, 16, 17, 39):
        random = np.random.default_rng(lot)
        source = Given(random.permutation(60), random.integers(0, COLUMNS, 40))
        with lot_gradients(module, loss) as gradients:
            whole = gradients.of_records(x[: lot + 1], y[: lot + 1], 1.0, source, **bound)
            without = gradients.of_records(x[:lot], y[:lot], 1.0, source, **bound)
        assert float((whole - without).double().norm()) <= slack(d) * G


@pytest.mark.parametrize("name", ["logistic", "mlp"])
def test_a_patient_that_joins_changes_no_other(name):
    x, y = rows()
    module = hostile(MODELS[name](), x)
    d = sum(p.numel() for p in module.parameters())
    unit = np.sort(np.arange(40) % 11)
    with lot_gradients(module, loss) as gradients:
        whole = gradients.of_units(x, y, unit, 1.0, Given())
        for left_out in range(11):
            keep = np.flatnonzero(unit != left_out)
            without = gradients.of_units(x[keep], y[keep], unit[keep], 1.0, Given())
            assert float((whole - without).double().norm()) <= slack(d) * G


def test_hostile_parameters_do_move_other_rows_where_places_are_not_kept():
    # The attack that made this module: without it the test above could not fail.
    x, _ = rows()
    module = hostile(MODELS["logistic"](), x)
    assert any(not torch.equal(module(x[:lot]), module(x[: lot + 1])[:lot]) for lot in range(1, 12))


@pytest.mark.parametrize("size", [1.0, 1e9])
@pytest.mark.parametrize("name", ["logistic", "mlp", "mlp, odd"])
def test_a_row_that_joins_changes_no_other_rows_score(name, size):
    x, y = rows(150)
    module = hostile(MODELS[name](), x, size)
    parameters = pack(module)
    source = Given(columns=np.random.default_rng(0).integers(0, 64, 150))

    def scores(n):
        part = Examples(x[:n].numpy(), y[:n].numpy(), np.arange(n))
        return predict(module, parameters, BINARY, part, places=source).scores

    whole = scores(150)
    for n in (1, 2, 3, 63, 64, 65, 149):
        assert np.array_equal(scores(n), whole[:n])


@settings(max_examples=60, deadline=None)
@given(n=st.integers(0, 200), extra=st.integers(0, 40), most=st.integers(1, 64), seed=st.integers(0, 99))
def test_every_row_of_a_lot_has_one_place(n, extra, most, seed):
    for blocks in (
        list(blocks_of(n, Seeded(seed), max_lot=n + extra, lot_size=50.0, d=10, most=most)),
        list(blocks_of(n, Seeded(seed), max_lot=10**6 + n, lot_size=1.0, d=10**6, most=most)),
        list(columns_of(n, Seeded(seed), 4)),
    ):
        seen = np.concatenate([block.rows for block in blocks]) if blocks else np.zeros(0, dtype=np.int64)
        assert sorted(seen.tolist()) == list(range(n))
        for block in blocks:
            assert len(set(block.places.tolist())) == len(block.places)
            assert block.size <= most or block.size == 4
            assert block.places.min() >= 0 and block.places.max() < block.size


def test_places_do_not_favour_a_row():
    counts = np.zeros((5, 8))
    source = Secure()
    for _ in range(6000):
        for block in blocks_of(5, source, max_lot=8, lot_size=5.0, d=10, most=8):
            counts[block.rows, block.places] += 1
    # Seven standard errors, of forty shares.
    assert np.abs(counts / 6000 - 1 / 8).max() < 0.03


def test_a_lot_beyond_the_bound_is_summed_all_the_same():
    x, y = rows()
    module = MODELS["logistic"]()
    with lot_gradients(module, loss) as gradients:
        beyond = gradients.of_records(x, y, 1.0, Seeded(1), max_lot=10, lot_size=5.0)
        within = gradients.of_records(x, y, 1.0, Seeded(1), max_lot=50, lot_size=5.0)
    assert float((beyond - within).double().norm()) / G < 1e-4


def test_a_lot_without_patients_is_nothing():
    x, y = rows()
    with lot_gradients(MODELS["logistic"](), loss) as gradients:
        assert not gradients.of_units(x[:0], y[:0], np.zeros(0, dtype=np.int64), 1.0, Given()).any()
        assert not gradients.of_records(x[:0], y[:0], 1.0, Seeded(1), max_lot=10, lot_size=5.0).any()
