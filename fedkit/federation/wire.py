"""What goes over the wire: one float32 array each way, a few numbers, and nothing else.

======== =========================================================== ==========================================
message  to the site                                                 back
======== =========================================================== ==========================================
query    (nothing)                                                   site, trains, evaluates
train    parameters float32 [d]; round, proximal_mu                  delta float32 [d]; weight
evaluate parameters float32 [d]; round; what: exact                  rows, metrics (simulation only)
evaluate parameters float32 [d]; round; what: histograms             noisy histograms float64 [cells]
query    a signed job that asks for statistics (deployed only)       its answer, uint8 [bytes]
======== =========================================================== ==========================================

Several small tensors would cost two HTTP objects each; a model therefore travels packed.
"""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from numpy.typing import NDArray

from fedkit.errors import FederationError
from fedkit.federation.packed import all_finite, flat, pack_array, readable, squares
from fedkit.types import ClientUpdate, Float32, Metrics

WIRE_VERSION = 1
WEIGHT_KEY = "num-examples"
HISTOGRAMS, EXACT = "histograms", "exact"
_MOST_UNITS = 1e15

Float64 = NDArray[np.float64]
_FLOAT32 = np.dtype(np.float32)
_LARGEST = sys.float_info.max
_ROUNDING = 1e-6
# So that no number of sites makes the sum of their weights infinite.
_MOST_WEIGHT = 1e300

TRAIN_METRICS: Mapping[str, tuple[float, float]] = {"train_loss": (0.0, 1e30)}
"""Metrics of a train reply that a strategy may see, with the least and the largest value; others are dropped."""

EVALUATE_METRICS: Mapping[str, tuple[float, float]] = {
    "accuracy": (0.0, 1.0),
    "auroc": (0.0, 1.0),
    "average_precision": (0.0, 1.0),
    "log_loss": (0.0, _LARGEST),
    "brier": (0.0, 2.0),
    "rmse": (0.0, _LARGEST),
    "mae": (0.0, _LARGEST),
    "r2": (-_LARGEST, 1.0),
}
"""Every metric that a task has, with the least and the largest value; a reply with any other is refused."""


@dataclass(frozen=True)
class Roster:
    """One site's answer to a query."""

    site: str
    trains: bool
    evaluates: bool


def pack_model(parameters: Float32, server_round: int, proximal_mu: float) -> RecordDict:
    """A train or evaluate request."""
    config = ConfigRecord({"wire": WIRE_VERSION, "server-round": server_round, "proximal-mu": proximal_mu})
    return RecordDict({"arrays": pack_array(parameters), "config": config})


def pack_evaluation(parameters: Float32, server_round: int, *, histograms: bool) -> RecordDict:
    """An evaluate request: for the charged histograms, or for the exact metrics of a simulation."""
    what = HISTOGRAMS if histograms else EXACT
    config = ConfigRecord({"wire": WIRE_VERSION, "server-round": server_round, "proximal-mu": 0.0, "what": what})
    return RecordDict({"arrays": pack_array(parameters), "config": config})


def asks_for_histograms(content: RecordDict) -> bool:
    """Which of the two an evaluate request asks for.

    Raises:
        FederationError: FK510, neither.
    """
    config = content["config"]
    what = config.get("what") if isinstance(config, ConfigRecord) else None
    if what not in (HISTOGRAMS, EXACT):
        raise FederationError("the request asks for an evaluation of no known kind", code="FK510")
    return bool(what == HISTOGRAMS)


def unpack_model(content: RecordDict) -> tuple[Float32, int, float]:
    """Parameters, round and proximal_mu of a request; the parameters are a read-only view of the message's bytes.

    Raises:
        FederationError: another wire version, or not one flat float32 array.
    """
    config = content["config"]
    if not isinstance(config, ConfigRecord) or config.get("wire") != WIRE_VERSION:
        raise FederationError("the request speaks another wire version", code="FK510", remedy="update fedkit")
    return (
        flat(content, "arrays", "float32", copy=False),
        int(config["server-round"]),  # type: ignore[arg-type]
        float(config["proximal-mu"]),  # type: ignore[arg-type]
    )


