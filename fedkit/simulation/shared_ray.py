"""One Ray for several runs that are side by side: a cluster that is joined, or one that is started for all of them.

Each run joins it for itself. One that is started belongs to a process of its own, which ends it when it is told to, or
when whoever started it has gone: a process that has Ray in it cannot be forked, and a sweep forks its runs.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.connection import Connection

from fedkit.errors import FederationError, FedkitError
from fedkit.simulation.forked import CannotStart, Forked, fork
from fedkit.simulation.ray_cluster import OURS, connected, is_connected
from fedkit.simulation.ray_environment import environment, token
from fedkit.simulation.ray_probe import check

_START_SECONDS, _LEAVE_SECONDS = 90.0, 30.0


@dataclass(frozen=True)
class SharedRay:
    """A Ray that runs for as long as its block lasts.

    Attributes:
        cpus: that were free as it began. each: the most that one run takes.
        beside: the process that keeps it, where it was started.
    """

    address: str
    cpus: int
    each: int
    beside: Sequence[Forked] = ()

    def among(self, runs: int) -> SharedRay:
        """Shared out among so many runs at a time."""
        return replace(self, each=max(1, self.cpus // runs))

    @contextmanager
    def joined(self) -> Iterator[None]:
        """This process connected to it: a run in the block trains there.

        Raises:
            FederationError: see :func:`fedkit.simulation.ray_cluster.connected`.
        """
        with ExitStack() as stack:
            if self.beside:
                asks = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token(), "RAY_USAGE_STATS_ENABLED": "0"}
                stack.enter_context(environment(asks, ("RAY_AUTH_TOKEN_PATH",)))
            stack.enter_context(connected(self.address, self.each, ours=bool(self.beside)))
            yield


@contextmanager
def shared_ray(address: str | None, cpus: int) -> Iterator[SharedRay]:
    """A Ray that forked processes can join.

    Args:
        address: ``federation.address``. cpus: of one that is started.

    Raises:
        CannotStart: this process is connected to a Ray, or cannot be forked.
        FederationError: FK550 to FK554: there is none, and none can be started.
    """
    free = check(address)
    if is_connected():
        raise CannotStart("this process is connected to a Ray")
    if address not in OURS:
        yield SharedRay(str(address), free, free)
        return
    # Drawn before the fork: every process has the same.
    token()
    keeper = fork(partial(_keep, cpus=cpus), [])
    try:
        yield _greeted(keeper)
    finally:
        keeper.say("leave")
        keeper.process.join(_LEAVE_SECONDS)
        keeper.end()


def _greeted(keeper: Forked) -> SharedRay:
    try:
        if not keeper.connection.poll(_START_SECONDS):
            raise FederationError(f"Ray did not start within {_START_SECONDS:g} s", code="FK554")
        told: SharedRay | FedkitError = keeper.connection.recv()
    except (EOFError, OSError):
        raise FederationError(f"the process that starts Ray {keeper.how()}", code="FK554") from None
    if isinstance(told, FedkitError):
        raise told
    return replace(told, beside=(keeper,))


def _keep(connection: Connection, cpus: int) -> None:
    # Ctrl-C reaches every process of a terminal's group; this one leaves when it is told to.
    os.setpgrp()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with connected(None, cpus) as cluster:
            connection.send(SharedRay(cluster.address, cluster.cpus, cluster.cpus))
            # Multiprocessing ends its children so, if whoever started this one does not wait.
            signal.signal(signal.SIGTERM, lambda *_: None)
            with suppress(EOFError, OSError):
                connection.recv()
    except FedkitError as error:
        connection.send(error)
