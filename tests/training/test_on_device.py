"""A GPU gives the gradients that the CPU gives, and keeps rows as far apart; the rest is tested without one."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from fedkit.config.experiment import TrainingConfig
from fedkit.errors import TrainingError
from fedkit.native.library import library
from fedkit.privacy.lattice import G, LatticeSum
from fedkit.training import local
from fedkit.training.choice import choose
from fedkit.training.engine import REFERENCE, reference_on
from fedkit.training.kinds import Kinds
from fedkit.training.losses import target_type
from fedkit.training.on_device import CPU, deterministic, device_of, lot_gradients_on, name_of
from fedkit.types import Examples, Site, Task
from tests.training.builders import BINARY, Mixing, local_plan, privacy_plan, round_plan, site

TWIN = torch.device("cpu", 0)
"""The CPU by another name: training on it takes the way of a GPU."""
gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU here")
DIGITS = Task("multiclass", tuple("0123456789"))


def mlp():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 64), nn.Tanh(), nn.Linear(64, 1))


def dropped():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 1))


def cnn():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.GroupNorm(4, 16), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3),
        nn.ReLU(), nn.Flatten(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip


class Attending(nn.Module):
    """Tokens, attention within a row, LayerNorm."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Linear(4, 32)
        self.q, self.k, self.v = (nn.Linear(32, 32) for _ in range(3))
        self.norm, self.head = nn.LayerNorm(32), nn.Linear(32, 10)

    def forward(self, x):
        tokens = self.embedding(x.flatten(1).unflatten(1, (16, 4)))
        weights = torch.softmax(self.q(tokens) @ self.k(tokens).transpose(1, 2) / 32**0.5, -1)
        return self.head(self.norm(tokens + weights @ self.v(tokens)).mean(1))


