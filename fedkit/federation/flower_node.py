"""A site's end of Flower's Fleet API: everything private of flwr that a site leans on.

No FAB is ever asked for: what a site runs is installed with it. ``tests/federation/test_flower_node.py`` fails when
flwr moves.
"""

from __future__ import annotations

import ssl
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from fedkit.federation import flower_internals  # noqa: F401  # first: it switches telemetry off

import httpx  # isort: skip
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Message, RecordDict
from flwr.common.constant import HEARTBEAT_DEFAULT_INTERVAL
from flwr.common.serde import message_from_proto
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.message_pb2 import (
    ObjectTree,
    PullObjectRequest,
)
from flwr.proto.node_pb2 import Node
from flwr.proto.recorddict_pb2 import RecordDict as ProtoRecordDict
from flwr.supercore.inflatable.inflatable_object import (
    get_object_id,
)
from flwr.supercore.interceptors.http.runtime_version import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.protobuf.client import ProtobufCall, ProtobufRequestContext
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from fedkit.errors import DeploymentError, FederationError
from fedkit.federation.flower_arrays import assemble, has_more_parts
from fedkit.federation.flower_http import guard, is_over
from fedkit.federation.flower_reply import Release, send_reply
from fedkit.federation.public_codes import COMMON

WAIT_HEADER = "x-fedkit-wait"
_MOST_PARTS = 4096
HEARTBEAT_SECONDS = HEARTBEAT_DEFAULT_INTERVAL / 2


@dataclass(frozen=True)
class Received:
    """A request that has come in whole."""

    message: Message

    @property
    def kind(self) -> str:
        """The message's type: train, evaluate, query."""
        return str(self.message.metadata.message_type)


@dataclass(frozen=True)
class _Wait:
    """Asks the coordinator to hold a pull open until there is something."""

    seconds: float

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        if context.request.url.path.endswith("/pull-messages"):
            context.request.headers[WAIT_HEADER] = f"{self.seconds:g}"
        return call_next(context)


class UnreadableRequest(FederationError):
    """A request that came and cannot be read: it can be answered all the same.

    Args:
        received: the request without its content.
    """

    def __init__(self, error: FederationError, received: Received) -> None:
        super().__init__(error.message, code=error.code, remedy=error.remedy)
        self.received = received


