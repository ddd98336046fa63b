"""An answer's Flower records as a header and bytes, and back: what passes from the executor to the node's process."""

from __future__ import annotations

from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from fedkit.federation.packed import array_over
from fedkit_client.frames import Bytes

_ARRAYS, _METRICS, _CONFIG, USAGE = "arrays", "metrics", "config", "usage"


def to_frame(content: RecordDict) -> tuple[dict[str, Any], Bytes]:
    """The records of a reply; at most one array is among them.

    >>> import numpy as np
    >>> from fedkit.federation import wire
    >>> from fedkit.types import ClientUpdate
    >>> reply = wire.pack_update(ClientUpdate("north", np.ones(2, np.float32), 5.0))
    >>> from_frame(*to_frame(reply)) == reply
    True
    """
    header: dict[str, Any] = {}
    body: Bytes = b""
    for name, record in content.items():
        if isinstance(record, ArrayRecord):
            ((key, array),) = record.items()
            header[_ARRAYS] = {"name": name, "key": key, "dtype": array.dtype, "shape": list(array.shape)}
            body = array.data
        elif isinstance(record, MetricRecord):
            header.setdefault(_METRICS, {})[name] = dict(record)
        else:
            header.setdefault(_CONFIG, {})[name] = dict(record)
    return header, body


def from_frame(header: dict[str, Any], body: Bytes) -> RecordDict:
    """The records that :func:`to_frame` took apart."""
    content = RecordDict()
    if (told := header.get(_ARRAYS)) is not None:
        array = array_over(body, told["dtype"], told["shape"])
        record = ArrayRecord()
        # Given at once, the array would be made anew from bytes.
        record[told["key"]] = array
        content[told["name"]] = record
    for name, numbers in header.get(_METRICS, {}).items():
        content[name] = MetricRecord(numbers)
    for name, values in header.get(_CONFIG, {}).items():
        content[name] = ConfigRecord(values)
    return content
