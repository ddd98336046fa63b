"""Small sites and plans for the tests of training."""

import numpy as np
from torch import nn

from fedkit.models.flat import pack
from fedkit.types import Examples, LocalPlan, PrivacyPlan, RoundPlan, Site, Task

BINARY = Task("binary", ("no", "yes"))


class Mixing(nn.Module):
    """Subtracts the mean of a batch: no clip holds what a record does to the others."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(5, 1)

    def forward(self, x):
        return self.linear(x - x.mean(0))


def examples(n, seed=0, kind="binary", rows_a_unit=1):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 5)).astype(np.float32)
    y = (x[:, 0] + 0.3 * rng.normal(size=n) > 0).astype(np.int64)
    if kind == "multiclass":
        y = rng.integers(0, 3, n)
    if kind == "regression":
        y = rng.random(n).astype(np.float32)
    return Examples(x=x, y=y, unit=np.arange(n) // rows_a_unit)


def site(name="north", n=40, seed=0, kind="binary"):
    return Site(name, examples(n, seed, kind), examples(20, seed + 1, kind), n, True)


def privacy_plan(name="north", **changes):
    values = {
        "site": name,
        "unit": "record",
        "adjacency": "add_remove",
        "sample_rate": 0.25,
        "max_grad_norm": 1.0,
        "noise_multiplier": 1.0,
        "lot_size": 10.0,
        "steps": 6,
        "rounds": 1,
        "epsilon": 1.0,
        "delta": 1e-5,
        "accountant": "pld",
        "records": 50,
        "records_declared": True,
        "noise": "seeded",
        "max_lot": 50,
    }
    return PrivacyPlan(**{**values, **changes})


def local_plan(steps=6, batch_size=8, learning_rate=0.5, optimizer="sgd", privacy=None, weight=None):
    return LocalPlan(steps, batch_size, learning_rate, optimizer, privacy, weight)


def round_plan(model, plans, seed=1, number=1, mu=0.0, parameters=None):
    return RoundPlan(seed, number, pack(model) if parameters is None else parameters, mu, plans)
