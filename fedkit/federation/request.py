"""A deployed coordinator's message to a site: an order, the job that it belongs to, the keyring, and the model."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
from flwr.app import ConfigRecord, RecordDict

from fedkit.errors import FederationError
from fedkit.federation import strict_json, wire
from fedkit.federation.packed import pack_array, unpack_array
from fedkit.types import Float32

_OPTIONAL = {"head", "enrolments"}


@dataclass(frozen=True)
class Request:
    """What has arrived, of the right types and sizes; nothing of it is verified yet.

    Attributes:
        order, job: texts of signed envelopes.
        keyring: the same, in order.
        parameters: float32 [d], the model; empty for an ``end``.
        head: text of the signed head of the coordinator's audit log; empty where it tells none.
        enrolments: the coordinator's statements about the job's sites; without them no other site counts.
    """

    order: str
    job: str
    keyring: tuple[str, ...]
    parameters: Float32
    head: str = ""
    enrolments: tuple[str, ...] = ()


def pack_request(request: Request) -> RecordDict:
    """The content of a message.

    >>> content = pack_request(Request("{}", "{}", ("{}",), np.zeros(3, np.float32)))
    >>> unpack_request(content, most_parameters=3).keyring
    ('{}',)
    """
    config = ConfigRecord(
        {
            "wire": wire.WIRE_VERSION,
            "order": request.order,
            "job": request.job,
            "keyring": json.dumps(list(request.keyring)),
            **({"head": request.head} if request.head else {}),
            "enrolments": json.dumps(list(request.enrolments)),
        }
    )
    return RecordDict({"arrays": pack_array(request.parameters), "config": config})


def unpack_request(content: RecordDict, *, most_parameters: int) -> Request:
    """Read a message's content.

    Raises:
        FederationError: FK540, entries that are missing, unknown, too large or of another type; FK547, another wire
            version; FK515, FK516, FK545, not one flat float32 array of at most ``most_parameters`` entries.
    """
    config = content.get("config")
    entries = dict(config) if isinstance(config, ConfigRecord) else {}
    if set(content) != {"arrays", "config"} or set(entries) - _OPTIONAL != {"wire", "order", "job", "keyring"}:
        raise FederationError("the message has other entries than wire, order, job, keyring", code="FK540")
    version = entries["wire"]
    if type(version) is not int or version not in (wire.WIRE_VERSION, wire.WIRE_VERSION - 1):
        raise FederationError(
            f"the message speaks wire version {version!r}; this site speaks {wire.WIRE_VERSION} and the one before",
            code="FK547",
            remedy="update the older side",
        )
    order, job, head = entries["order"], entries["job"], entries.get("head", "")
    if not (isinstance(order, str) and isinstance(job, str) and isinstance(head, str)):
        raise FederationError("an entry of the message is no text", code="FK540")
    statements = _texts(entries["keyring"], "keyring")
    enrolments = _texts(entries.get("enrolments", "[]"), "list of enrolments")
    parameters = unpack_array(content)
    if len(parameters) > most_parameters:
        raise FederationError(
            f"the message holds {len(parameters):,} parameters, at most {most_parameters:,} are taken", code="FK545"
        )
    return Request(order, job, statements, np.asarray(parameters), head, enrolments)


def _texts(entry: object, what: str) -> tuple[str, ...]:
    if not isinstance(entry, str):
        raise FederationError("an entry of the message is no text", code="FK540")
    found = strict_json.read(entry, f"the {what}")
    if not isinstance(found, list) or not all(isinstance(each, str) for each in found):
        raise FederationError(f"the {what} is no list of texts", code="FK540")
    return tuple(found)
