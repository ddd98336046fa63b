"""Hospitals that train on a GPU: real processes, each with a context of its own after its fork."""

import json

import numpy as np
import pytest
import torch

from tests.deploy import federation
from tests.deploy.test_same_as_simulated import model, simulated

pytestmark = [
    pytest.mark.deploy, pytest.mark.slow, pytest.mark.timeout(600),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU here"),
]  # fmt: skip


def test_sites_train_on_a_gpu_what_a_simulation_trains_on_the_cpu(tmp_path, monkeypatch):
    monkeypatch.setattr(federation, "SITE_YAML", f"device: cuda\n{federation.SITE_YAML}")
    seeded = (str(federation.ROOT / "tests" / "deploy" / "seeded_site.py"),)
    (tmp_path / "federation").mkdir()
    made = federation.Federation(tmp_path / "federation", unprotected=True, max_epsilon=50.0, site_program=seeded)
    try:
        made.make().start_sites()
        for privacy, noise in ([], ["privacy.noise=seeded"]), (["privacy=none"], []):
            overrides = ["federation.num_rounds=4", "model=mlp", *privacy]
            pulled = made.run(*overrides)
            ours, here = model(pulled), model(simulated(tmp_path, *overrides, *noise, "training.engine=reference"))
            assert np.allclose(ours, here, rtol=0, atol=1e-5) and np.abs(ours).max() > 0.05
            assert json.loads((pulled / "result.json").read_text())["outcome"] == "complete"
        for site in made.sites:
            (log,) = (tmp_path / "federation").glob(f"**/{site}/**/client.log")
            assert "gradients are computed on cuda, " in log.read_text()
    finally:
        made.close()
