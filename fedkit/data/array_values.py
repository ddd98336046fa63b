"""Values that the user gives in Python, as the numbers that training takes; each refusal names its site and key."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedkit.data.declared import is_usable_range
from fedkit.errors import DataError
from fedkit.types import Float32, Task

_BLOCK = 1024


def wrong(what: str, message: str, remedy: str = "") -> DataError:
    """The error of a site's values (or of ``data`` as a whole) that cannot be used: FK217."""
    return DataError(f"{what}: {message}" if what != "data" else f"data {message}", code="FK217", remedy=remedy)


def _array(site: str, key: str, value: Any) -> NDArray[Any]:
    if hasattr(value, "detach"):
        # A torch tensor may ask for gradients or live on an accelerator; NumPy takes neither.
        value = value.detach().cpu()
    try:
        array = np.asarray(value)
    except (ValueError, TypeError, RuntimeError):
        raise wrong(site, f"{key} is no array", "pass one array of numbers") from None
    if array.dtype.kind not in "biuf":
        raise wrong(site, f"{key} holds {array.dtype}, not numbers", "encode words as numbers first")
    return array


def numbers(site: str, key: str, value: Any) -> Float32:
    """Examples as float32 [n, *shape], all finite (FK217)."""
    array = _array(site, key, value)
    if array.ndim < 2:
        raise wrong(site, f"{key} has shape {array.shape}; it must be [rows, features...]", "reshape it to [n, 1]")
    with np.errstate(over="ignore"):
        x = np.ascontiguousarray(array, dtype=np.float32)
    bad = ~np.isfinite(x.reshape(len(x), -1)).all(axis=1) if x.size else np.zeros(0, dtype=np.bool_)
    if bad.any():
        raise wrong(
            site,
            f"{key} holds NaN or infinity in {int(bad.sum())} rows, first in row {int(np.flatnonzero(bad)[0])}",
            "replace missing values before",
        )
    return x


def labels(site: str, key: str, value: Any) -> NDArray[Any]:
    """Labels as numbers [n], all finite (FK217); what they mean is the task's to say."""
    array = _array(site, key, value)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise wrong(site, f"{key} has shape {array.shape}; it must be [rows]", "pass one label a row")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise wrong(site, f"{key} holds NaN or infinity", "leave those rows out")
    return array


def infer_task(given: list[NDArray[Any]]) -> Task:
    """The task of whole labels of all sites: 0 and 1 binary, 0 .. k - 1 multiclass (FK217)."""
    if any(array.dtype.kind == "f" for array in given):
        raise wrong(
            "data",
            "has a y of floats, which may be classes or a number to predict",
            "pass task=Task('regression', range=(low, high)), or y as integers",
        )
    largest = max((int(array.max()) for array in given if len(array)), default=1)
    smallest = min((int(array.min()) for array in given if len(array)), default=0)
    if smallest < 0:
        raise wrong("data", f"has the label {smallest}; labels count from 0", "number the classes 0 .. k - 1")
    if largest <= 1:
        return Task("binary", ("negative", "positive"))
    # A label per record (an id by mistake) would make a model of that many outputs.
    if largest >= 10_000:
        raise wrong("data", f"has the label {largest}; that is no class index", "pass task=Task(...)")
    return Task("multiclass", tuple(str(index) for index in range(largest + 1)))


def target(site: str, key: str, given: NDArray[Any], task: Task) -> NDArray[Any]:
    """Labels as the task has them: int64 class indices, or float32 scaled to [0, 1] by the range (FK217)."""
    if task.kind == "regression":
        if task.range is None or not is_usable_range(*task.range):
            raise wrong(
                "data", "has a regression task without a usable range", "pass Task('regression', range=(low, high))"
            )
        low, high = task.range
        return ((np.clip(given.astype(np.float64), low, high) - low) / (high - low)).astype(np.float32)
    count = 2 if task.kind == "binary" else len(task.classes)
    whole = given.astype(np.int64)
    if (whole != given).any() or (whole < 0).any() or (whole >= count).any():
        raise wrong(
            site,
            f"{key} holds labels that are not 0 .. {count - 1}",
            f"number the {count} classes from 0, or pass task",
        )
    return whole


def contents(x: Float32, y: NDArray[Any], groups: Mapping[str, NDArray[np.str_]] | None = None) -> list[str]:
    """A text of each row: SHA-256 of the bytes of its example and label and, with their lengths, its subgroup labels.

    Args:
        groups: subgroup column to labels [n], as they are stored.

    Guarantee: rows of one table have equal texts exactly where everything that is used of them is equal (unless
    SHA-256 collides), so that rows told apart by their number among equals can be exchanged without a trace.
    """
    named = [(groups or {})[name].tolist() for name in sorted(groups or {})]
    texts = []
    for row, label, *told in zip(_row_bytes(x), _row_bytes(y), *named, strict=True):
        digest = hashlib.sha256(row + label)
        for text in told:
            encoded = text.encode("utf-8", "surrogatepass")
            digest.update(len(encoded).to_bytes(8, "big") + encoded)
        texts.append(digest.hexdigest())
    return texts


def _row_bytes(values: NDArray[Any]) -> Iterator[bytes]:
    """The bytes of each row, in C order; many at once, as an array a row costs more than its hash."""
    size = values[:1].nbytes
    for start in range(0, len(values), _BLOCK):
        some = values[start : start + _BLOCK]
        whole = some.tobytes()
        yield from (whole[index * size : (index + 1) * size] for index in range(len(some)))


def require_length(site: str, key: str, values: Any, x: Float32) -> None:
    """Refuse values that are not one a row (FK217)."""
    if len(values) != len(x):
        raise wrong(site, f"{key} has {len(values)} entries and x {len(x)} rows", "pass one entry a row")