def pack_update(update: ClientUpdate) -> RecordDict:
    """A train reply."""
    if update.metrics:
        metrics = MetricRecord({WEIGHT_KEY: float(update.weight), **update.metrics})
    else:
        metrics = _weighing(float(update.weight)).copy()
    return RecordDict({"arrays": pack_array(update.delta), "metrics": metrics})


@functools.lru_cache(maxsize=64)
def _weighing(weight: float) -> MetricRecord:
    return MetricRecord({WEIGHT_KEY: weight})


@readable()
def unpack_update(content: RecordDict, site: str, size: int) -> ClientUpdate:
    """A site's update, checked: a reply that could poison the sum raises here instead.

    Its delta is a view of the reply's own bytes, not to be written to.

    Raises:
        FederationError: bytes that are no array, wrong shape or type, a NaN or infinite entry, a weight that is not
            positive and finite, a metric that is no number in its range.
    """
    delta = flat(content, "arrays", "float32", copy=False)
    _check_delta(delta, size, math.nan)
    record = _metrics(content)
    return ClientUpdate(site, delta, _weight(record.get(WEIGHT_KEY)), _known(record))


def as_read(update: ClientUpdate, size: int) -> tuple[ClientUpdate, float]:
    """An update that no message carried, as :func:`unpack_update` would have read it; and its sum of squares.

    Raises:
        FederationError: as :func:`unpack_update`.
    """
    delta, weight = update.delta, update.weight
    if not isinstance(delta, np.ndarray) or delta.dtype != _FLOAT32 or delta.ndim != 1:
        raise FederationError("the update is not a flat float32 array of numpy", code="FK516")
    squared = squares(delta)
    _check_delta(delta, size, squared)
    if not update.metrics and type(weight) is float and 0 < weight <= _MOST_WEIGHT:
        return update, squared
    with readable():
        return ClientUpdate(update.site, delta, _weight(weight), _known(update.metrics)), squared


def _check_delta(delta: Float32, size: int, squared: float) -> None:
    if len(delta) != size:
        raise FederationError(f"the update has {delta.size} parameters, the model {size}", code="FK511")
    # No NaN and no infinity leaves a sum of squares finite.
    if not (math.isfinite(squared) or all_finite(delta)):
        raise FederationError("the update holds NaN or infinity", code="FK512", remedy="lower training.learning_rate")


def _known(metrics: Mapping[str, object]) -> dict[str, float]:
    return {key: _number(key, metrics[key], bounds) for key, bounds in TRAIN_METRICS.items() if key in metrics}


def pack_metrics(rows: int, metrics: Metrics) -> RecordDict:
    """An evaluate reply; an undefined metric is left out, because no number stands for it."""
    defined = {key: float(value) for key, value in metrics.items() if value is not None}
    undefined = ConfigRecord({"undefined": [key for key, value in metrics.items() if value is None]})
    return RecordDict({"metrics": MetricRecord({WEIGHT_KEY: float(rows), **defined}), "config": undefined})


@readable()
def unpack_metrics(content: RecordDict) -> tuple[float, Metrics]:
    """A site's test rows and metrics, undefined ones as None.

    Raises:
        FederationError: a metric that no task has, a value out of its range, a number of rows that is not positive.
    """
    record, config = _metrics(content), content.get("config")
    undefined = config.get("undefined", []) if isinstance(config, ConfigRecord) else []
    names = [key for key in record if key != WEIGHT_KEY]
    if not isinstance(undefined, list) or not {*names, *undefined} <= EVALUATE_METRICS.keys():
        raise FederationError("the reply names a metric that no task has", code="FK517")
    metrics: dict[str, float | None] = {key: _number(key, record[key], EVALUATE_METRICS[key]) for key in names}
    return _weight(record.get(WEIGHT_KEY)), {**metrics, **dict.fromkeys(map(str, undefined), None)}


