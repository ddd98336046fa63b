"""Whether ``federation=ray`` can run, found out before any work: Ray is installed, and the cluster answers in time.

::

    FK550  Ray is not installed
    FK551  nothing answers at the address as Ray does, or not within 30 s, or this machine is none of the cluster's
    FK552  a cluster of another Ray or Python, or with another fedkit, torch or numpy on its machines
    FK553  something that cannot be carried to other processes
    FK554  Ray or an actor cannot be started
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from typing import Any

from fedkit.errors import FederationError
from fedkit.simulation.ray_cluster import OURS, require_ray

SECONDS = 22.0
"""For an answer; Ray's own patience is minutes, and a busy machine takes some more to start Python."""

_ANSWERED: dict[str, int] = {}
_CONNECT_SECONDS = 5.0
_ASK = "import sys; from fedkit.simulation.ray_cluster import answer; answer(sys.argv[1])"


def check(address: str | None) -> int:
    """Ask a cluster whether it can be joined; once a process, and nobody where one is to be started.

    Returns:
        CPUs that were free there when it was asked.

    Raises:
        FederationError: FK550, FK551, FK552.
    """
    require_ray()
    if address in OURS:
        return 0
    address = str(address)
    if address in _ANSWERED:
        return _ANSWERED[address]
    begun = time.monotonic()
    if ":" in address:
        _connect(address)
    # Ray tries for minutes, in threads that nothing ends: another process can be killed.
    try:
        asked = subprocess.run(
            [sys.executable, "-c", _ASK, address],
            capture_output=True,
            text=True,
            timeout=max(1.0, SECONDS - (time.monotonic() - begun)),
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        raise _silent(address, f"did not answer as Ray does within {SECONDS:g} s") from None
    try:
        told: dict[str, Any] = json.loads(asked.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        raise _died(address, asked.stderr) from None
    if "code" in told:
        raise FederationError(told["message"], code=told["code"], remedy=told["remedy"])
    _ANSWERED[address] = int(told["cpus"])
    return _ANSWERED[address]


def _connect(address: str) -> None:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_SECONDS).close()
    except OSError as error:
        raise _silent(address, f"does not answer ({error.strerror or error})") from None


def _died(address: str, said: str) -> FederationError:
    # Ray ends a process whose own machine has no part in the cluster.
    if "raylet_ipc_client" in said:
        return FederationError(
            f"the Ray at {address} answers, and this machine is none of its",
            code="FK551",
            remedy="run fedkit on one of the cluster's machines, or `ray start --address=HOST:PORT` on this one first",
        )
    last = [line.strip() for line in said.splitlines() if line.strip()][-1:]
    return _silent(address, f"cannot be joined ({''.join(last)[:300]})")


def _silent(address: str, what: str) -> FederationError:
    where = "on this machine" if address == "auto" else "there"
    return FederationError(
        f"federation.address={address} {what}",
        code="FK551",
        remedy=f"start a cluster {where} with `ray start --head`, or set federation.address=null",
    )
