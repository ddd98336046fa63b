"""An order: what the coordinator asks of a site for one round of a job, signed, with the digest of the model.

::

    FK540 to FK543, FK547  as in `envelope`; FK542 also for a round that the job does not have
    FK545  parameters whose digest or size is not the order's
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from fedkit.errors import FederationError
from fedkit.federation import strict_json
from fedkit.federation.envelope import WIRE, Signed, check_times, read, seal, unseal
from fedkit.federation.job import SKEW, Job
from fedkit.storage.keys import SigningKey
from fedkit.types import Float32

Kind = Literal["train", "evaluate", "statistics", "end"]
MOST_MU = 1e4
"""Largest proximal_mu of an order, and of a request to a private site."""
LONGEST_LIFE = 31 * 86_400.0
TOO_OFTEN = "FK581"
"""The code of a site that has begun a round so often, and never answered, that it begins it no more."""

_DIGEST = re.compile(r"[0-9a-f]{64}")
_FIELDS: Mapping[str, type | tuple[type, ...]] = {
    "wire": int, "run": str, "job": str, "kind": str, "round": int, "proximal_mu": strict_json.NUMBER,
    "parameters": str, "size": int, "issued_at": int, "expires_at": int,
}  # fmt: skip


@dataclass(frozen=True)
class Order:
    """An order whose signature, job and times were found good.

    Attributes:
        run: the job's.
        job: the job's digest.
        kind: ``train``, ``evaluate`` or ``end``, which frees what remains of the run's hold; ``statistics`` for a job
            that asks for nothing else.
        round: from 1; 0 evaluates the untrained model; for an ``end`` the last round that was done, or 0; 0 for
            ``statistics``.
        parameters: SHA-256 of the model's little-endian float32 bytes, hex.
        size: number of the model's parameters; 0 for an ``end`` and ``statistics``.
    """

    run: str
    job: str
    kind: Kind
    round: int
    proximal_mu: float
    parameters: str
    size: int
    issued_at: int
    expires_at: int
    signed: Signed


def make_order(
    job: Job, kind: Kind, number: int, parameters: Float32, key: SigningKey, now: float, *,
    lifetime: float, proximal_mu: float = 0.0, digest: str | None = None,
) -> Signed:  # fmt: skip
    """Sign an order with the coordinator's key.

    Args:
        number: the round.
        parameters: float32 [d]; empty for an ``end`` and ``statistics``.
        lifetime: seconds for which a site may take it.
        digest: :func:`parameters_digest` of them, if it is known.

    Raises:
        FederationError: FK540, FK542, FK543, whatever `open_order` would refuse.
    """
    values = {
        "run": job.run,
        "job": job.digest,
        "kind": kind,
        "round": number,
        "proximal_mu": float(proximal_mu),
        "parameters": digest or parameters_digest(parameters),
        "size": len(parameters),
        "issued_at": int(now),
        # An order outlives its job by nothing.
        "expires_at": min(int(now + lifetime), job.expires_at),
    }
    signed = seal("order", values, key)
    _order(signed, {"wire": WIRE, **values}, job, now)
    return signed


def open_order(text: str, coordinator: bytes, job: Job, now: float) -> Order:
    """Read and verify an order.

    Args:
        coordinator: the raw key that the keyring names.
        job: the opened job that came with it.

    Raises:
        FederationError: see the module.

    Guarantee: the coordinator signed exactly this order for exactly this job.
    """
    signed = read(text)
    return _order(signed, unseal(signed, "order", coordinator), job, now)


def check_parameters(order: Order, parameters: Float32) -> None:
    """Refuse parameters that the order was not signed for.

    Raises:
        FederationError: FK545.
    """
    if len(parameters) != order.size or parameters_digest(parameters) != order.parameters:
        raise FederationError(
            f"the {len(parameters):,} parameters are not the {order.size:,} that the order was signed for",
            code="FK545",
            remedy="send the array that was signed",
        )


def parameters_digest(parameters: Float32) -> str:
    """SHA-256 of the little-endian float32 bytes, hex, whatever the machine.

    >>> parameters_digest(np.zeros(2, np.float32)) == parameters_digest(np.zeros(2, ">f4"))
    True
    """
    return hashlib.sha256(np.ascontiguousarray(parameters, dtype="<f4").data).hexdigest()


def _order(signed: Signed, payload: Mapping[str, Any], job: Job, now: float) -> Order:
    values = strict_json.fields(dict(payload), _FIELDS, "the order")
    if (values["run"], values["job"]) != (job.run, job.digest):
        raise FederationError("the order is for another job", code="FK542", remedy="send the job it was signed for")
    check_times("order", values["issued_at"], values["expires_at"], now, longest=LONGEST_LIFE, skew=SKEW)
    kind, number, rounds = values["kind"], values["round"], job.config.federation.num_rounds
    if kind not in get_args(Kind):
        raise strict_json.unreadable("the order", "is neither train, evaluate, statistics nor end")
    # What was signed as a question trains nothing, and a run answers none.
    if kind != "end" and (kind == "statistics") != (job.statistics is not None):
        raise FederationError(f"the order is to {kind}, which its job does not ask for", code="FK542")
    if kind == "statistics":
        rounds = 0
    if not (1 if kind == "train" else 0) <= number <= rounds:
        raise FederationError(
            f"round {number} is not one of the job's {rounds}", code="FK542", remedy="submit a new job"
        )
    mu, size = values["proximal_mu"], values["size"]
    if not (math.isfinite(mu) and 0 <= mu <= MOST_MU):
        raise strict_json.unreadable("the order", f"has a proximal_mu that is not between 0 and {MOST_MU:g}")
    if not _DIGEST.fullmatch(values["parameters"]) or size < 0 or (size == 0) != (kind in ("end", "statistics")):
        raise strict_json.unreadable("the order", "has no digest and size of parameters that fit its kind")
    found = {name: values[name] for name in _FIELDS if name not in ("wire", "proximal_mu")}
    return Order(**found, proximal_mu=float(mu), signed=signed)
