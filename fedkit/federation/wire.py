"""What goes over the wire: one float32 array each way, a few numbers, and nothing else.

======== =========================================================== ==========================================
message  to the site                                                 back
======== =========================================================== ==========================================
query    (nothing)                                                   site, trains, evaluates
train    parameters float32 [d]; round, proximal_mu                  delta float32 [d]; weight
evaluate parameters float32 [d]; round                               rows, metrics (simulation only)
======== =========================================================== ==========================================

Several small tensors would cost two HTTP objects each; a model therefore travels packed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from fedkit.errors import FederationError
from fedkit.types import ClientUpdate, Float32, Metrics

WIRE_VERSION = 1
WEIGHT_KEY = "num-examples"
_ARRAY = "parameters"


@dataclass(frozen=True)
class Roster:
    """One site's answer to a query."""

    site: str
    trains: bool
    evaluates: bool


def pack_model(parameters: Float32, server_round: int, proximal_mu: float) -> RecordDict:
    """A train or evaluate request."""
    config = ConfigRecord({"wire": WIRE_VERSION, "server-round": server_round, "proximal-mu": proximal_mu})
    return RecordDict({"arrays": ArrayRecord({_ARRAY: Array(parameters)}), "config": config})


def unpack_model(content: RecordDict) -> tuple[Float32, int, float]:
    """Parameters, round and proximal_mu of a request.

    Raises:
        FederationError: another wire version, or not one flat float32 array.
    """
    config = content["config"]
    if not isinstance(config, ConfigRecord) or config.get("wire") != WIRE_VERSION:
        raise FederationError("the request speaks another wire version", code="FK510", remedy="update fedkit")
    return (
        _flat(content, "arrays"),
        int(config["server-round"]),  # type: ignore[arg-type]
        float(config["proximal-mu"]),  # type: ignore[arg-type]
    )


def pack_update(update: ClientUpdate) -> RecordDict:
    """A train reply."""
    metrics = MetricRecord({WEIGHT_KEY: float(update.weight), **update.metrics})
    return RecordDict({"arrays": ArrayRecord({_ARRAY: Array(update.delta)}), "metrics": metrics})


def unpack_update(content: RecordDict, site: str, size: int) -> ClientUpdate:
    """A site's update, checked: a reply that could poison the sum raises here instead.

    Raises:
        FederationError: wrong shape or type, a NaN or infinite entry, a weight that is not positive and finite.
    """
    delta = _flat(content, "arrays")
    if delta.shape != (size,):
        raise FederationError(f"the update has {delta.size} parameters, the model {size}", code="FK511")
    if not np.isfinite(delta).all():
        raise FederationError("the update holds NaN or infinity", code="FK512", remedy="lower training.learning_rate")
    numbers = dict(_metrics(content))
    weight = numbers.pop(WEIGHT_KEY, None)
    if weight is None or not np.isfinite(weight) or weight <= 0:
        raise FederationError(f"the weight {weight} is not a positive number", code="FK513")
    return ClientUpdate(site, delta, weight, numbers)


def pack_metrics(rows: int, metrics: Metrics) -> RecordDict:
    """An evaluate reply; an undefined metric is left out, because no number stands for it."""
    defined = {key: float(value) for key, value in metrics.items() if value is not None}
    undefined = ConfigRecord({"undefined": [key for key, value in metrics.items() if value is None]})
    return RecordDict({"metrics": MetricRecord({WEIGHT_KEY: float(rows), **defined}), "config": undefined})


def unpack_metrics(content: RecordDict) -> Metrics:
    """A site's metrics, undefined ones as None."""
    metrics: dict[str, float | None] = {k: v for k, v in _metrics(content).items() if k != WEIGHT_KEY}
    config = content.get("config")
    if isinstance(config, ConfigRecord):
        metrics.update(dict.fromkeys(map(str, config.get("undefined", [])), None))  # type: ignore[arg-type]
    return metrics


def pack_roster(roster: Roster) -> RecordDict:
    """A query reply."""
    entries = {"wire": WIRE_VERSION, "site": roster.site, "trains": roster.trains, "evaluates": roster.evaluates}
    return RecordDict({"config": ConfigRecord(entries)})  # type: ignore[arg-type]


def unpack_roster(content: RecordDict) -> Roster:
    """A site's answer to a query."""
    config = content["config"]
    return Roster(str(config["site"]), bool(config["trains"]), bool(config["evaluates"]))


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


def _flat(content: RecordDict, key: str) -> Float32:
    record = content.get(key)
    if not isinstance(record, ArrayRecord) or list(record) != [_ARRAY]:
        raise FederationError("the message does not carry one packed array", code="FK515")
    array: Float32 = record[_ARRAY].numpy()
    if array.dtype != np.float32 or array.ndim != 1:
        raise FederationError(
            f"the packed array is {array.dtype} of {array.ndim} dimensions, not flat float32", code="FK516"
        )
    return array


def _metrics(content: RecordDict) -> dict[str, float]:
    record = content.get("metrics")
    if not isinstance(record, MetricRecord):
        raise FederationError("the message carries no metrics", code="FK517")
    return {key: float(value) for key, value in record.items()}  # type: ignore[arg-type]
