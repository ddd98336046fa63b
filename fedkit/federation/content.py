"""The digest of a reply's content: the same at the site that sends it and at the coordinator that receives it."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, RecordDict

from fedkit.storage.mapped import slices

_DOMAIN = b"fedkit-content-1\n"


def content_digest(content: RecordDict) -> tuple[str, int]:
    """SHA-256 over everything in a message's content, hex, and its size in bytes.

    Covers every record's name and kind, each array's name, type, shape and bytes, and every other value with its type.

    >>> from fedkit.federation import wire
    >>> from fedkit.types import ClientUpdate
    >>> one, two = (wire.pack_update(ClientUpdate("north", np.full(2, x, np.float32), 5.0)) for x in (1, 2))
    >>> content_digest(one) == content_digest(one), content_digest(one)[0] == content_digest(two)[0]
    (True, False)
    """
    found, size = hashlib.sha256(_DOMAIN), 0
    for name in sorted(content):
        record = content[name]
        plain: Any
        arrays = []
        if isinstance(record, ArrayRecord):
            arrays = list(record.values())
            plain = [[key, a.dtype, list(a.shape), a.stype, len(a.data)] for key, a in record.items()]
        else:
            plain = [[key, _plain(value)] for key, value in sorted(record.items())]
        head = json.dumps([name, type(record).__name__, plain]).encode()
        found.update(len(head).to_bytes(8, "little") + head)
        size += len(head)
        for array in arrays:
            # Of a large reply that is mapped from a file, the pages that were read are given back.
            entries = np.frombuffer(array.data, np.uint8) if len(array.data) else np.zeros(0, np.uint8)
            for part in slices(entries):
                found.update(entries[part].data)
            size += len(entries)
    return found.hexdigest(), size


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"bytes": value.hex()}
    return [_plain(each) for each in value] if isinstance(value, (list, tuple)) else value
