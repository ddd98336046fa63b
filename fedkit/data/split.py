"""Which units are held out for testing."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedkit.config.experiment import DataConfig, SplitConfig
from fedkit.data.units import Units, uniforms
from fedkit.errors import DataError
from fedkit.types import Int64

# FLamby stratifies a site only where every class has more than this many units.
_FEW = 2


def require_private(config: DataConfig) -> None:
    """Refuse what lets one record change how another is used.

    Raises:
        DataError: FK215 for a stratified or permuted split and for z-scores.

    Guarantee: a config that passes here splits, scales and parts each unit by its own values and public constants.
    """
    if config.split.kind != "keyed_hash":
        raise DataError(
            f"split.kind is {config.split.kind}: adding one record would move others between train and test",
            code="FK215",
            remedy="set data.split.kind=keyed_hash, or privacy=none",
        )
    if config.scaling != "declared":
        raise DataError(
            f"scaling is {config.scaling}: its means are released with every update and no noise covers them",
            code="FK215",
            remedy="set data.scaling=declared, or privacy=none",
        )


def held_out(split: SplitConfig, units: Units, labels: NDArray[np.integer] | None) -> NDArray[np.bool_]:
    """Mark a site's test rows.

    Args:
        units: the site's units; all rows of one go to one part.
        labels: int [n] class of each row, None for regression; only the stratified split looks at them.

    Returns:
        bool [n], True for rows held out.

    Raises:
        DataError: FK218 for an unknown kind or fraction; a stratified split of a regression target.

    Guarantee: ``keyed_hash`` decides each unit by its id and the seed alone (HMAC-SHA256), so that adding or removing
    a unit moves no other.
    """
    if not 0 <= split.test_fraction < 1:
        raise DataError(
            f"split.test_fraction is {split.test_fraction}; it must be at least 0 and below 1",
            code="FK218",
            remedy="set data.split.test_fraction=0.25",
        )
    if split.kind == "keyed_hash":
        marked = uniforms(units.ids, "split", split.seed) < split.test_fraction
    elif split.kind == "permuted":
        marked = _drawn(split, len(units), None)
    elif split.kind == "stratified":
        if labels is None:
            raise DataError(
                "split.kind stratified needs classes and the target is a number",
                code="FK218",
                remedy="set data.split.kind=keyed_hash",
            )
        marked = _drawn(split, len(units), units.largest(labels))
    else:
        raise DataError(
            f"split.kind {split.kind!r} is not known", code="FK218", remedy="use keyed_hash, stratified or permuted"
        )
    return np.asarray(marked[units.of_row], dtype=np.bool_)


def _drawn(split: SplitConfig, count: int, classes: Int64 | None) -> NDArray[np.bool_]:
    """FLamby's split: scikit-learn's permutation, stratified where every class has units enough."""
    from sklearn.model_selection import train_test_split

    marked = np.zeros(count, dtype=np.bool_)
    # FLamby's floor(0.66 n), without the hair by which 1 - 0.34 lies below 0.66; counts, since fractions round twice.
    trained = int((1 - split.test_fraction) * count + 1e-9)
    tests = count - trained
    if not trained or not tests:
        return marked
    stratify = None
    if classes is not None:
        counts = np.unique(classes, return_counts=True)[1]
        enough = 1 < len(counts) <= min(trained, tests) and bool((counts > _FEW).all())
        stratify = classes if enough else None
    _, tested = train_test_split(
        np.arange(count),
        train_size=trained,
        test_size=tests,
        random_state=split.seed,
        shuffle=True,
        stratify=stratify,
    )
    marked[tested] = True
    return marked