@dataclass
class NodeConnection:
    """One node's connection; not for several threads.

    Every call raises ``httpx.HTTPError`` where the network or the coordinator fails; :meth:`activate` again after one,
    since what had been handed out is then handed out again.

    Args:
        address: host:port.
        root: the CA's certificate, PEM; no other is trusted.
        most_bytes: of one request's arrays.
        spool: folder for a request that is too large for memory.
        pace: called with the number of bytes before they are sent and after they came, to keep a bandwidth.
        refusal: the code that a request is answered with unread, or "" to read it; asked before its parts are fetched.
        release: stands around each thing that leaves of a reply.
    """

    address: str
    root: bytes
    key: ec.EllipticCurvePrivateKey
    wait: float = 20.0
    most_bytes: int = 2**31
    spool: Path = Path(tempfile.gettempdir())
    pace: Callable[[int], None] = lambda _: None
    refusal: Callable[[], str] = lambda: ""
    release: Release = lambda _: nullcontext()
    node_id: int = 0
    _client: FleetHttpClient = field(init=False)
    _beat: float = 0.0

    def __post_init__(self) -> None:
        """Open no connection yet."""
        self._make_client()

    def trust(self, root: bytes) -> None:
        """Have the next connection trust these CAs, PEM, and no other."""
        if root != self.root:
            self.close()
            self.root = root
            self._make_client()

    def _make_client(self) -> None:
        context = ssl.create_default_context(cadata=self.root.decode("ascii"))
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        self._client = FleetHttpClient(
            f"https://{self.address}",
            interceptors=[
                RuntimeVersionHttpInterceptor(component_name="SuperNode"),
                NodeAuthHttpInterceptor(self.key, self.key.public_key()),
                _Wait(self.wait),
            ],
            verify=context,
            timeout=self.wait + 20.0,
        )
        guard(self._client._client)

    @property
    def _node(self) -> Node:
        return Node(node_id=self.node_id)

    def activate(self) -> None:
        """Say that the node is there; what it had been given and did not answer comes again."""
        reply = self._client.ActivateNode(
            ActivateNodeRequest(
                public_key=public_key_to_bytes(self.key.public_key()), heartbeat_interval=HEARTBEAT_DEFAULT_INTERVAL
            )
        )
        self.node_id, self._beat = reply.node_id, time.monotonic()

    def beat(self) -> None:
        """A sign of life, if the last one is old."""
        if time.monotonic() - self._beat < HEARTBEAT_SECONDS:
            return
        self._client.SendNodeHeartbeat(
            SendNodeHeartbeatRequest(node=self._node, heartbeat_interval=HEARTBEAT_DEFAULT_INTERVAL)
        )
        self._beat = time.monotonic()

    def receive(self) -> Received | None:
        """The next request; None when the wait is over, or the run that it belongs to.

        Raises:
            UnreadableRequest: FK540, a request that is too large or whose parts are not what its name says; FK500,
                whatever else is wrong with it; whatever ``refusal`` says.
            DeploymentError: FK762, it cannot be put down in the spool.
        """
        self.beat()
        reply = self._client.PullMessages(PullMessagesRequest(node=self._node))
        if not reply.messages_list:
            return None
        # Whatever it has in place of its content: what it holds comes in objects.
        bare = message_from_proto(ProtoMessage(metadata=reply.messages_list[0].metadata, content=ProtoRecordDict()))
        try:
            if code := self.refusal():
                raise FederationError("no message is read now", code=code)
            if not reply.message_object_trees:
                raise FederationError("the request holds nothing", code="FK540")
            return self._whole(bare, reply.message_object_trees[0])
        except FederationError as error:
            raise UnreadableRequest(error, Received(bare)) from None
        except OSError as error:
            raise DeploymentError(
                f"a request cannot be put down in {self.spool}: {error.strerror}",
                code="FK762",
                remedy="free space on its disk; the request comes again",
            ) from None
        except httpx.HTTPError:
            raise
        except Exception as error:
            unknown = FederationError(f"the request cannot be read ({type(error).__name__})", code=COMMON)
            raise UnreadableRequest(unknown, Received(bare)) from error

    def _whole(self, bare: Message, tree: ObjectTree) -> Received:
        if has_more_parts(tree, _MOST_PARTS):
            raise FederationError(f"the request has more than {_MOST_PARTS:,} parts", code="FK540")

        cut: list[httpx.HTTPError] = []

        def get(object_id: str) -> bytes:
            try:
                self.beat()
                content = self._object(bare.metadata.run_id, object_id)
            except httpx.HTTPError as error:
                cut.append(error)
                raise
            if get_object_id(content) != object_id:
                raise FederationError("a part of the request is not what its name says", code="FK540")
            return content

        try:
            whole = assemble(bare, tree, get, most_bytes=self.most_bytes, spool=self.spool)
        except FederationError as error:
            # A connection that was cut is no fault of the request's, which comes again.
            raise (cut[0] if cut else error) from None
        if not whole.has_content():
            raise FederationError("the request holds nothing", code="FK540")
        return Received(whole)

    def _object(self, run_id: int, object_id: str) -> bytes:
        for pause in (0.05, 0.1, 0.2, 0.5, 1, 2, 4, 8):
            reply = self._client.PullObject(PullObjectRequest(node=self._node, run_id=run_id, object_id=object_id))
            if reply.object_found and reply.object_available:
                self.pace(len(reply.object_content))
                return bytes(reply.object_content)
            if not reply.object_found:
                break
            time.sleep(pause)
        raise FederationError("a part of the request is not to be had", code="FK540")

    def answer(self, received: Received, reply: RecordDict | str, seconds: float) -> int:
        """Send a reply, or a code in its place; returns the bytes sent, 0 if the run is over and nobody wants it.

        The request counts as received only now: until then it is given again to the node when it asks.

        Raises:
            DeploymentError: FK756, a part was not stored; :meth:`activate`, and the request comes again.
            FedkitError: whatever ``release`` raises.
        """
        try:
            return send_reply(
                self._client, self._node, received.message, reply, seconds,
                pace=self.pace, beat=self.beat, release=self.release,
            )  # fmt: skip
        except httpx.HTTPStatusError as error:
            if not is_over(error):
                raise
            return 0

    def close(self) -> None:
        """Say goodbye, if anybody hears it."""
        try:
            if self.node_id:
                self._client.DeactivateNode(DeactivateNodeRequest(node_id=self.node_id))
        except (httpx.HTTPError, ValueError):
            pass
        finally:
            self._client.close()
