"""The console's process: on loopback alone, until somebody ends it."""

from __future__ import annotations

import secrets
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from fedkit.errors import DeploymentError
from fedkit_client.console.passwords import require_libraries

LOOPBACK = "127.0.0.1"


def serve(path: Path, port: int, say: Callable[[str], None]) -> None:
    """Serve a site's console until Ctrl-C or SIGTERM.

    Args:
        port: 0 for one that is free.
        say: is told the address once it answers.

    Raises:
        ConfigError: FK120.
        DeploymentError: FK796, nobody could log in; FK795, FK706, FK741, FK752, the folder; FK798, the port, a library.
    """
    import uvicorn

    from fedkit_client.console.app import make_app
    from fedkit_client.console.users import Users
    from fedkit_client.console.visit import Console
    from fedkit_client.start import open_site

    require_libraries()
    opened = open_site(path)
    if not Users(opened.folder.console_users).read():
        raise DeploymentError(
            "nobody could log in: the console has no user yet",
            code="FK796",
            remedy=f"fedkit client console-user {path} add NAME",
        )
    with _listening(port) as listening:
        host = f"{LOOPBACK}:{listening.getsockname()[1]}"
        console = Console(path, opened.folder, opened.file.site, host, secrets.token_bytes(32), time.time)
        config = uvicorn.Config(
            make_app(console),
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            lifespan="off",
            ws="none",
            limit_concurrency=64,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=3,
            h11_max_incomplete_event_size=64 * 1024,
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
            f"the console cannot listen on {LOOPBACK}:{port}: {error.strerror}",
            code="FK798",
            remedy="leave --port out, or name a free one",
        ) from None
    return made
