import json
from dataclasses import replace

import pytest

from fedkit.config.compose import compose
from fedkit.config.experiment import PartitionConfig, SourceConfig
from fedkit.config.serialize import from_dict, to_dict
from fedkit.governance.declaration import declaration_digest

CONFIG = compose("heart_disease")
HEART = CONFIG.data
DIGEST = declaration_digest(HEART)


def test_the_digest_is_written_down():
    # Sites and coordinators of different versions compare it: a change is a change of the wire.
    assert DIGEST == "fc5f92c39a4740dd0bceeb3b0f6e5d7075f860d81a4245e70aee9c82db2b6d6c"


def test_the_digest_survives_the_wire():
    assert declaration_digest(from_dict(json.loads(json.dumps(to_dict(CONFIG)))).data) == DIGEST


@pytest.mark.parametrize(
    "changes",
    [
        {"source": SourceConfig("csv", path="x")}, {"site_column": None}, {"records": {"a": 1}},
        {"unit_column": "id"}, {"description": "other"}, {"partition": PartitionConfig("iid", 2)},
        {"features": replace(HEART.features, numeric=dict(reversed(HEART.features.numeric.items())))},
    ],
)  # fmt: skip
def test_what_is_each_sites_own_changes_nothing(changes):
    assert declaration_digest(replace(HEART, **changes)) == DIGEST


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "other"}, {"target": replace(HEART.target, positive=(1, 2))},
        {"features": replace(HEART.features, drop_first=False)},
        {"features": replace(HEART.features, numeric={**HEART.features.numeric, "age": (20.0, 91.0)})},
        {"features": replace(HEART.features, categorical={"cp": (2, 1, 3, 4), "restecg": (0, 1, 2)})},
        {"missing": replace(HEART.missing, indicator=True)}, {"split": replace(HEART.split, seed=1)},
        {"max_rows_per_unit": 3}, {"scaling": "site_zscore"}, {"subgroups": {"sex": (0, 1)}},
        {"missing": replace(HEART.missing, codes={"chol": (0,)})},
    ],
)  # fmt: skip
def test_whatever_can_change_a_result_changes_it(changes):
    assert declaration_digest(replace(HEART, **changes)) != DIGEST


def test_codes_of_the_unit_column_are_the_sites_own():
    named = replace(
        HEART, unit_column="id", missing=replace(HEART.missing, codes={**HEART.missing.codes, "id": ("-",)})
    )
    assert declaration_digest(named) == DIGEST
