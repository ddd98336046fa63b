"""What a site commits to its ledger, as bytes: arrays in safetensors, which runs no code and checks every length.

The same arrays give the same bytes. What is read back was verified against the ledger's chain; it is checked all the
same, because the bytes may be of another kind of reply, or of another version.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from fedkit.errors import PrivacyError
from fedkit.types import ClientUpdate, SiteState

Arrays = Mapping[str, NDArray[Any]]
_DELTA, _WEIGHT = "delta", "weight"
_TYPES = ("float32", "float64", "int64")


def update_to_bytes(update: ClientUpdate) -> bytes:
    """A site's update as bytes; the site's name stays out, since each site has a ledger of its own.

    Raises:
        PrivacyError: FK352, metrics, which nothing charges, or arrays that are none of an update.
    """
    if update.metrics:
        raise PrivacyError(
            f"the update carries metrics ({', '.join(update.metrics)}), which no event charges",
            code="FK352",
            remedy="release metrics as a charged evaluation",
        )
    arrays: Arrays = {_DELTA: update.delta, _WEIGHT: np.array([update.weight], dtype=np.float64)}
    _check_update(arrays)
    return arrays_to_bytes(arrays)


def update_from_bytes(data: bytes, site: str) -> ClientUpdate:
    """The update that :func:`update_to_bytes` made bytes of.

    Raises:
        PrivacyError: FK352, the bytes are none.
    """
    arrays = arrays_from_bytes(data)
    _check_update(arrays)
    return ClientUpdate(site, arrays[_DELTA], float(arrays[_WEIGHT][0]))


def state_to_bytes(state: SiteState) -> bytes:
    """What a site keeps from round to round, as bytes.

    Raises:
        PrivacyError: FK352, an array that is not float32.
    """
    _check_state(state)
    return arrays_to_bytes(state)


def state_from_bytes(data: bytes) -> SiteState:
    """The state that :func:`state_to_bytes` made bytes of; no bytes are no state.

    Raises:
        PrivacyError: FK352, the bytes are none.
    """
    arrays = arrays_from_bytes(data) if data else {}
    _check_state(arrays)
    return arrays


def arrays_to_bytes(arrays: Arrays) -> bytes:
    """Named arrays of float32, float64 or int64, of any shape, as bytes.

    Raises:
        PrivacyError: FK352, another type, or a name that is reserved.

    >>> data = arrays_to_bytes({"histogram": np.array([[3, 1], [0, 2]])})
    >>> arrays_from_bytes(data)["histogram"].tolist()
    [[3, 1], [0, 2]]
    """
    for name, array in arrays.items():
        if str(array.dtype) not in _TYPES:
            raise _unusable(f"{name} is of type {array.dtype}, not one of {', '.join(_TYPES)}")
        if name == "__metadata__":
            raise _unusable("the name __metadata__ is reserved")
    return bytes(save({name: np.array(array, order="C") for name, array in arrays.items()}))


def arrays_from_bytes(data: bytes) -> dict[str, NDArray[Any]]:
    """The arrays that :func:`arrays_to_bytes` made bytes of, as copies.

    Raises:
        PrivacyError: FK352, the bytes are none.
    """
    try:
        found = {name: np.array(array) for name, array in load(data).items()}
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise _unusable(f"they hold no arrays ({type(error).__name__})") from error
    for name, array in found.items():
        if str(array.dtype) not in _TYPES:
            raise _unusable(f"{name} is of type {array.dtype}")
    return found


def _check_update(arrays: Arrays) -> None:
    if set(arrays) != {_DELTA, _WEIGHT}:
        raise _unusable(f"they hold {', '.join(sorted(arrays)) or 'nothing'}, not an update and its weight")
    delta, weight = arrays[_DELTA], arrays[_WEIGHT]
    if delta.dtype != np.float32 or delta.ndim != 1 or not np.isfinite(delta).all():
        raise _unusable(f"the update is {delta.dtype} of shape {delta.shape}, not flat finite float32")
    if weight.dtype != np.float64 or weight.shape != (1,) or not (np.isfinite(weight[0]) and weight[0] > 0):
        raise _unusable("the weight is not one positive float64")


def _check_state(state: Arrays) -> None:
    for name, array in state.items():
        if array.dtype != np.float32:
            raise _unusable(f"the state {name} is {array.dtype}, not float32")


def _unusable(why: str) -> PrivacyError:
    return PrivacyError(f"the bytes are no reply that a site commits: {why}", code="FK352")