class Reading(nn.Module):
    """Words looked up, and the mean of what was found."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.head = nn.Embedding(50, 16), nn.Linear(16, 10)

    def forward(self, x):
        words = (x.flatten(1) * 7).long().abs() % 50
        return self.head(self.embedding(words).mean(1))


def images(n=80, seed=0):
    rng = np.random.default_rng(seed)
    return Examples(rng.random((n, 1, 8, 8)).astype(np.float32), rng.integers(0, 10, n), np.arange(n))


def trained(model, task, where, plan, device):
    updates, _ = local.train(model, task, [where], plan, {}, device=device)
    return updates[0].delta


PLANS = {
    "private": local_plan(privacy=privacy_plan()),
    "private adam": local_plan(privacy=privacy_plan(), optimizer="adam", learning_rate=0.01),
    "patients": local_plan(privacy=privacy_plan(unit="patient")),
    "plain": local_plan(),
}


@pytest.mark.parametrize("make", [mlp, dropped])
@pytest.mark.parametrize("name", PLANS)
def test_a_copy_that_follows_the_model_gives_its_update_bit_by_bit(make, name):
    model, where = make(), site()
    if name == "patients":
        where = dataclasses.replace(where, train=dataclasses.replace(where.train, unit=np.arange(40) // 3))
    plan = round_plan(model, {"north": PLANS[name]}, mu=0.1)
    assert np.array_equal(trained(model, BINARY, where, plan, TWIN), trained(model, BINARY, where, plan, CPU))


def test_a_buffer_that_the_copy_moves_is_seen():
    model = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    with pytest.raises(TrainingError) as caught:
        trained(model, BINARY, site(), round_plan(model, {"north": local_plan()}), TWIN)
    assert caught.value.code == "FK407"


def test_a_model_that_mixes_rows_is_refused_there_too():
    model = Mixing()
    with pytest.raises(TrainingError, match="mixes or remembers") as caught:
        local.check_model(model, BINARY, [site()], round_plan(model, {"north": PLANS["private"]}), device=TWIN)
    assert caught.value.code == "FK404"


def test_a_gpu_that_is_not_there_is_one_error(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device_of("auto", "device") == device_of("cpu", "device") == CPU
    with pytest.raises(TrainingError, match=r"training\.device is cuda, and torch finds no GPU") as caught:
        device_of("cuda", "training.device")
    assert caught.value.code == "FK423" and "cpu or auto" in caught.value.remedy


def chosen(monkeypatch, model, plans=None, **changes):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    plans = plans or {"north": local_plan(privacy=privacy_plan())}
    return choose(TrainingConfig(0.1, local_steps=1, **changes), model, BINARY, (5,), Kinds.of(plans))


def test_what_a_gpu_trains(monkeypatch):
    normed = nn.Sequential(nn.Linear(5, 8), nn.LayerNorm(8), nn.Linear(8, 1))
    dropping = nn.Sequential(nn.Linear(5, 8), nn.Dropout(), nn.Linear(8, 1))
    wide = nn.Sequential(nn.Linear(5, 1000), nn.ReLU(), nn.Linear(1000, 1))
    for model, name in ((wide, "closed_form"), (normed, "taps"), (dropping, "reference")):
        for device in ("auto", "cuda"):
            there = chosen(monkeypatch, model, device=device)
            assert (there.name, there.device.type, there.most_workers) == (name, "cuda", 1)
            assert there.why.startswith("training.device=cuda; ")
        assert chosen(monkeypatch, model).device == CPU
    for name in ("reference", "taps", "closed_form"):
        forced = chosen(monkeypatch, mlp(), device="cuda", engine=name)
        assert (forced.name, forced.device.type) == (name, "cuda")
    with pytest.raises(TrainingError, match="vmap trains on the CPU") as caught:
        chosen(monkeypatch, normed, device="cuda", engine="vmap")
    assert caught.value.code == "FK417"
    assert reference_on(CPU) is REFERENCE


def test_what_is_left_to_the_cpu_beside_a_gpu(monkeypatch):
    """Units of several rows, one after another; stacks without privacy: measured, where there is a choice."""
    patients, plain = local_plan(privacy=privacy_plan(unit="patient")), local_plan()
    normed = nn.Sequential(nn.Linear(5, 8), nn.LayerNorm(8), nn.Linear(8, 1))
    for plan, model, name in (
        (patients, normed, "taps"),
        (patients, mlp(), "closed_form"),
        (plain, mlp(), "closed_form"),
    ):
        auto = chosen(monkeypatch, model, {"north": plan}, device="auto")
        assert (auto.name, auto.device) == (name, CPU)
    if library() is not None:
        small = chosen(monkeypatch, mlp(), device="auto")
        assert (small.name, small.device) == ("closed_form", CPU) and small.why.endswith("in compiled code")
    there = chosen(monkeypatch, mlp(), {"north": patients}, device="cuda")
    assert (there.name, there.device.type) == ("taps", "cuda")
    for device in ("auto", "cuda"):
        there = chosen(monkeypatch, normed, {"north": plain}, device=device)
        assert (there.name, there.device.type) == ("reference", "cuda")
    for plan in (patients, plain):
        with pytest.raises(TrainingError, match="on a GPU it trains privately, and rows that are units") as caught:
            chosen(monkeypatch, mlp(), {"north": plan}, device="cuda", engine="closed_form")
        assert caught.value.code == "FK417" and "training.device=cpu" in caught.value.remedy


@gpu
@pytest.mark.parametrize(
    ("make", "task", "records"),
    [(mlp, BINARY, None), (cnn, DIGITS, images), (Attending, DIGITS, images), (Reading, DIGITS, images)],
    ids=["mlp", "cnn", "attention", "embedding"],
)
@pytest.mark.parametrize("private", [True, False], ids=["private", "plain"])
def test_a_gpu_gives_the_cpus_model_after_fifty_steps(make, task, records, private):
    model, device = make(), device_of("cuda", "device")
    where = site() if records is None else Site("north", records(), records(20, 1), 80, True)
    if private:
        own = privacy_plan(steps=50, max_lot=len(where.train), lot_size=0.25 * len(where.train))
        each = local_plan(steps=50, learning_rate=0.1, privacy=own)
    else:
        each = local_plan(steps=50, learning_rate=0.1)
    plan = round_plan(model, {"north": each})
    there, here = (trained(model, task, where, plan, d) for d in (device, CPU))
    assert np.array_equal(there, trained(model, task, where, plan, device))
    scale = np.abs(here).max()
    # Noise is the same integers on both; what differs is the rounding of float32, as between any two ways of adding.
    assert scale > 0.01 and np.abs(there - here).max() <= 1e-4 * scale


@gpu
@pytest.mark.parametrize(
    ("make", "task", "shape"),
    [
        (mlp, BINARY, (5,)),
        (dropped, BINARY, (5,)),
        (cnn, DIGITS, (1, 8, 8)),
        (Attending, DIGITS, (1, 8, 8)),
        (Reading, DIGITS, (1, 8, 8)),
    ],
    ids=["mlp", "dropout", "cnn", "attention", "embedding"],
)
@pytest.mark.parametrize("size", [1.0, 1e3, 1e18], ids=["ordinary", "large", "overflowing"])
def test_a_row_that_joins_moves_no_other_row_s_integers_on_a_gpu(make, task, shape, size):
    """The guarantee of `fedkit.privacy.placement`: sums differ by the row's own integers, exactly."""
    model, device = make(), device_of("cuda", "device")
    rng = np.random.default_rng(7)
    x = torch.tensor(rng.normal(size=(40, *shape)), dtype=torch.float32)
    y = torch.tensor(rng.integers(0, task.num_outputs if task.kind == "multiclass" else 2, 40), dtype=target_type(task))
    x[-1] *= size
    with local.as_found(), deterministic(device), lot_gradients_on(device, model, local.summed(task)) as gradients:

        def total(rows):
            """Each row at its own place of forty, whichever are there."""

            class Places:
                def permutation(self, n):
                    return np.array([*rows, *(k for k in range(n) if k not in rows)])

                def seed(self):
                    return 5

            found = gradients.of_records(x[rows], y[rows], 1.0, Places(), max_lot=40, lot_size=30.0)
            return found.clone()

        everyone, others = list(range(40)), list(range(39))
        own = total([39])
        assert torch.equal(total(everyone), total(others) + own)
        assert float(own.double().norm()) <= 1.001 * G
        assert torch.equal(total(everyone), total(everyone))


