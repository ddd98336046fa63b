import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fedkit.errors import TrainingError
from fedkit.privacy import dp_sgd
from fedkit.privacy.dp_sgd import check_module, lot_gradients, train_lots
from fedkit.privacy.lattice import G, slack
from fedkit.privacy.randomness import Secure, Seeded
from fedkit.types import PrivacyPlan


def plan(**changes):
    values = {
        "site": "a",
        "unit": "record",
        "adjacency": "add_remove",
        "sample_rate": 0.2,
        "max_grad_norm": 1.0,
        "noise_multiplier": 1.0,
        "lot_size": 10.0,
        "steps": 5,
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


def lot_sum(gradients, x, y, unit, clip):
    """Records by places in a block, units of several rows each alone; both are what a step sums."""
    if len(np.unique(unit)) == len(unit):
        return gradients.of_records(x, y, clip, Seeded("places"), max_lot=len(x) + 5, lot_size=10.0)
    return gradients.of_units(x, y, unit, clip, Seeded("places"))


class Fixed:
    """No noise, and lots that are given."""

    def __init__(self, masks):
        self.masks = iter(masks)

    def poisson_mask(self, n, q):
        return next(self.masks)

    def rounded_gaussian(self, d, scale):
        return np.zeros(d, dtype=np.int64)

    def permutation(self, n):
        return np.arange(n)

    def columns(self, n, width):
        return np.arange(n) % width

    def seed(self):
        return 1


def binary(outputs, y):
    return F.binary_cross_entropy_with_logits(outputs.squeeze(1), y, reduction="sum")


def multiclass(outputs, y):
    return F.cross_entropy(outputs, y, reduction="sum")


def mse(outputs, y):
    return F.mse_loss(outputs.squeeze(1), y, reduction="sum")


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 1)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.last(torch.tanh(self.second(torch.tanh(self.first(x)))))


