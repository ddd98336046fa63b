import copy
import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from fedkit.config.experiment import ModelConfig
from fedkit.errors import TrainingError
from fedkit.models import build
from fedkit.models.flat import pack, unpack
from fedkit.privacy.randomness import generator
from fedkit.training.local import train
from fedkit.types import Examples, Task
from tests.training.builders import BINARY, local_plan, privacy_plan, round_plan, site

LOSSES = {
    "binary": lambda o, y: nn.functional.binary_cross_entropy_with_logits(o[:, 0], y.float()),
    "multiclass": lambda o, y: nn.functional.cross_entropy(o, y),
    "regression": lambda o, y: nn.functional.mse_loss(o[:, 0], y.float()),
}
TASKS = {
    "binary": BINARY,
    "multiclass": Task("multiclass", ("a", "b", "c")),
    "regression": Task("regression", (), (0.0, 60.0)),
}


def reference(model, kind, part, local, seed, number, name, mu):
    """A plain torch loop: DataLoader-like epochs, torch's optimizers, FedProx's term in the loss."""
    module = copy.deepcopy(model).train()
    received = [p.detach().clone() for p in module.parameters()]
    make = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[local.optimizer]
    optimizer = make(module.parameters(), lr=local.learning_rate)
    order, done = generator(seed, number, name, "batches"), 0
    x, y = torch.tensor(part.x), torch.tensor(part.y)
    while done < local.steps:
        permutation = torch.from_numpy(order.permutation(len(x)))
        for batch in permutation.split(local.batch_size):
            if done == local.steps:
                break
            optimizer.zero_grad()
            loss = LOSSES[kind](module(x[batch]), y[batch])
            loss = loss + mu / 2 * sum(((p - q) ** 2).sum() for p, q in zip(module.parameters(), received, strict=True))
            loss.backward()
            optimizer.step()
            done += 1
    return pack(module) - pack(model)


