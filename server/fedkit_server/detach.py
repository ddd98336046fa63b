"""Starts the coordinator in the background and waits until it answers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from typing import IO, Any

from fedkit.errors import DeploymentError
from fedkit_server.folder import ServerFolder, joined
from fedkit_server.lock import holder

_MARK = "FEDKIT_DETACHED"
_PATIENCE = 60.0


def detached() -> bool:
    """Whether this process was started by :func:`start_detached`."""
    return os.environ.get(_MARK) == "1"


def after_detaching() -> None:
    """Nobody reads what is printed from here on; the log has it."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)
    os.close(nowhere)


def start_detached(folder: ServerFolder, bind: str | None, track: str | None = None) -> int:
    """Start a coordinator that outlives this process; returns its process id once it answers.

    Raises:
        DeploymentError: what the coordinator was refused for; FK709, it does not answer.
    """
    command = [sys.executable, "-m", "fedkit", "server", "start", str(folder.path.absolute()), "--json"]
    command += ["--bind", bind] if bind else []
    command += ["--track", track] if track else []
    with tempfile.TemporaryFile() as said:
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, _MARK: "1"},
        )
        end = time.monotonic() + _PATIENCE
        while time.monotonic() < end:
            if child.poll() is not None:
                raise _refusal(said, folder)
            # Another process that serves the folder answers too.
            if holder(folder.pid_file) == child.pid and answers(folder, bind):
                return child.pid
            time.sleep(0.1)
    child.terminate()
    raise DeploymentError(
        f"the coordinator has not answered within {_PATIENCE:g} s", code="FK709", remedy=f"see {folder.log}"
    )


def answers(folder: ServerFolder, bind: str | None) -> bool:
    """Whether a coordinator answers here, with this folder's CA behind its certificate."""
    import ssl

    import httpx

    from fedkit_server.authorities import trusted_by_all

    settings = folder.settings()
    address = bind or settings.bind
    near = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address, address)  # noqa: S104
    context = ssl.create_default_context(cadata=trusted_by_all(folder).decode("ascii"))
    # Another name than sites use may stand in --bind; whose certificate it is counts.
    context.check_hostname = False
    try:
        with httpx.Client(verify=context, timeout=2.0, trust_env=False) as client:
            url = f"https://{joined(near, settings.port)}/fedkit/v1/health"
            return client.get(url).status_code == 200
    except httpx.HTTPError:
        return False


def _refusal(said: IO[bytes], folder: ServerFolder) -> DeploymentError:
    said.seek(0)
    lines = said.read().decode("utf-8", errors="replace").splitlines()
    try:
        error: Any = json.loads(lines[-1])["error"]
        code, _, message = str(error["message"]).partition(": ")
        body, _, remedy = message.partition(". Remedy: ")
        return DeploymentError(body, code=str(error["code"]) or code, remedy=remedy)
    except (IndexError, ValueError, KeyError, TypeError):
        return DeploymentError("the coordinator ended at once", code="FK709", remedy=f"see {folder.log}")
