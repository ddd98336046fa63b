"""Sites made from a table that has none."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedkit.config.experiment import DataConfig, PartitionConfig
from fedkit.data.units import Units, uniforms
from fedkit.errors import DataError
from fedkit.types import Int64, Task

_BINS = 10
"""Equal bins of a regression target's declared range that stand in for classes."""


def site_names(partition: PartitionConfig) -> tuple[str, ...]:
    """``site_1`` .. ``site_k``."""
    return tuple(f"site_{index}" for index in range(1, partition.sites + 1))


def partition_units(config: DataConfig, task: Task, units: Units, labels: NDArray[np.number]) -> Int64:
    """Assign each unit to a site.

    Args:
        labels: [n] of each row: class index, or for regression the target scaled to [0, 1].

    Returns:
        int64 [units], site index. ``iid``: all sites equally likely; ``dirichlet``: each class has its own site
        proportions, drawn from Dirichlet(alpha) (Hsu, Qi, Brown 2019, "Measuring the effects of non-identical data
        distribution"); ``quantity_skew``: one such draw for all units.

    Raises:
        DataError: FK216 for more sites than units, an alpha not above 0, or an unknown kind.

    Guarantee: a unit's site follows from its id, its label and the seed; adding or removing a unit moves no other.
    """
    partition = config.partition
    if partition is None:
        raise DataError("the declaration has no partition", code="FK216", remedy="set data.partition")
    if partition.sites < 1:
        raise DataError(f"partition.sites is {partition.sites}; it must be at least 1", code="FK216")
    if partition.sites > len(units):
        raise DataError(
            f"partition.sites is {partition.sites} and the table has {len(units)} units",
            code="FK216",
            remedy=f"set data.partition.sites={len(units)} or fewer",
        )
    if partition.kind != "iid" and not partition.alpha > 0:
        raise DataError(
            f"partition.alpha is {partition.alpha}; it must be above 0",
            code="FK216",
            remedy="set data.partition.alpha=0.5",
        )
    if partition.kind in ("iid", "quantity_skew"):
        classes = np.zeros(len(units), dtype=np.int64)
    elif partition.kind == "dirichlet":
        classes = _classes(task, units, labels)
    else:
        raise DataError(
            f"partition.kind {partition.kind!r} is not known",
            code="FK216",
            remedy="use iid, dirichlet or quantity_skew",
        )
    draws = uniforms(units.ids, "partition", partition.seed)
    sites = np.zeros(len(units), dtype=np.int64)
    for label in np.unique(classes):
        members = classes == label
        bounds = np.cumsum(_proportions(partition, int(label)))
        sites[members] = np.searchsorted(bounds, draws[members], side="right")
    # Rounding may leave the last bound a hair below 1.
    return np.minimum(sites, partition.sites - 1)


def _proportions(partition: PartitionConfig, label: int) -> NDArray[np.float64]:
    """Share of each site in a class: of the seed and the class alone, never of how many units it has."""
    if partition.kind == "iid":
        return np.full(partition.sites, 1 / partition.sites)
    generator = np.random.default_rng([partition.seed % 2**63, label])
    shares = generator.dirichlet(np.full(partition.sites, partition.alpha))
    if not np.isfinite(shares).all():
        # A tiny alpha underflows every gamma draw; its limit puts the whole class on one site.
        shares = np.eye(partition.sites)[generator.integers(partition.sites)]
    return np.asarray(shares, dtype=np.float64)


def _classes(task: Task, units: Units, labels: NDArray[np.number]) -> Int64:
    if task.kind == "regression":
        labels = np.minimum(np.asarray(labels, dtype=np.float64) * _BINS, _BINS - 1).astype(np.int64)
    return units.largest(np.asarray(labels, dtype=np.int64))