class Own(nn.Module):
    """A layer that Opacus has no formula for."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(6))
        self.unused = nn.Parameter(torch.ones(2))
        self.last = nn.Linear(6, 1)

    def forward(self, x):
        return self.last(x * self.scale)


def data(n=30, kind="float", seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 6, generator=generator)
    y = (x[:, 0] > 0).float() if kind == "float" else torch.randint(0, 3, (n,), generator=generator)
    return x, y


MODELS = {
    "logistic": (lambda: nn.Linear(6, 1), binary, "float"),
    "regression": (lambda: nn.Linear(6, 1), mse, "float"),
    "mlp": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)), multiclass, "class"),
    "tied": (Tied, binary, "float"),
    "own": (Own, binary, "float"),
    "groupnorm": (lambda: nn.Sequential(nn.Linear(6, 8), nn.GroupNorm(2, 8), nn.Linear(8, 1)), binary, "float"),
}


def seeded(factory):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return factory()


@pytest.mark.parametrize("name", MODELS)
def test_lot_sum_equals_a_loop_over_rows_with_autograd(name):
    factory, losses, kind = MODELS[name]
    module = seeded(factory)
    x, y = data(kind=kind)
    clip = 0.5
    expected = torch.zeros(sum(p.numel() for p in module.parameters()), dtype=torch.float64)
    for row in range(len(x)):
        parts = torch.autograd.grad(
            losses(module(x[row : row + 1]), y[row : row + 1]), list(module.parameters()), allow_unused=True
        )
        flat = torch.cat(
            [
                (torch.zeros_like(p) if g is None else g).reshape(-1)
                for g, p in zip(parts, module.parameters(), strict=True)
            ]
        ).double()
        expected += flat * min(1.0, clip / float(flat.norm()))
    with lot_gradients(module, losses) as gradients:
        found = lot_sum(gradients, x, y, np.arange(len(x)), clip).double() * clip / G
    assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_one_unit_never_contributes_more_than_the_clip_however_many_rows_it_has(name):
    factory, losses, kind = MODELS[name]
    x, y = data(6, kind)
    x = x * 1e4
    module = seeded(factory)
    d = sum(p.numel() for p in module.parameters())
    with lot_gradients(module, losses) as gradients:
        once = lot_sum(gradients, x, y, np.zeros(6, dtype=np.int64), 1.0)
        repeated = lot_sum(gradients, x.repeat(50, 1), y.repeat(50), np.zeros(300, dtype=np.int64), 1.0)
    for total in (once, repeated):
        assert float(total.double().norm()) <= slack(d) * G
    assert torch.allclose(once.double() / G, repeated.double() / G, atol=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_a_neighbour_changes_the_lot_sum_by_at_most_the_clip(name):
    # A mean-reduced or class-weighted loss fails this: it had a sensitivity of 13.7 C.
    factory, losses, kind = MODELS[name]
    x, y = data(20, kind)
    x = x * 100
    module = seeded(factory)
    d = sum(p.numel() for p in module.parameters())
    with lot_gradients(module, losses) as gradients:
        whole = lot_sum(gradients, x, y, np.arange(20), 1.0)
        for left_out in (0, 7, 19):
            keep = torch.arange(20) != left_out
            part = lot_sum(gradients, x[keep], y[keep], np.arange(20)[keep.numpy()], 1.0)
            assert float((whole - part).double().norm()) <= slack(d) * G


def test_large_lots_are_summed_in_chunks_never_truncated(monkeypatch):
    x, y = data(100)
    unit = np.sort(np.arange(100) % 23)
    module = seeded(lambda: nn.Linear(6, 1))
    sums = []
    for rows in (1, 3, 10, 256):
        monkeypatch.setattr(dp_sgd, "MAX_ROWS", rows)
        with lot_gradients(module, binary) as gradients:
            sums.append(lot_sum(gradients, x, y, unit, 0.1))
    assert all(int((total - sums[0]).abs().max()) <= 23 for total in sums)
    assert int(sums[0].abs().max()) > 1000


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
def test_the_step_equals_opacus_own_optimizer_given_the_same_lot_and_no_noise():
    from opacus import GradSampleModule
    from opacus.optimizers import DPOptimizer

    x, y = data(40)
    masks = [np.arange(40) % 4 == k for k in range(4)]
    ours, theirs = (
        seeded(lambda: nn.Linear(6, 1)),
        GradSampleModule(seeded(lambda: nn.Linear(6, 1)), loss_reduction="sum"),
    )
    optimizer = DPOptimizer(
        torch.optim.SGD(theirs.parameters(), lr=0.5),
        noise_multiplier=0.0,
        max_grad_norm=0.3,
        expected_batch_size=10,
        loss_reduction="mean",
    )
    for mask in masks:
        optimizer.zero_grad()
        binary(theirs(x[mask]), y[mask]).backward()
        optimizer.step()

    def update(gradient):
        with torch.no_grad():
            ours.weight.sub_(0.5 * gradient[:6].view(1, 6))
            ours.bias.sub_(0.5 * gradient[6:])

    with lot_gradients(ours, binary) as gradients:
        train_lots(gradients, x, y, np.arange(40), plan(max_grad_norm=0.3, steps=4), Fixed(masks), update)
    assert torch.allclose(ours.weight, theirs._module.weight, atol=1e-6)
    assert torch.allclose(ours.bias, theirs._module.bias, atol=1e-6)


def released(x, y, unit, source, **changes):
    steps = []
    with lot_gradients(seeded(lambda: nn.Linear(6, 1)), binary) as gradients:
        train_lots(gradients, x, y, unit, plan(**changes), source, lambda gradient: steps.append(gradient.clone()))
    return torch.stack(steps)


@pytest.mark.parametrize("rows", [0, 40])
@pytest.mark.parametrize("source", [Seeded(5), Secure()], ids=["seeded", "secure"])
def test_empty_lots_release_noise_of_the_plans_size(rows, source):
    x, y = data(rows)
    steps = released(
        x, y, np.arange(rows), source, sample_rate=1e-12, steps=1500, noise_multiplier=2.0, max_grad_norm=0.5
    )
    assert steps.shape == (1500, 7)
    assert float(steps.std()) == pytest.approx(2.0 * 0.5 / 10.0, rel=0.04)
    assert len(torch.unique(steps, dim=0)) == 1500


def test_noise_is_fresh_in_every_step():
    steps = released(*data(0), np.arange(0), Seeded(5), steps=400)
    lagged = np.corrcoef(steps[:-1].flatten().numpy(), steps[1:].flatten().numpy())[0, 1]
    assert abs(lagged) < 0.08


def test_the_divisor_is_the_plans_constant_whatever_the_data():
    # An Opacus lot of int(n * q) tells n = 303 from n = 304 in one step.
    x, y = data(40)
    everyone = [np.ones(40, dtype=bool)] * 2
    whole = released(x, y, np.arange(40), Fixed(everyone), steps=1, max_grad_norm=100.0)
    half = released(x[:20], y[:20], np.arange(20), Fixed([m[:20] for m in everyone]), steps=1, max_grad_norm=100.0)
    module = seeded(lambda: nn.Linear(6, 1))
    for found, n in ((whole, 40), (half, 20)):
        binary(module(x[:n]), y[:n]).backward()
        assert torch.allclose(found[0, :6], module.weight.grad[0] / 10.0, atol=1e-4)
        module.zero_grad()


def test_rows_of_a_unit_enter_a_lot_together_whatever_their_order():
    x, y = data(12)
    unit = np.array([0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1, 2])
    mask = np.array([True, False, True])
    order = np.argsort(unit, kind="stable")
    a = released(x, y, unit, Fixed([mask]), steps=1)
    b = released(x[order], y[order], unit[order], Fixed([mask]), steps=1)
    c = released(x[unit != 1], y[unit != 1], unit[unit != 1], Fixed([mask]), steps=1)
    assert torch.equal(a, b)
    assert torch.equal(a, c)


def test_a_modules_mode_hooks_and_attributes_are_left_as_found():
    module = nn.Sequential(nn.Linear(6, 4), Own0()).eval()
    before = [sorted(child.__dict__) for child in module.modules()]
    weights = copy.deepcopy(module.state_dict())
    with lot_gradients(module, binary) as gradients:
        lot_sum(gradients, *data(5), np.arange(5), 1.0)
    assert [sorted(child.__dict__) for child in module.modules()] == before
    assert not any(child._forward_hooks or child._backward_hooks for child in module.modules())
    assert all(not p.__dict__ and p.grad is None for p in module.parameters())
    assert not module.training
    assert all(torch.equal(weights[name], value) for name, value in module.state_dict().items())


class Own0(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4))

    def forward(self, x):
        return (x * self.scale).sum(1, keepdim=True)


def frozen_batch_norm():
    layer = nn.BatchNorm1d(6)
    for p in layer.parameters():
        p.requires_grad_(False)
    return nn.Sequential(layer, nn.Linear(6, 1))


class Buffered(nn.Module):
    def __init__(self, dtype):
        super().__init__()
        self.register_buffer("seen", torch.zeros(1, dtype=dtype))
        self.last = nn.Linear(6, 1)

    def forward(self, x):
        return self.last(x)


@pytest.mark.parametrize(
    ("factory", "words"),
    [
        (lambda: nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)), "BatchNorm1d"),
        (frozen_batch_norm, "BatchNorm1d"),
        (lambda: nn.Sequential(nn.InstanceNorm1d(6, track_running_stats=True), nn.Linear(6, 1)), "buffer"),
        (lambda: Buffered(torch.float32), "buffer seen"),
        (lambda: nn.Sequential(nn.LSTM(6, 4)), "LSTM"),
        (
            lambda: nn.Sequential(nn.Linear(6, 4), nn.LayerNorm(4, bias=False), nn.Linear(4, 1)),
            "1 is a LayerNorm without",
        ),
        (lambda: nn.Conv1d(2, 2, 3, padding=1, padding_mode="circular"), "padding_mode=circular"),
        (lambda: nn.Linear(6, 1).double(), "float64"),
        (lambda: nn.Linear(6, 1).requires_grad_(False), "trainable"),
    ],
)
def test_modules_that_break_the_bound_are_refused(factory, words):
    with pytest.raises(TrainingError, match=words) as caught:
        check_module(factory())
    assert caught.value.code == "FK404"


def test_a_refused_module_is_left_as_found():
    module = Buffered(torch.int64).eval()
    with lot_gradients(module, binary) as gradients:
        assert gradients.d == 7
    assert not module.training


@pytest.mark.parametrize("unit", ["record", "patient"])
@pytest.mark.parametrize("source", [Seeded(5), Secure()], ids=["seeded", "secure"])
def test_units_join_lots_at_the_plans_rate(source, unit):
    # Units that are all alike, each clipped to C: the sum of a lot without noise tells how many have joined.
    rows, count = (200, 400) if unit == "record" else (400, 40)
    x, y, owner = torch.ones((rows, 6)), torch.ones(rows), np.arange(rows) * 200 // rows
    charged = plan(
        unit=unit, sample_rate=0.1, steps=count, max_grad_norm=0.1, noise_multiplier=1e-9, max_lot=200, records=200
    )
    sizes = []
    with lot_gradients(seeded(lambda: nn.Linear(6, 1)), binary) as gradients:
        train_lots(gradients, x, y, owner, charged, source, lambda g: sizes.append(float(g.double().norm()) * 10 / 0.1))
    assert np.allclose(sizes, np.rint(sizes), atol=0.01)
    # Lots of 200 units: a size is 20 with a standard deviation of 4.2; both bounds are 7 standard errors away.
    assert np.mean(sizes) == pytest.approx(20.0, abs=30.0 / count**0.5)
    if unit == "record":
        assert np.var(sizes) == pytest.approx(200 * 0.1 * 0.9, rel=0.5)
