"""The convolutional network: its shapes, its bounds, and that it trains under differential privacy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from fedkit.config.experiment import ModelConfig
from fedkit.errors import TrainingError
from fedkit.models import build
from fedkit.models.flat import pack
from fedkit.privacy.plan import max_lot
from fedkit.training.local import train
from fedkit.types import Examples, LocalPlan, PrivacyPlan, RoundPlan, Site, Task

DIGITS = Task("multiclass", tuple("0123456789"))
ROWS, STEPS, CLIP = 12, 3, 0.5


def make(shape=(1, 8, 8), outputs=10, **arguments):
    return build(ModelConfig("cnn", arguments), shape, outputs, 0)


def test_without_normalisation_it_is_the_network_of_the_benchmarks():
    kinds = [type(layer).__name__ for layer in make((1, 28, 28), groups=0)]
    stage = ["Conv2d", "ReLU", "MaxPool2d"]
    assert kinds == [*stage, *stage, "Flatten", "Linear", "ReLU", "Linear"]
    assert len(pack(make((1, 28, 28), groups=0))) == 160 + 4640 + 100_416 + 650


def test_images_do_not_mix():
    model, x = make(), torch.randn(5, 1, 8, 8)
    assert torch.allclose(model(x)[2], model(x[2:3])[0], atol=1e-6)
    assert not any(isinstance(layer, nn.modules.batchnorm._BatchNorm) for layer in model.modules())


def test_it_takes_images_that_are_not_square_and_of_several_channels():
    assert make((3, 9, 5), 2, channels=[4, 8], hidden=[6])(torch.zeros(2, 3, 9, 5)).shape == (2, 2)


@pytest.mark.parametrize(("shape", "arguments", "told"), [
    ((13,), {}, "an example here has [13]"), ((64, 1), {}, "an example here has [64, 1]"),
    ((1, 8, 8), {"kernel": 4}, "kernel 4 is even"), ((1, 8, 8), {"kernel": 0}, "kernel 0 is not"),
    ((1, 8, 8), {"channels": [8, 8, 8, 8]}, "8 x 8 allows 3"), ((1, 1, 9), {}, "1 x 9 allows 0"),
    ((1, 8, 8), {"channels": [4, 6]}, "groups 4 does not divide channels 6"), ((1, 8, 8), {"groups": -1}, "groups -1"),
    ((1, 8, 8), {"channels": "16"}, "is not a list"), ((1, 8, 8), {"channels": [True]}, "channels True"),
    ((1, 8, 8), {"hidden": [0]}, "hidden 0"), ((1, 8, 8), {"width": 3}, "refuses its arguments"),
    ((1, 8, 8), {"hidden": [100_000, 100_000]}, "more than 249,000,000 parameters"),
])  # fmt: skip
def test_what_does_not_fit_is_refused_with_its_bound(shape, arguments, told):
    with pytest.raises(TrainingError) as caught:
        make(shape, **arguments)
    assert caught.value.code == "FK402" and told in str(caught.value)


def _site(rows):
    generator = np.random.default_rng(0)
    x = generator.uniform(-1, 1, (ROWS, 1, 8, 8)).astype(np.float32)[rows]
    y = generator.integers(0, 10, ROWS)[rows]
    examples = Examples(x, y, np.arange(len(y)))
    return Site("s", examples, examples, ROWS, True)


def _private_round(rows, steps=1, learning_rate=1.0):
    lot = float(ROWS)
    privacy = PrivacyPlan("one", "record", "add_remove", 1.0, CLIP, 1e-9, lot, steps, 1, 1.0, 1e-5, "pld", ROWS, True,
                          "seeded", max_lot(ROWS, 1.0, steps))  # fmt: skip
    local = LocalPlan(steps, ROWS, learning_rate, "sgd", privacy, lot)
    model = make()
    plan = RoundPlan(seed=1, round=1, parameters=pack(model), proximal_mu=0.0, sites={"s": local})
    return train(model, DIGITS, [_site(rows)], plan, {})[0][0].delta.astype(np.float64)


def test_one_image_moves_a_private_step_by_no_more_than_its_clip():
    everyone = list(range(ROWS))
    without = _private_round(everyone[1:])
    moved = np.linalg.norm(_private_round(everyone) - without) * ROWS
    assert 0.9 * CLIP < moved <= CLIP * (1 + 1e-4)


def test_several_private_steps_give_finite_updates():
    assert np.isfinite(_private_round(list(range(ROWS)), STEPS, 0.1)).all()