@gpu
def test_a_lattice_sum_on_a_gpu_is_the_cpus_up_to_a_unit_in_the_last_place():
    torch.manual_seed(0)
    block = [torch.randn(64, 300, 100), torch.randn(64, 100)]
    sums = []
    for device in (CPU, device_of("cuda", "device")):
        total = LatticeSum(30_100, 1.0, device)
        total.add([part.to(device).clone() for part in block], torch.arange(64, device=device) < 60)
        sums.append(total.result())
    assert sums[1].device == CPU and int((sums[0] - sums[1]).abs().max()) <= 64 * 3


@gpu
def test_an_operation_without_a_deterministic_form_is_refused_before_any_record():
    model, device = nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(4), nn.Flatten(),
                                  nn.Linear(64, 10)), device_of("cuda", "device")  # fmt: skip
    where = Site("north", images(), images(20, 1), 80, True)
    for each in (local_plan(), local_plan(privacy=privacy_plan(max_lot=80))):
        with pytest.raises(TrainingError, match="cannot be trained on cuda") as caught:
            local.check_model(model, DIGITS, [where], round_plan(model, {"north": each}), device=device)
        assert caught.value.code == "FK423"


@gpu
def test_settings_and_generators_of_torch_are_put_back():
    device, model = device_of("cuda", "device"), dropped()
    torch.cuda.manual_seed(3)
    before = torch.cuda.get_rng_state(), torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.allow_tf32
    trained(model, BINARY, site(), round_plan(model, {"north": PLANS["private"]}), device)
    assert torch.equal(torch.cuda.get_rng_state(), before[0])
    assert (torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.allow_tf32) == before[1:]
    assert torch.utils.deterministic.fill_uninitialized_memory
    assert name_of(device).startswith("cuda, ")
