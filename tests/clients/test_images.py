"""A deployed site trains on images of its own: one declared column a pixel, in the shape that it has declared."""

from __future__ import annotations

import numpy as np
import pytest

from fedkit.federation import wire
from fedkit.training.model import declared_model
from tests.clients.coordinator import DECLARATION, SITE, experiment, model

# Two numbers and whether each is missing: the smallest image that the made-up table has.
OVERRIDES = ("data.features.shape=[1,2,2]", "model=cnn", "model.channels=[4]", "model.hidden=[3]")
IMAGES = {**DECLARATION, "features": {**DECLARATION["features"], "shape": [1, 2, 2]}}


def _asked(made):
    size = sum(p.numel() for p in declared_model(experiment(*OVERRIDES)).parameters())
    return size, made.coordinator.request(made.coordinator.job(config=experiment(*OVERRIDES)), "train", 1, model(size))


def test_a_site_that_declares_images_trains_on_them(bench):
    made = bench(data={"declaration": IMAGES, "models": ["cnn"]})
    size, request = _asked(made)
    update = wire.unpack_update(made.keeper.answer("train", request), SITE, size)
    assert np.isfinite(update.delta).all() and update.delta.any() and made.charged() > 0


@pytest.mark.parametrize(("data", "code"), [({"models": ["cnn"]}, "FK561"), ({"declaration": IMAGES}, "FK563")])
def test_a_site_that_declares_a_table_or_admits_no_cnn_refuses_and_spends_nothing(bench, data, code):
    made = bench(data=data)
    assert made.keeper.answer("train", _asked(made)[1]) == code
    assert made.charged() == 0
