"""The coordinator's process: Flower's SuperLink, our API, enrolment and the runner behind one certificate."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import ssl
from collections.abc import Callable
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from typing import Any

import uvicorn

from fedkit import __version__
from fedkit.errors import DeploymentError
from fedkit.federation.flower_api import superlink_app
from fedkit.federation.flower_link import Link
from fedkit.governance.allow import check_packages
from fedkit_server import logs, pki
from fedkit_server.access import Access
from fedkit_server.api import make_api
from fedkit_server.authorities import certificate_end
from fedkit_server.enrolment import Enrolment
from fedkit_server.enrolment_grpc import listen, serve
from fedkit_server.folder import ServerFolder, joined
from fedkit_server.guard import Guard, Wakes
from fedkit_server.lock import hold
from fedkit_server.prompt import Prompt, hurry_handshakes
from fedkit_server.runners import Runs
from fedkit_server.state import State, readable_link
from fedkit_server.store import Store
from fedkit_server.tracking import begin_tracking
from fedkit_server.upkeep import Upkeep

_LOG = logging.getLogger("fedkit.server")
# TLS 1.2 with forward secrecy and authenticated encryption; 1.3 has no others.
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"
_GRACE_SECONDS = 3

Maker = Callable[[ServerFolder, Link, State], Runs]


def run(
    folder: ServerFolder,
    *,
    bind: str | None = None,
    track: str | None = None,
    screen: bool = True,
    up: Callable[[], None],
) -> None:
    """Serve until SIGTERM or SIGINT; what is under way is taken up at the next start.

    Args:
        bind: address to listen on, in place of the folder's.
        track: where the runs' metrics are mirrored to, as `fedkit.reporting.trackers` names it.
        screen: whether the log goes to standard error too.
        up: called once everything answers.

    Raises:
        DeploymentError: FK708, another process serves the folder; FK709, a port is taken; FK710, the certificate;
            FK705, a database that is broken.
        ConfigError: FK120, ``allow.yaml``.
        FederationError: FK563, it lists a package that is another one now.
        RunError: FK617, the tracker cannot be used; FK611, how far it was told.
    """
    os.umask(0o077)
    settings = folder.settings()
    address = bind or settings.bind
    with ExitStack() as stack:
        stack.enter_context(hold(folder.pid_file))
        check_certificate(folder)
        models = folder.models()
        check_packages(models)
        tracking = begin_tracking(track, folder.path) if track else None
        # Before anything of Flower runs, so that a taken port costs nothing.
        listening = stack.enter_context(_listen(address, settings.port))
        logs.configure(folder.log, screen=screen)
        for left in folder.path.glob(".archive-*"):
            left.unlink(missing_ok=True)
        store = Store(folder.database)
        stack.callback(store.close)
        with readable_link(folder):
            link = Link.open(folder.link, folder.path / "objects")
            state = State(folder, settings, store, link, models=models)
            # An altered keyring or a key that is not its own ends the start here.
            state.keyring  # noqa: B018
            state.trail.record("started", version=__version__)
            state.reconcile()
            runs = _runner(state)
        stack.callback(state.trail.told, "stopped")
        if tracking is not None:
            tracking.start()
            # After the runs, whose last round it tells.
            stack.callback(tracking.close)
        stack.callback(runs.close)
        upkeep = Upkeep(folder, store, state.trail.append)
        stack.callback(upkeep.close)
        upkeep.start()
        grpc_server = serve(
            Enrolment(state),
            joined(address, settings.grpc_port),
            folder.read(folder.certificate),
            folder.read(folder.certificate_key),
        )
        stack.callback(lambda: grpc_server.stop(_GRACE_SECONDS).wait())
        server = _server(state, runs, up)
        _LOG.info("fedkit %s serves %s on %s", __version__, settings.name, joined(address, settings.port))
        # uvicorn sends itself the signal again once it has ended.
        with suppress(KeyboardInterrupt):
            server.run(sockets=[listening])
        _LOG.info("ending")


def check_certificate(folder: ServerFolder) -> None:
    """Refuse to serve with a certificate that has ended; warn of one that soon will.

    Raises:
        DeploymentError: FK710.
    """
    ends = certificate_end(folder)
    left = (ends - datetime.now(UTC)).total_seconds() / 86_400
    renew = f"`fedkit server rotate {folder.path}`"
    if left <= 0:
        raise DeploymentError(f"the TLS certificate ended on {ends:%Y-%m-%d}", code="FK710", remedy=f"run {renew}")
    if left < pki.WARN_DAYS:
        _LOG.warning("the TLS certificate ends on %s; renew it: %s", f"{ends:%Y-%m-%d}", renew)


def _runner(state: State) -> Runs:
    from fedkit_server.runner import Runner

    return Runner(
        state.folder.path,
        state.link,
        state.store,
        state.folder.key(),
        lambda: state.keyring,
        models=state.models,
        trail=state.trail,
    )


def _server(state: State, runs: Runs, up: Callable[[], None]) -> uvicorn.Server:
    access, wakes = Access(state), Wakes()
    state.link.on_wake = wakes.wake
    api = make_api(state, runs, access, lambda: server.should_exit)
    config = uvicorn.Config(
        Guard(superlink_app(state.link), api, access.may_control, wakes),
        workers=1,
        http=Prompt,
        ssl_certfile=state.folder.certificate,
        ssl_keyfile=state.folder.certificate_key,
        ssl_ciphers=_CIPHERS,
        log_config=None,
        access_log=False,
        # Whoever is asked for the client's address must not be told it by the client.
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=60,
        timeout_graceful_shutdown=_GRACE_SECONDS,
    )
    config.load()
    context: Any = config.ssl
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    server = _Server(config, up, wakes)
    return server


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, up: Callable[[], None], wakes: Wakes) -> None:
        super().__init__(config)
        self._up, self._wakes = up, wakes

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Tell when everything answers."""
        hurry_handshakes(asyncio.get_running_loop())
        await super().startup(sockets)
        if self.started:
            self._up()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer the sites that wait for a message before anybody is cut off."""
        self._wakes.end()
        await super().shutdown(sockets)


def _listen(address: str, port: int) -> socket.socket:
    try:
        return listen(address, port)
    except OSError as error:
        raise DeploymentError(
            f"the coordinator cannot listen on {joined(address, port)}: {os.strerror(error.errno or 0)}",
            code="FK709",
            remedy="free the port, or name another address with --bind",
        ) from None
