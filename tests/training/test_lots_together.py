"""Sites that draw side by side draw what each draws by itself."""

import numpy as np
import pytest
import torch

from fedkit.training.lots import Lots
from fedkit.training.lots_together import LotsTogether
from tests.training.builders import local_plan, privacy_plan, round_plan, site
from tests.training.test_on_device import mlp

TWIN = torch.device("cpu", 0)
COUNTS, PLACES, D = (7, 0, 30), 10, 31


def made(k, changes):
    name = f"s{k}"
    plan = round_plan(mlp(), {name: local_plan(privacy=privacy_plan(name, noise_multiplier=1.0 + k, **changes))})
    return Lots(site(name, COUNTS[k], k), plan, D, lambda plan: PLACES)


@pytest.mark.parametrize("changes", [{"max_lot": 10}, {"max_lot": 3, "sample_rate": 0.6}, {"max_lot": 25}])
@pytest.mark.parametrize("splits", [(6,), (2, 4)])
def test_rows_and_noise_are_each_sites_own(changes, splits):
    starts = np.cumsum([0, *(count + 1 for count in COUNTS[:-1])]).tolist()
    together = LotsTogether([made(k, changes) for k in range(3)], starts, 5, D)
    found = [together.draw(steps, TWIN) for steps in splits]
    noise = torch.cat([each.noise for each in found])
    records = [lot for each in found for lot in each.records]
    assert noise.shape == (6, 3, D) and all(lot.shape[1:] == (5, PLACES) for lot in records)
    for k, (start, count) in enumerate(zip(starts, COUNTS, strict=True)):
        alone = made(k, changes).draw(6, TWIN)
        assert torch.equal(noise[:, k], alone.noise)
        for lot, expected in zip(records, alone.records, strict=True):
            mine = lot[:, k] - start
            assert torch.equal(mine[: len(expected)], expected)
            assert (mine[len(expected) :] == count).all()
    # Slots without a site hold nobody's row of the first.
    assert all((lot[:, 3:] == COUNTS[0]).all() for lot in records)
    if "sample_rate" in changes:
        assert max(map(len, records)) > 1
