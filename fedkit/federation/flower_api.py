"""Flower's HTTP API over a link, and what is to be seen in its requests before they are passed on."""

from __future__ import annotations

import logging
from base64 import b64decode
from collections.abc import MutableMapping
from typing import Any

from fedkit.federation.flower_arrays import has_more_parts
from fedkit.federation.flower_link import Link

from flwr.proto.fleet_pb2 import (  # isort: skip
    ActivateNodeRequest,
    PullMessagesRequest,
    PullMessagesResponse,
    PushMessagesRequest,
)
from flwr.common.constant import Status
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    ConfirmMessageReceivedResponse,
    PullObjectRequest,
    PullObjectResponse,
    PushObjectRequest,
)
from flwr.server.superlink.utils import check_abort
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER
from flwr.superlink.dependencies.linkstate import get_linkstate
from flwr.superlink.routers.fleet.node_auth import authenticate_node
from flwr.superlink.servicer.fleet import fleet_handlers
from google.protobuf.message import DecodeError
from starlette.requests import Request

_LOG = logging.getLogger("fedkit.link")

MOST_PARTS = 4096
"""Objects of one reply: 5 MiB each, so a bound on the size of a model too."""


def superlink_app(link: Link) -> Any:
    """Flower's HTTP API over a link, as an ASGI application: Fleet, Control and Runtime.

    It asks nobody but nodes who they are: what stands in front of it decides who may reach Control and Runtime.
    """
    from flwr.common.constant import ISOLATION_MODE_PROCESS, TRANSPORT_TYPE_GRPC_RERE
    from flwr.superlink.auth_plugin import NoOpControlAuthnPlugin
    from flwr.superlink.cli.flower_superlink import SuperLinkLifespan
    from flwr.superlink.config_loader import SuperLinkLifespanConfig
    from flwr.superlink.main import create_app

    config = SuperLinkLifespanConfig(
        control_address="127.0.0.1:0",
        health_server_address=None,
        host="127.0.0.1",
        port=0,
        insecure=False,
        certificates=None,
        superexec_auth_secret=None,
        authn_plugin=NoOpControlAuthnPlugin(),
        event_log_plugin=None,
        fleet_event_log_plugin=None,
        enable_event_log=False,
        artifact_provider=None,
        enable_supernode_auth=True,
        fleet_api_type=TRANSPORT_TYPE_GRPC_RERE,
        fleet_api_address=None,
        simulation=False,
        ssl_ca_certfile=None,
        ssl_certfile=None,
        ssl_keyfile=None,
        database=":memory:",
        # Nothing is started beside this process: no run of ours has code to run.
        isolation=ISOLATION_MODE_PROCESS,
        runtime_dependency_install=False,
    )
    app = create_app(config, SuperLinkLifespan)
    link.state.federation_manager.linkstate = link.state
    app.state.linkstate_factory.state_instance = link.state
    return app


def node_of_pull(body: bytes) -> int:
    """The node that a PullMessages request speaks for; 0 for a body that is none."""
    request = PullMessagesRequest()
    try:
        request.ParseFromString(body)
    except DecodeError:
        return 0
    return int(request.node.node_id)


def is_empty_pull(body: bytes) -> bool:
    """Whether a PullMessages response brings no message."""
    response = PullMessagesResponse()
    response.ParseFromString(body)
    return not response.messages_list


def push_problem(body: bytes) -> str:
    """Why a PushMessages request is refused, or nothing: a reply must bear its sender's own name and be of sane size.

    Flower checks that a reply comes from the node that was asked, by a number that the sender writes itself.
    """
    request = PushMessagesRequest()
    try:
        request.ParseFromString(body)
    except DecodeError:
        return "the request cannot be read"
    if len(request.messages_list) != 1 or len(request.message_object_trees) != 1:
        return "a request pushes one message"
    if request.messages_list[0].metadata.src_node_id != request.node.node_id:
        return "a reply must come from the node that it names"
    if has_more_parts(request.message_object_trees[0], MOST_PARTS):
        return f"a reply has at most {MOST_PARTS} parts"
    return ""


_OVER = [Status.PENDING, Status.STARTING, Status.FINISHED]
_CONTENT = PullObjectResponse.DESCRIPTOR.fields_by_name["object_content"].number << 3 | 2

