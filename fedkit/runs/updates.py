"""A round's updates, one of them, or a model, as one safetensors file, written without a copy of what it holds."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from fedkit.storage.mapped import slices
from fedkit.types import ClientUpdate, Float32


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
    yield _head(header) + b"".join(weights)
    for update in updates:
        delta = update.delta
        for part in slices(delta):
            yield np.ascontiguousarray(delta[part], dtype="<f4").data.cast("B")


def mapped_update(path: Path, site: str) -> Float32:
    """One update of such a file, mapped: float32 [d], read-only.

    Raises:
        OSError, ValueError, KeyError, TypeError: the file is not there, or not whole.
    """
    with path.open("rb") as file:
        (size,) = struct.unpack("<Q", file.read(8).ljust(8, b"\0"))
        if not 0 < size <= path.stat().st_size:
            raise ValueError(path)
        entry = json.loads(file.read(size))[f"delta/{site}"]
    start, end = entry["data_offsets"]
    return np.memmap(path, dtype="<f4", mode="r", offset=8 + size + start, shape=((end - start) // 4,))


def model_as_safetensors(tensors: Mapping[str, Float32], metadata: Mapping[str, str]) -> Iterator[bytes | memoryview]:
    """The parts of a file with named float32 parameters.

    Args:
        metadata: text to be found in the file's header.
    """
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    end = 0
    for name, values in tensors.items():
        size = 4 * values.size
        header[name] = {"dtype": "F32", "shape": list(values.shape), "data_offsets": [end, end + size]}
        end += size
    yield _head(header)
    for values in tensors.values():
        yield np.ascontiguousarray(values, dtype="<f4").reshape(-1).view(np.uint8).data


def _head(header: Mapping[str, object]) -> bytes:
    text = json.dumps(header).encode()
    # The format wants the data on a multiple of 8.
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text
