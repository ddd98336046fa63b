"""What Ray raises, in a line that names what to do."""

from __future__ import annotations

import sys

from fedkit.errors import FederationError


def refused(address: str, error: Exception, version: str) -> FederationError:
    """Why a cluster could not be joined.

    Args:
        version: of this machine's Ray.
    """
    text = " ".join(f"{error} {error.__cause__ or ''}".split())
    if "ersion mismatch" in text:
        here = f"this is Ray {version} on Python {sys.version_info.major}.{sys.version_info.minor}"
        return FederationError(
            f"the Ray at {address} is of another version than this one: {text[:300]}; {here}",
            code="FK552",
            remedy="install the same Ray and Python at both ends",
        )
    if "uthenticat" in text or "token" in text.lower():
        return FederationError(
            f"the Ray at {address} asks for a token that is not this one's",
            code="FK551",
            remedy="set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH as its owner says",
        )
    told = f"no Ray can be joined at {address}" if address != "auto" else "no Ray runs on this machine"
    # Ray quotes a traceback in its own text; its last line is what it met.
    why = last_line(error.__cause__ or error).rpartition("ray.exceptions.")[2]
    return FederationError(
        f"{told}: {why}", code="FK551", remedy="start one with `ray start --head`, or set federation.address=null"
    )


def last_line(error: BaseException) -> str:
    """The line of an error that says most: Ray draws frames around its own."""
    text = str(error).partition("====")[0] or str(error)
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(error).__name__
