"""The site's end of enrolment over gRPC: join once, announce the offer at each start; TLS by the pinned CA."""

from __future__ import annotations

import os
from typing import Any

from fedkit.errors import DeploymentError
from fedkit_client.address import joined
from fedkit_client.proxy import proxy_for
from fedkit_client.trust import check_connection

_TIMEOUT = 30.0


def call(host: str, port: int, authority: bytes, method: str, request: dict[str, Any]) -> dict[str, Any]:
    """One call of the enrolment service.

    Raises:
        DeploymentError: what the coordinator refuses, with its code; FK743 to FK749, there is no connection; FK756,
            the coordinator fails.
        FederationError: FK540, an answer that cannot be read.
    """
    # Before grpc is loaded: it would print its own words about every failed connection.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    import grpc

    from fedkit.federation import enrolment as wire

    proxy = proxy_for(host)
    options = [
        ("grpc.max_receive_message_length", wire.MOST_BYTES),
        # grpc reads other variables than httpx does; one rule holds for both.
        ("grpc.http_proxy", proxy.url) if proxy else ("grpc.enable_http_proxy", 0),
    ]
    credentials = grpc.ssl_channel_credentials(root_certificates=authority)
    with grpc.secure_channel(joined(host, port), credentials, options=options) as channel:
        ask = channel.unary_unary(f"/{wire.SERVICE}/{method}")
        try:
            answer = ask(wire.encode(request), timeout=_TIMEOUT)
        except grpc.RpcError as error:
            details = str(error.details() or "")
            refused = wire.read_error(details)
            status = error.code()
            if refused is None and status in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                # The same connection by hand says what is wrong with it.
                check_connection(host, port, authority, path=None)
            raise refused or DeploymentError(
                f"enrolment at {joined(host, port)} fails ({status.name}: {details[:200]})",
                code="FK756",
                remedy="check that the coordinator's enrolment port is open, and see its server.log",
            ) from None
    return wire.decode(answer, "the coordinator's answer")
