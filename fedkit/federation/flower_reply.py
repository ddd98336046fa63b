"""How a node sends an answer over Flower's Fleet API: announced, part by part, confirmed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

from fedkit.federation import flower_internals  # noqa: F401  # first: it switches telemetry off

from flwr.app import Error, Message, RecordDict  # isort: skip
from flwr.app.message import remove_content_from_message
from flwr.common.serde import message_to_proto
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, PushObjectRequest
from flwr.proto.node_pb2 import Node
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    no_object_id_recompute,
)
from flwr.supernode.fleet_http_client import FleetHttpClient

from fedkit.errors import DeploymentError

Release = Callable[[RecordDict | str], AbstractContextManager[None]]
"""Stands around each thing that leaves of a reply; raises to keep it in."""


def send_reply(
    client: FleetHttpClient,
    node: Node,
    request: Message,
    reply: RecordDict | str,
    seconds: float,
    *,
    pace: Callable[[int], None],
    beat: Callable[[], None],
    release: Release,
) -> int:
    """Send a reply, or a code in its place; returns the bytes of its parts.

    Args:
        pace: called with the number of bytes before they are sent.
        beat: called after each part.

    Raises:
        DeploymentError: FK756, a part was not stored.
        FedkitError: whatever ``release`` raises; parts that have left stay where they are, and the request, which is
            not confirmed, comes again.
    """
    content: Any = Error(code=2, reason=reply) if isinstance(reply, str) else reply
    message = Message(content, reply_to=request)
    sent, run_id = 0, message.metadata.run_id
    with no_object_id_recompute():
        message.metadata.__dict__["_message_id"] = message.object_id
        parts: Mapping[str, Any] = get_all_nested_objects(message)
        announced = PushMessagesRequest(
            node=node,
            messages_list=[message_to_proto(remove_content_from_message(message))],
            message_object_trees=[get_object_tree(message)],
            clientapp_runtime_list=[seconds],
        )
        # The names of parts are hashes of what they hold.
        with release(reply):
            reply_to = client.PushMessages(announced)
        wanted = set(reply_to.objects_to_push)
        for object_id, part in parts.items():
            if object_id not in wanted:
                continue
            content = part.deflate()
            pace(len(content))
            pushing = PushObjectRequest(
                node=node,
                run_id=run_id,
                object_id=object_id,
                object_content=content,
                session_id=reply_to.session_id,
            )
            with release(reply):
                pushed = client.PushObject(pushing)
            if not pushed.stored:
                # Unconfirmed, the request comes again, and the ledger's reply goes out anew.
                raise DeploymentError("the coordinator has not stored a part of the answer", code="FK756")
            sent += len(content)
            beat()
    client.ConfirmMessageReceived(
        ConfirmMessageReceivedRequest(node=node, run_id=run_id, message_object_id=request.metadata.message_id)
    )
    return sent
