from __future__ import annotations

from dataclasses import replace

import numpy as np

from fedkit.data.load import load_dataset
from fedkit.data.pool import pooled


def test_pool_holds_every_row_and_keeps_units_apart(rows):
    lines = [f"{region},{age},80,Male,{age % 2}" for region in ("north", "south") for age in range(20)]
    config = rows(*lines, unit_column="age")
    config = replace(config, features=replace(config.features, numeric={"rate": (20, 250)}))
    dataset = load_dataset(replace(config, subgroups={"gender": ("Male",)}), private=True)
    (site,) = pooled(dataset).sites
    assert site.name == "pooled"
    assert len(site.train) + len(site.test) == 40
    assert site.train.num_units == sum(part.train.num_units for part in dataset.sites)
    assert site.records == 40
    assert not site.records_declared
    assert np.array_equal(site.test.x, np.concatenate([part.test.x for part in dataset.sites]))
    assert len(site.test.subgroups["gender"]) == len(site.test)


def test_pool_of_one_site_is_that_site(rows):
    config = rows("north,1,80,Male,1", "north,2,80,Male,0", "north,3,80,Male,0", records={"north": 3})
    dataset = load_dataset(config, private=True)
    assert list(pooled(dataset).fingerprints.values()) == list(dataset.fingerprints.values())
    assert pooled(dataset).sites[0].records_declared
