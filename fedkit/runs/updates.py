"""A round's updates as one safetensors file, written without holding all of them."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Sequence

import numpy as np

from fedkit.types import ClientUpdate


def as_safetensors(updates: Sequence[ClientUpdate]) -> Iterator[bytes | memoryview]:
    """The parts of the file: ``weight/SITE`` float64 [1] for every site, then ``delta/SITE`` float32 [d].

    Args:
        updates: may map each update from a file when it is asked for.
    """
    header: dict[str, object] = {}
    end, weights = 0, []
    for update in updates:
        header[f"weight/{update.site}"] = {"dtype": "F64", "shape": [1], "data_offsets": [end, end + 8]}
        weights.append(struct.pack("<d", update.weight))
        end += 8
    for update in updates:
        size = 4 * len(update.delta)
        header[f"delta/{update.site}"] = {
            "dtype": "F32",
            "shape": [len(update.delta)],
            "data_offsets": [end, end + size],
        }
        end += size
    text = json.dumps(header).encode()
    # The format wants the data on a multiple of 8.
    text += b" " * (-len(text) % 8)
    yield struct.pack("<Q", len(text)) + text + b"".join(weights)
    for update in updates:
        yield np.ascontiguousarray(update.delta, dtype="<f4").data.cast("B")