def pack_histograms(counts: Float64) -> RecordDict:
    """A reply with a site's noisy histograms, one after the other."""
    return RecordDict({"arrays": pack_array(np.ascontiguousarray(counts, dtype=np.float64))})


def unpack_histograms(content: RecordDict, size: int) -> Float64:
    """A site's noisy histograms, checked.

    Raises:
        FederationError: bytes that are no array, another number of cells than declared, a value that is no count.
    """
    counts = flat(content, "arrays", "float64")
    if counts.shape != (size,):
        raise FederationError(f"the histograms have {counts.size} cells, {size} are declared", code="FK511")
    if not (np.isfinite(counts).all() and np.abs(counts).max(initial=0.0) <= _MOST_UNITS):
        raise FederationError("the histograms hold a value that is no count", code="FK512")
    return counts


def pack_statistics(answer: NDArray[np.uint8]) -> RecordDict:
    """A reply with a site's answer to a question about its columns, see `fedkit.assurance.statistics`."""
    return RecordDict({"arrays": pack_array(answer)})


def unpack_statistics(content: RecordDict) -> bytes:
    """A site's answer, of whatever length; whoever reads it compares it with the question.

    Raises:
        FederationError: FK515, FK516.
    """
    return flat(content, "arrays", "uint8", copy=False).tobytes()


def pack_roster(roster: Roster) -> RecordDict:
    """A query reply."""
    entries = {"wire": WIRE_VERSION, "site": roster.site, "trains": roster.trains, "evaluates": roster.evaluates}
    return RecordDict({"config": ConfigRecord(entries)})  # type: ignore[arg-type]


@readable()
def unpack_roster(content: RecordDict) -> Roster:
    """A site's answer to a query.

    Raises:
        FederationError: another wire version, or an entry that is missing or of another type.
    """
    config = content.get("config")
    entries = dict(config) if isinstance(config, ConfigRecord) else {}
    if entries.get("wire") != WIRE_VERSION:
        raise FederationError("the answer speaks another wire version", code="FK510", remedy="update fedkit")
    site, trains, evaluates = (entries.get(key) for key in ("site", "trains", "evaluates"))
    if not (isinstance(site, str) and isinstance(trains, bool) and isinstance(evaluates, bool)):
        raise FederationError("the answer does not say site, trains and evaluates", code="FK518")
    return Roster(site, trains, evaluates)


def to_record(flat: Float32, shapes: Mapping[str, tuple[int, ...]]) -> ArrayRecord:
    """A packed model as the named arrays that a Flower strategy expects."""
    arrays, start = {}, 0
    for name, shape in shapes.items():
        size = int(np.prod(shape, dtype=np.int64))
        arrays[name] = Array(flat[start : start + size].reshape(shape))
        start += size
    return ArrayRecord(arrays)


def from_record(record: ArrayRecord, shapes: Mapping[str, tuple[int, ...]]) -> Float32:
    """The named arrays of a strategy as one packed model.

    Raises:
        FederationError: the strategy changed the names or shapes.
    """
    if list(record) != list(shapes) or any(tuple(record[n].shape) != tuple(s) for n, s in shapes.items()):
        raise FederationError("the strategy returned arrays of other names or shapes than the model's", code="FK514")
    return np.concatenate([record[name].numpy().astype(np.float32).ravel() for name in shapes])


def _metrics(content: RecordDict) -> MetricRecord:
    record = content.get("metrics")
    if not isinstance(record, MetricRecord):
        raise FederationError("the message carries no metrics", code="FK517")
    return record


def _weight(weight: object) -> float:
    if not isinstance(weight, (int, float)) or not 0 < weight <= _MOST_WEIGHT:
        raise FederationError("the weight is not a positive number", code="FK513")
    return float(weight)


def _number(key: str, value: object, bounds: tuple[float, float]) -> float:
    low, high = bounds
    if not isinstance(value, (int, float)):
        raise FederationError(f"{key} is not a number", code="FK517")
    if not low - _ROUNDING <= value <= high + _ROUNDING:
        raise FederationError(f"{key} {float(value):g} is not between {low:g} and {high:g}", code="FK517")
    return float(value)
