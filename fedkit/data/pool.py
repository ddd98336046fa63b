"""Everybody's rows in one place: the baseline that a federation is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from fedkit.data.assemble import fingerprint
from fedkit.types import Dataset, Examples, Site

POOLED = "pooled"


def pooled(dataset: Dataset) -> Dataset:
    """One site, ``pooled``, with the train and test rows of all; encoded as they are in ``dataset``.

    Units of different sites stay different units. Site-wise z-scores stay site-wise: to pool as if the table had no
    sites, load it with ``scaling: pooled_zscore`` first.

    Returns:
        A data set of one site, rows in the order of the sites.
    """
    train = _joined([site.train for site in dataset.sites])
    test = _joined([site.test for site in dataset.sites])
    site = Site(
        POOLED,
        train,
        test,
        records=sum(site.records for site in dataset.sites),
        records_declared=all(site.records_declared for site in dataset.sites),
    )
    return replace(dataset, sites=(site,), fingerprints={POOLED: fingerprint(site)})


def _joined(parts: Sequence[Examples]) -> Examples:
    offsets = np.cumsum([0, *(part.num_units for part in parts)])
    names = [name for name in parts[0].subgroups if all(name in part.subgroups for part in parts)]
    return Examples(
        x=np.concatenate([part.x for part in parts]),
        y=np.concatenate([part.y for part in parts]),
        unit=np.concatenate([part.unit + offset for part, offset in zip(parts, offsets[:-1], strict=True)]),
        subgroups={name: np.concatenate([part.subgroups[name] for part in parts]) for name in names},
    )
