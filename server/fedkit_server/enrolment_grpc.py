"""Enrolment over gRPC, with TLS by the coordinator's certificate, beside gRPC's own health check."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from fedkit.errors import DeploymentError, FedkitError
from fedkit.federation import enrolment as wire
from fedkit_server.doorway import Doorway
from fedkit_server.enrolment import Enrolment

_LOG = logging.getLogger("fedkit.enrolment")
_STATUS = {
    "FK540": grpc.StatusCode.INVALID_ARGUMENT,
    "FK717": grpc.StatusCode.RESOURCE_EXHAUSTED,
    "FK718": grpc.StatusCode.FAILED_PRECONDITION,
    "FK736": grpc.StatusCode.NOT_FOUND,
}
_FAILED = wire.error_text(DeploymentError("the coordinator failed", code="FK739", remedy="see its server.log"))
_THREADS = 8
HANDSHAKE_MS = 10_000
"""For TLS and HTTP/2's first frame."""

IDLE_MS = 60_000
"""Without a call; a site that comes back after one connects anew."""


def serve(enrolment: Enrolment, address: str, certificate: bytes, key: bytes) -> Served:
    """Start the gRPC server behind a :class:`Doorway`; ``stop(grace)`` ends both.

    Args:
        address: host:port to listen on.
        certificate, key: PEM.

    Raises:
        DeploymentError: FK709, the port cannot be had.
    """
    from concurrent.futures import ThreadPoolExecutor

    served = Served()
    server = grpc.server(
        ThreadPoolExecutor(_THREADS, "enrolment"),
        options=[
            ("grpc.max_receive_message_length", wire.MOST_BYTES),
            ("grpc.so_reuseport", 0),
            ("grpc.server_handshake_timeout_ms", HANDSHAKE_MS),
            ("grpc.max_connection_idle_ms", IDLE_MS),
        ],
        maximum_concurrent_rpcs=64,
    )
    methods = {
        wire.JOIN: _method(enrolment, enrolment.join, served.address),
        wire.ANNOUNCE: _method(enrolment, enrolment.announce, served.address),
    }
    checks = health.HealthServicer()
    for name in ("", wire.SERVICE):
        checks.set(name, health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(wire.SERVICE, methods),))
    host, _, port = address.rpartition(":")
    try:
        listening = listen(host.strip("[]"), int(port))
    except OSError:
        raise DeploymentError(
            f"enrolment cannot listen on {address}",
            code="FK709",
            remedy="free the port, or choose another with `fedkit server init --grpc-port`",
        ) from None
    inner = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(key, certificate)]))
    server.start()
    served.server, served.doorway = server, Doorway(listening, inner)
    return served


@dataclass
class Served:
    """The server and what stands before it."""

    server: Any = None
    doorway: Doorway | None = None
    _ended: Any = None

    def address(self, peer: str) -> str:
        """Whose call it is, by gRPC's word for where it came from."""
        port = peer.rpartition(":")[2]
        through = self.doorway.address(int(port)) if self.doorway is not None and port.isdecimal() else None
        return through or _address(peer)

    def stop(self, grace: float) -> Served:
        """Take no more calls; :meth:`wait` for those under way."""
        self._ended = self.server.stop(grace)
        return self

    def wait(self) -> None:
        """Until all have ended."""
        self._ended.wait()
        if self.doorway is not None:
            self.doorway.close()


def listen(address: str, port: int) -> socket.socket:
    """A socket that others may connect to; one of ``::`` takes IPv4 too where the system can.

    Raises:
        OSError: the port cannot be had.
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    both = address == "::" and socket.has_dualstack_ipv6()
    return socket.create_server((address, port), family=family, backlog=512, dualstack_ipv6=both)


def _method(
    enrolment: Enrolment,
    answer: Callable[[dict[str, Any], str], dict[str, Any]],
    whose: Callable[[str], str] = lambda peer: _address(peer),
) -> Any:
    def handle(content: bytes, context: Any) -> bytes:
        address = whose(context.peer())
        try:
            with enrolment.patience(address):
                request = wire.decode(content, "the request")
            return wire.encode(answer(request, address))
        except FedkitError as error:
            if error.code != "FK717":
                _LOG.warning("enrolment refused for %s: %s", address, error)
            context.abort(_STATUS.get(error.code, grpc.StatusCode.PERMISSION_DENIED), wire.error_text(error))
        except Exception:
            _LOG.exception("enrolment failed")
            context.abort(grpc.StatusCode.INTERNAL, _FAILED)
        raise AssertionError("abort raises")

    return grpc.unary_unary_rpc_method_handler(handle)


def _address(peer: str) -> str:
    """Without the port, which every attempt has another of.

    >>> _address("ipv4:192.0.2.1:5000")
    '192.0.2.1'
    """
    return peer.partition(":")[2].rpartition(":")[0] or peer
