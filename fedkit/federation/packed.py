"""One flat array in a message: packed and read without copies of a large model."""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, RecordDict
from numpy.typing import NDArray

from fedkit.errors import FederationError
from fedkit.storage.mapped import slices
from fedkit.types import Float32

_ARRAY = "parameters"
_MOST_HEADER = 2**16 + 10


@contextmanager
def readable() -> Iterator[None]:
    """Turn whatever reading a reply raises into a FederationError (FK516)."""
    # A reply is foreign input: whatever it makes a parser raise is that site's failure, never the run's.
    try:
        yield
    except FederationError:
        raise
    except Exception as error:
        raise FederationError(f"the reply cannot be read ({type(error).__name__})", code="FK516") from None


def pack_array(array: NDArray[Any]) -> ArrayRecord:
    """One flat array, as every message carries it."""
    record = ArrayRecord()
    # Given as a dict it would be made twice.
    record[_ARRAY] = _packed(array)
    return record


def unpack_array(content: RecordDict) -> Float32:
    """The one flat float32 array of a message, a read-only view of its bytes.

    Raises:
        FederationError: FK515, FK516.
    """
    return flat(content, "arrays", "float32", copy=False)


def array_over(data: Any, dtype: str, shape: Iterable[int], stype: str = "numpy.ndarray") -> Array:
    """Flower's Array over a buffer that is not copied: Flower takes nothing but bytes, and reads views of them."""
    array = Array(dtype, tuple(int(n) for n in shape), stype, b"")
    array.__dict__["data"] = data
    return array


def _packed(array: NDArray[Any]) -> Array:
    """The same bytes as ``Array(array)`` makes, without its two further copies of a large model."""
    data = b"".join([_header(array.dtype, array.shape), np.ascontiguousarray(array).data.cast("B")])
    return Array(str(array.dtype), tuple(array.shape), "numpy.ndarray", data)


@functools.lru_cache(maxsize=64)
def _header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    """What stands before the numbers; a round's updates share it, and it takes longer than a small model's numbers."""
    header = io.BytesIO()
    described = np.lib.format.header_data_from_array_1_0(np.broadcast_to(np.zeros((), dtype), shape))
    np.lib.format.write_array_header_1_0(header, described | {"fortran_order": False})
    return header.getvalue()


def squares(values: Float32) -> float:
    """The sum of a flat array's squares in float32: infinite beyond its range, NaN where a NaN is in it."""
    with np.errstate(over="ignore", invalid="ignore"):
        return float(np.dot(values, values))


def all_finite(values: Float32) -> bool:
    """Whether a flat array holds neither NaN nor infinity, without a copy of its size."""
    # No such number leaves a sum of squares finite; one that is not may only have left float32's range.
    if math.isfinite(squares(values)):
        return True
    return all(bool(np.isfinite(values[part]).all()) for part in slices(values))


def flat(content: RecordDict, key: str, dtype: str, *, copy: bool = True) -> NDArray[Any]:
    """The one flat array of a message, checked before a byte of it is copied.

    Args:
        key: of the ArrayRecord.
        copy: else it is a read-only view of the message's own bytes.

    Raises:
        FederationError: FK515, not one packed array; FK516, not of numpy, another type, bytes that are none.
    """
    record = content.get(key)
    if not isinstance(record, ArrayRecord) or list(record) != [_ARRAY]:
        raise FederationError("the message does not carry one packed array", code="FK515")
    array = record[_ARRAY]
    if array.stype != "numpy.ndarray" or array.dtype != dtype or len(array.shape) != 1:
        raise FederationError(f"the packed array is not a flat {dtype} array of numpy", code="FK516")
    found = _entries(array, np.dtype(dtype))
    return found.copy() if copy else found


@readable()
def _entries(array: Array, dtype: np.dtype[Any]) -> NDArray[Any]:
    # numpy.load would allocate whatever size the header claims, so header and length are compared before any copy.
    data, size = array.data, array.shape[0]
    usual = _header(dtype, (int(size),)) if 0 <= size < 2**40 else b""
    if usual and data[: len(usual)] == usual and len(data) == len(usual) + dtype.itemsize * size:
        return np.frombuffer(data, dtype, size, len(usual))
    file = io.BytesIO(data[:_MOST_HEADER])
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError
    shape, _, found = np.lib.format.read_array_header_1_0(file)
    start = file.tell()
    if shape != (size,) or found != dtype or len(data) != start + dtype.itemsize * size:
        raise ValueError
    return np.frombuffer(data, dtype, size, start)
