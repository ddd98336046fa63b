"""The compiled library of this machine, if there is one."""

from __future__ import annotations

import ctypes
import functools
import os

from fedkit.native.compiling import BASE, HERE, WIDE, sources

OFF = "FEDKIT_NATIVE"
"""Set this variable of the environment to ``off`` to do without the library."""

_POINTER, _WHOLE, _REAL = ctypes.c_void_p, ctypes.c_int64, ctypes.c_double
_SIGNATURES: dict[str, tuple[type | None, tuple[type, ...]]] = {
    "fedkit_convolve": (None, (*[_POINTER] * 6, _WHOLE, *[_POINTER] * 3)),
    "fedkit_convolve_back": (None, (*[_POINTER] * 6, _WHOLE, *[_POINTER] * 6)),
    "fedkit_gaussian": (ctypes.c_int, (_POINTER, *[_WHOLE] * 3, _REAL, _POINTER, _POINTER, _WHOLE, _POINTER)),
    "fedkit_has_aes": (ctypes.c_int, ()),
    "fedkit_unpaired": (None, ()),
    "fedkit_keystream": (None, (_POINTER, _WHOLE, _WHOLE, _POINTER, _WHOLE)),
    "fedkit_private": (ctypes.c_int, (_POINTER, _WHOLE, *[_POINTER] * 9)),
    "fedkit_private_memory": (_WHOLE, (_POINTER, _WHOLE)),
    "fedkit_sites": (ctypes.c_int, (_POINTER, _WHOLE, _POINTER, _WHOLE, _WHOLE, *[_POINTER] * 8)),
    "fedkit_tap_sum": (_WHOLE, (_POINTER, _WHOLE, _POINTER, _WHOLE, _WHOLE, *[_REAL] * 4, _POINTER)),
    "fedkit_tap_sum_memory": (_WHOLE, (_POINTER, _WHOLE, _WHOLE)),
    "fedkit_state": (_WHOLE, (_POINTER, _WHOLE)),
    "fedkit_plain": (
        ctypes.c_int,
        (_POINTER, _WHOLE, _WHOLE, *[_POINTER] * 5, _WHOLE, _WHOLE, _REAL, _REAL, _WHOLE, _POINTER, _POINTER),
    ),
    "fedkit_plain_memory": (_WHOLE, (_POINTER, _WHOLE, _WHOLE)),
}


@functools.cache
def library() -> ctypes.CDLL | None:
    """What was compiled for this processor, its functions declared; None where there is nothing that can be used.

    A library whose C files have changed since is not used.
    """
    if os.environ.get(OFF) == "off":
        return None
    base = _opened(BASE)
    if base is None:
        return None
    base.fedkit_wide.argtypes = ()
    wide = _opened(WIDE) if base.fedkit_wide() else None
    found = wide or base
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(found, name)
        function.argtypes, function.restype = arguments, result
    return found


def _opened(name: str) -> ctypes.CDLL | None:
    try:
        found = ctypes.CDLL(str(HERE / name))
        found.fedkit_sources.restype = ctypes.c_char_p
        return found if found.fedkit_sources().decode() == sources() else None
    except (OSError, AttributeError):
        return None
