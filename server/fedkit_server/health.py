"""``python -m fedkit_server.health DIR``: exit status 0 while the coordinator here answers over HTTP and over gRPC
and runs have their turn.

For a container's health check: it reads the folder's public files only, and needs no profile.
"""

from __future__ import annotations

import sys
from pathlib import Path

from fedkit_server.authorities import trusted_by_all
from fedkit_server.detach import answers
from fedkit_server.folder import ServerFolder, joined

_PATIENCE = 5.0


def enrolment_answers(folder: ServerFolder) -> bool:
    """Whether gRPC's own health check says that enrolment serves, behind a certificate of this folder's CA."""
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    settings = folder.settings()
    options = [("grpc.ssl_target_name_override", settings.hosts[0]), ("grpc.enable_http_proxy", 0)]
    authority = grpc.ssl_channel_credentials(trusted_by_all(folder))
    with grpc.secure_channel(joined("localhost", settings.grpc_port), authority, options) as channel:
        try:
            check = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=_PATIENCE)
        except grpc.RpcError:
            return False
    return bool(check.status == health_pb2.HealthCheckResponse.SERVING)


def main(arguments: list[str]) -> int:
    """The exit status."""
    folder = ServerFolder(Path(arguments[0]))
    return 0 if answers(folder, None) and enrolment_answers(folder) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
