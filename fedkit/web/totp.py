"""The second factor: codes of six digits by the time (RFC 6238), as every authenticator app makes them."""

from __future__ import annotations

import hmac
import math
from functools import cache
from typing import TYPE_CHECKING, Any

from fedkit.web.passwords import missing

if TYPE_CHECKING:
    from pyotp import TOTP

STEP = 30
_AROUND = (0, -1, 1)
"""A phone's clock may be one step off."""


def new_secret() -> str:
    """A secret of 160 bits, in base32."""
    return str(_library().random_base32())


def uri(secret: str, name: str, issuer: str) -> str:
    """The secret as authenticator apps take it."""
    return _of(secret).provisioning_uri(name=name, issuer_name=issuer)


def step_of(secret: str, code: str, now: float) -> int | None:
    """The number of the time step whose code this is; None where it is none of now.

    The caller must take no step that is not later than the last one it took: so each code counts once.
    """
    here, found = math.floor(now) // STEP, None
    # All are looked at, whichever fits.
    for around in _AROUND:
        if hmac.compare_digest(_of(secret).generate_otp(here + around).encode(), code.encode("utf-8", "replace")):
            found = here + around
    return found


@cache
def decoy() -> str:
    """A secret that nobody has."""
    return new_secret()


def _of(secret: str) -> TOTP:
    found: TOTP = _library().TOTP(secret, interval=STEP)
    return found


def _library() -> Any:
    try:
        import pyotp
    except ModuleNotFoundError as error:
        raise missing(error) from None
    return pyotp