class Wrapped(nn.Module):
    """The same stack behind a forward of its own, which takes it off the closed form."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x)


@pytest.mark.parametrize("kind", TASKS)
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("name", ["logistic", "mlp", "mlp behind autograd"])
@pytest.mark.parametrize("mu", [0.0, 0.7])
def test_training_equals_a_plain_torch_loop(kind, optimizer, name, mu):
    task = TASKS[kind]
    model = build(ModelConfig(name.split()[0]), (5,), task.num_outputs, 0)
    model = Wrapped(model) if "behind" in name else model
    here = site(n=22, kind=kind)
    local = local_plan(steps=8, batch_size=8, learning_rate=0.05, optimizer=optimizer)
    [update], _ = train(model, task, [here], round_plan(model, {"north": local}, mu=mu), {})
    expected = reference(model, kind, here.train, local, 1, 1, "north", mu)
    assert update.delta.dtype == np.float32
    np.testing.assert_allclose(update.delta, expected, atol=2e-6)
    assert update.weight == 22.0


def test_train_loss_is_that_of_the_received_model(logistic):
    here = site()
    [update], _ = train(logistic, BINARY, [here], round_plan(logistic, {"north": local_plan()}), {})
    with torch.no_grad():
        expected = LOSSES["binary"](logistic(torch.tensor(here.train.x)), torch.tensor(here.train.y))
    assert update.metrics["train_loss"] == pytest.approx(float(expected), rel=1e-5)
    silent = dataclasses.replace(local_plan(), reports_loss=False)
    [same], _ = train(logistic, BINARY, [here], round_plan(logistic, {"north": silent}), {})
    assert same.metrics == {} and np.array_equal(same.delta, update.delta)


def test_received_parameters_are_used_not_the_models_own(logistic):
    parameters = np.linspace(-1, 1, 6, dtype=np.float32)
    elsewhere = copy.deepcopy(logistic)
    unpack(elsewhere, parameters)
    plans = {"north": local_plan()}
    [a], _ = train(logistic, BINARY, [site()], round_plan(logistic, plans, parameters=parameters), {})
    [b], _ = train(elsewhere, BINARY, [site()], round_plan(elsewhere, plans), {})
    assert np.array_equal(a.delta, b.delta)


PLANS = {"plain": lambda name: local_plan(), "private": lambda name: local_plan(privacy=privacy_plan(name))}


@pytest.mark.parametrize("mode", PLANS)
def test_same_bits_whatever_the_threads_the_order_and_the_company(mode, mlp):
    sites = [site(name, n=30 + 5 * k, seed=k) for k, name in enumerate(("a", "b", "c"))]
    plan = round_plan(mlp, {s.name: PLANS[mode](s.name) for s in sites})
    together = {u.site: u.delta for u in train(mlp, BINARY, sites, plan, {})[0]}
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        reversed_ = {u.site: u.delta for u in train(mlp, BINARY, sites[::-1], plan, {})[0]}
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    alone = {s.name: train(mlp, BINARY, [s], plan, {})[0][0].delta for s in sites}
    for name, delta in together.items():
        assert np.array_equal(delta, reversed_[name])
        assert np.array_equal(delta, alone[name])


@pytest.mark.parametrize("mode", PLANS)
def test_rounds_sites_and_seeds_draw_differently(mode, logistic):
    def delta(seed=1, number=1, name="north"):
        plan = round_plan(logistic, {name: PLANS[mode](name)}, seed=seed, number=number)
        return train(logistic, BINARY, [site(name)], plan, {})[0][0].delta

    base = delta()
    assert np.array_equal(base, delta())
    # torch.manual_seed(42) in each round gives noise that cancels across rounds.
    for other in (delta(number=2), delta(seed=2), delta(seed=1 + 2**32), delta(name="south")):
        assert not np.any(other == base)


@pytest.mark.parametrize("mode", PLANS)
def test_training_leaves_the_model_and_torch_as_found(mode, mlp):
    mlp.eval()
    before, random = copy.deepcopy(mlp.state_dict()), torch.random.get_rng_state()
    attributes = [sorted(child.__dict__) for child in mlp.modules()]
    train(mlp, BINARY, [site()], round_plan(mlp, {"north": PLANS[mode]("north")}), {})
    assert all(torch.equal(before[name], value) for name, value in mlp.state_dict().items())
    assert torch.equal(random, torch.random.get_rng_state())
    assert not mlp.training
    assert [sorted(child.__dict__) for child in mlp.modules()] == attributes
    assert all(p.grad is None for p in mlp.parameters())


def test_secure_training_never_repeats(logistic):
    plan = round_plan(logistic, {"north": local_plan(privacy=privacy_plan(noise="secure"))})
    a, b = (train(logistic, BINARY, [site()], plan, {})[0][0].delta for _ in range(2))
    # Two float32 of six are equal by chance once in a million runs, and a second pair with them never.
    assert np.count_nonzero(a == b) <= 1


def test_a_private_update_carries_the_declared_weight_and_no_metrics(logistic):
    local = local_plan(privacy=privacy_plan(), weight=225.0)
    [update], _ = train(logistic, BINARY, [site()], round_plan(logistic, {"north": local}), {})
    assert update.metrics == {}
    assert update.weight == 225.0


def test_a_site_without_rows_still_releases_noise(logistic):
    empty = Examples(np.zeros((0, 5), np.float32), np.zeros(0, np.int64), np.zeros(0, np.int64))
    here = dataclasses.replace(site(), train=empty)
    plan = round_plan(logistic, {"north": local_plan(privacy=privacy_plan())})
    [update], _ = train(logistic, BINARY, [here], plan, {})
    assert np.all(update.delta != 0)


def test_proximal_term_pulls_a_private_update_towards_the_received_model(logistic):
    def norm(mu):
        local = local_plan(steps=6, learning_rate=0.1, privacy=privacy_plan())
        plan = round_plan(logistic, {"north": local}, mu=mu)
        return np.linalg.norm(train(logistic, BINARY, [site()], plan, {})[0][0].delta)

    assert norm(5.0) < norm(0.0)


@pytest.mark.parametrize("noise", ["seeded", "secure"])
def test_dropout_is_replayed_with_seeded_noise_only(noise):
    model = nn.Sequential(nn.Linear(5, 64), nn.Dropout(0.5), nn.Linear(64, 1))
    local = local_plan(privacy=privacy_plan(noise=noise, noise_multiplier=1e-9, sample_rate=1.0))
    plan = round_plan(model, {"north": local})
    a, b = (train(model, BINARY, [site()], plan, {})[0][0].delta for _ in range(2))
    assert np.array_equal(a, b) == (noise == "seeded")


def test_a_diverging_site_is_named_with_the_remedy():
    model = build(ModelConfig("logistic"), (5,), 1, 0)
    plan = round_plan(model, {"north": local_plan(steps=50, learning_rate=1e38)})
    with pytest.raises(TrainingError, match=r"north.*not finite") as caught:
        train(model, Task("regression", (), (0, 1)), [site(kind="regression")], plan, {})
    assert "lower training.learning_rate" in str(caught.value)


def test_moving_buffers_are_refused():
    model = nn.Sequential(nn.BatchNorm1d(5), nn.Linear(5, 1))
    with pytest.raises(TrainingError, match="running_mean") as caught:
        train(model, BINARY, [site()], round_plan(model, {"north": local_plan()}), {})
    assert caught.value.code == "FK407"
    with pytest.raises(TrainingError, match="BatchNorm1d"):
        train(model, BINARY, [site()], round_plan(model, {"north": local_plan(privacy=privacy_plan())}), {})


@pytest.mark.parametrize("mode", PLANS)
def test_outputs_of_the_wrong_width_are_refused(mode):
    model = build(ModelConfig("logistic"), (5,), 2, 0)
    with pytest.raises(TrainingError, match=r"needs \(\d+, 1\)") as caught:
        train(model, BINARY, [site()], round_plan(model, {"north": PLANS[mode]("north")}), {})
    assert caught.value.code == "FK403"


def test_a_site_without_a_plan_and_a_plan_of_other_steps_are_refused(logistic):
    with pytest.raises(TrainingError, match="no local plan for north"):
        train(logistic, BINARY, [site()], round_plan(logistic, {}), {})
    plan = round_plan(logistic, {"north": local_plan(steps=7, privacy=privacy_plan())})
    with pytest.raises(TrainingError, match="disagree"):
        train(logistic, BINARY, [site()], plan, {})


def test_state_is_handed_through(logistic):
    kept = {"north": {"head": np.ones(2, np.float32)}}
    _, state = train(logistic, BINARY, [site()], round_plan(logistic, {"north": local_plan()}), kept)
    assert state == kept
