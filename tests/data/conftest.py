from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedkit.config.experiment import (
    DataConfig,
    FeaturesConfig,
    MissingConfig,
    SourceConfig,
    TargetConfig,
)
from fedkit.data.table import Table, column_of

ICU = DataConfig(
    name="icu",
    description="",
    source=SourceConfig("csv", path="icu.csv"),
    target=TargetConfig("died", "binary", positive=(1,)),
    features=FeaturesConfig({"age": (0.0, 120.0), "rate": (20.0, 250.0)}, {"gender": ("Female", "Male")}),
    missing=MissingConfig(indicator=False),
    site_column="region",
)
HEADER = "region,age,rate,gender,died"
ROWS = (
    "north,60,135,Female,1",
    "north,30,80,Male,0",
    "south,90,20,Male,1",
    "south,0,250,Female,0",
)


@pytest.fixture(scope="session")
def icu() -> DataConfig:
    return ICU


@pytest.fixture
def csv(tmp_path: Path) -> Callable[..., DataConfig]:
    """Write text or bytes (by default the small table) and declare it; keywords change the declaration."""

    def write(content: str | bytes = "\n".join((HEADER, *ROWS)) + "\n", **changes: Any) -> DataConfig:
        path = tmp_path / "icu.csv"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        source = SourceConfig("csv", path=str(path), **changes.pop("source", {}))
        return replace(ICU, source=source, **changes)

    return write


@pytest.fixture
def rows(csv: Callable[..., DataConfig]) -> Callable[..., DataConfig]:
    """Declare the small table with other rows."""

    def write(*lines: str, **changes: Any) -> DataConfig:
        return csv("\n".join((HEADER, *lines)) + "\n", **changes)

    return write


@pytest.fixture(scope="session")
def table() -> Callable[[Mapping[str, Sequence[Any]]], Table]:
    """A table in memory."""

    def make(columns: Mapping[str, Sequence[Any]]) -> Table:
        coded = {name: column_of(values) for name, values in columns.items()}
        count = len(next(iter(coded.values())).codes)
        return Table(coded, np.arange(count), lambda record: f"row {record + 1}")

    return make