OBJECT_PATHS = ("/v1/fleet/push-object", "/v1/fleet/pull-object")
_PULL_OBJECT, _CONFIRM = "/v1/fleet/pull-object", "/v1/fleet/confirm-message-received"


def answer_object(app: Any, scope: MutableMapping[str, Any], body: bytes, node: int) -> tuple[bytes, ...] | None:
    """Answer a node's request to bring or fetch one part of a message, past Flower's layers of middleware.

    They copy 5 MiB half a dozen times. What they check is checked here by the same functions: that the run goes on,
    that the part was announced and is what its name says.

    Args:
        app: what :func:`superlink_app` gave.
        node: that the request is from, see :func:`node_of`.

    Returns:
        The response in pieces, or None where the request is not plainly good: Flower then says what is wrong with it.
    """
    push = str(scope["path"]).endswith("push-object")
    proto: Any = PushObjectRequest() if push else PullObjectRequest()
    try:
        proto.ParseFromString(body)
        if proto.node.node_id != node:
            return None
        state = get_linkstate(Request({**scope, "app": app}))
        if push:
            return (fleet_handlers.push_object(proto, state).SerializeToString(),)
        return (
            None if check_abort(proto.run_id, _OVER, state) else _found(state.get_object(proto.run_id, proto.object_id))
        )
    except Exception:
        return None


def answer_foreign(app: Any, scope: MutableMapping[str, Any], body: bytes, node: int) -> bytes | None:
    """The answer to a node's request about a message, or part of one, that is not its own.

    Flower's store knows parts by their SHA-256 and tells everybody: a site could ask for what it guesses of another's
    message. Here it hears of such a part what it hears of one that nobody has.

    Returns:
        The answer; None where the request is about the node's own, is about none, or cannot be read.
    """
    path = str(scope["path"])
    if path not in (_PULL_OBJECT, _CONFIRM):
        return None
    pull = path == _PULL_OBJECT
    proto: Any = PullObjectRequest() if pull else ConfirmMessageReceivedRequest()
    try:
        proto.ParseFromString(body)
        state: Any = get_linkstate(Request({**scope, "app": app}))
        if proto.node.node_id != node or check_abort(proto.run_id, _OVER, state):
            return None
        handed = state.link.handed
        if pull and handed.has_part(node, proto.run_id, proto.object_id):
            return None
        if not pull and handed.is_message(node, proto.message_object_id):
            return None
    except DecodeError:
        return None
    except Exception:
        # A run that nobody knows; whatever else it is, nothing is told.
        _LOG.debug("a request for a message cannot be judged", exc_info=True)
    return bytes((PullObjectResponse() if pull else ConfirmMessageReceivedResponse()).SerializeToString())


def is_known(app: Any, scope: MutableMapping[str, Any], node: int) -> bool:
    """Whether the key that a request bears is still this node's: it may have been revoked since :func:`node_of`."""
    request = Request({**scope, "app": app, "state": {}})
    try:
        key = b64decode(request.headers[FLEET_HTTP_PUBLIC_KEY_HEADER], validate=True)
        return bool(get_linkstate(request).get_node_id_by_public_key(key) == node)
    except Exception:
        return False


def _found(content: bytes | None) -> tuple[bytes, ...] | None:
    """A PullObjectResponse without a copy of what it holds: that is its last field, and the bytes end it."""
    if not content:
        return None
    head = PullObjectResponse(object_found=True, object_available=True).SerializeToString()
    size, length = len(content), bytearray()
    while size > 0x7F:
        length.append(size & 0x7F | 0x80)
        size >>= 7
    length.append(size)
    return head + bytes((_CONTENT,)) + length, content


def node_of(app: Any, scope: MutableMapping[str, Any]) -> int | None:
    """The node whose key a request's headers bear, with a fresh signature by it; None if nobody knows it.

    Flower asks that too, and more; but only once the body is in memory.
    """
    request = Request({**scope, "app": app, "state": {}})
    try:
        key = b64decode(request.headers[FLEET_HTTP_PUBLIC_KEY_HEADER], validate=True)
        node = get_linkstate(request).get_node_id_by_public_key(key)
        if node is None:
            return None
        # What the claim is about is compared when the body is there.
        request.state.protobuf_request = ActivateNodeRequest(public_key=key)
        authenticate_node(request)
    except Exception:
        return None
    return int(node)
