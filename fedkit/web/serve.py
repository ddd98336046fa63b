"""A desk's process: on loopback alone, until somebody ends it."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from fedkit.errors import DeploymentError

LOOPBACK = "127.0.0.1"


def serve(make: Callable[[str], Any], port: int, say: Callable[[str], None]) -> None:
    """Serve until Ctrl-C or SIGTERM.

    Args:
        make: the application, of the ``127.0.0.1:PORT`` at which it is.
        port: 0 for one that is free.
        say: is told the address once it answers.

    Raises:
        DeploymentError: FK798, the port is taken.
    """
    import uvicorn

    from fedkit.web.brisk import Brisk

    with _listening(port) as listening:
        host = f"{LOOPBACK}:{listening.getsockname()[1]}"
        config = uvicorn.Config(
            make(host),
            http=Brisk,
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            lifespan="off",
            ws="none",
            limit_concurrency=64,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=3,
        )
        say(f"http://{host}/")
        with suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listening])


def _listening(port: int) -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((LOOPBACK, port))
        made.listen(64)
    except OSError as error:
        made.close()
        raise DeploymentError(
            f"the page cannot be served on {LOOPBACK}:{port}: {error.strerror}",
            code="FK798",
            remedy="leave --port out, or name a free one",
        ) from None
    return made
