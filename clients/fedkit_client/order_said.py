"""What an order that nobody has verified says of itself, as far as it is what an order may say."""

from __future__ import annotations

import json
import math
from typing import Any

from fedkit.federation.job import NAME
from fedkit.federation.request import Request


def shown_order(request: Request, kind: str) -> tuple[str, str, int]:
    """What an order that nobody has verified says of itself, as far as it is what an order may say; never raises."""
    try:
        payload = _payload(request)
        said, run, number = payload["kind"], payload["run"], payload["round"]
    except Exception:
        return kind, "", 0
    # A run's end comes as a message of another kind, and statistics as Flower's query.
    return (
        said if said == "end" or (said, kind) == ("statistics", "query") else kind,
        run if isinstance(run, str) and NAME.fullmatch(run) else "",
        number if type(number) is int and 0 <= number < 2**31 else 0,
    )


def expires(request: Request) -> float:
    """The end that such an order names, seconds since the epoch; without one, never; never raises."""
    try:
        said = _payload(request)["expires_at"]
    except Exception:
        return math.inf
    return said if type(said) is int and 0 <= said < 2**63 else math.inf


def _payload(request: Request) -> Any:
    return json.loads(json.loads(request.order)["payload"])
