"""A user's folder with a small declaration, the way a researcher would write it."""

from __future__ import annotations

from pathlib import Path

import pytest

ICU = """\
# my/data/icu.yaml, used as: fedkit simulate --config-dir my data=icu model=logistic
name: icu
source: {kind: csv, path: icu.csv}
site_column: region
unit_column: patient_id
records: {north: 300, south: 150}
target: {column: died, kind: binary, positive: [1, 'yes']}
features:
  numeric: {age: [0, 120], heart_rate: [20, 250]}
  categorical: {gender: [Female, Male]}
missing: {numeric: midpoint, indicator: true}
split: {test_fraction: 0.25, seed: 43}
"""


@pytest.fixture(scope="session")
def icu() -> str:
    """The declaration of the user's table, as it stands in data/icu.yaml."""
    return ICU


@pytest.fixture
def my(tmp_path: Path) -> Path:
    """A --config-dir folder with data/icu.yaml, strategy/gentle.yaml and an experiment."""
    files = {
        "data/icu.yaml": ICU,
        "strategy/gentle.yaml": "# fedkit simulate strategy=gentle\n# Adam in small steps.\nname: fedadam\neta: 1e-3\n",
        "experiments/ward/experiment.yaml": (
            "# @package _global_\n# fedkit simulate ward --config-dir my\n# Two wards.\n"
            "defaults:\n  - override /data: icu\n  - override /strategy: gentle\n"
            "training: {learning_rate: 0.1}\nprivacy: {epsilon: 2}\n"
        ),
    }
    folder = tmp_path / "my"
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder
