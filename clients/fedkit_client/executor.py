"""The warm executor, seen from the node's process: asks one request at a time, and survives whatever dies behind it.

::

    FK767  the executor cannot start
    FK768  the executor's keeper is gone
"""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from fedkit.errors import DeploymentError
from fedkit_client import frames
from fedkit_client.zygote import Handle, keep

_MOST_STATUS = 4096


@dataclass(frozen=True)
class Usage:
    """What a child took."""

    cpu_seconds: float
    peak_bytes: int


@dataclass(frozen=True)
class Done:
    """What became of a request.

    Attributes:
        header: of the answer; None where the child died.
        body: the answer's bytes.
        why: how the child died, for the site's log.
    """

    header: dict[str, Any] | None
    body: frames.Bytes
    usage: Usage | None
    why: str = ""


@dataclass
class Executor:
    """A keeper, its zygote and, while a request is under way, one child.

    Attributes:
        keeper: process id.
        zygote: process id of the zygote that is there now; 0 while there is none.
        child: process id of the child at work; 0 while there is none.
        address_space: bytes that the zygote occupies once everything is imported.
    """

    keeper: int
    _control: socket.socket
    _zygote: socket.socket | None = None
    zygote: int = 0
    child: int = 0
    address_space: int = 0
    _last: str = field(default="")

    @classmethod
    def start(cls, preload: Callable[[], None], handle: Handle) -> Executor:
        """Fork the keeper; to be called while this process has no thread, no connection and no CUDA context.

        Args:
            preload: imports what children need; runs in the zygote.
            handle: answers a request; runs in a child of its own.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            ours.close()
            try:
                keep(theirs, preload, handle, parent)
            finally:
                os._exit(1)
        theirs.close()
        return cls(pid, ours)

    def wait_ready(self, seconds: float = 180.0) -> None:
        """Until a zygote has imported everything.

        Raises:
            DeploymentError: FK767, it cannot, or not within the time; FK768.
        """
        end = time.monotonic() + seconds
        failures = 0
        while not self.zygote:
            try:
                self._welcome(end)
            except frames.Gone as gone:
                failures += 1
                if failures >= 3:
                    raise _cannot_start(str(gone)) from None
            except TimeoutError:
                raise _cannot_start(f"it was not ready after {seconds:.0f} s") from None

    def ask(self, header: dict[str, Any], body: frames.Bytes, idle: Callable[[], None] = frames.nothing) -> Done:
        """Have one request answered in a child of its own.

        Args:
            idle: called every half second while the child works; if it raises, the child is abandoned.

        Raises:
            DeploymentError: FK767, FK768.
        """
        self.wait_ready()
        assert self._zygote is not None  # noqa: S101  # what wait_ready sees to
        ours, theirs = socket.socketpair()
        answered: tuple[dict[str, Any] | None, frames.Bytes] = (None, b"")
        why, told = "", dict[str, Any]()
        with ours:
            ours.settimeout(frames.TICK)
            try:
                with theirs:
                    socket.send_fds(self._zygote, [b"ask"], [theirs.fileno()])
                self.child = int(self._heard(idle)["pid"])
                frames.write(ours, header, body, idle)
                answered = frames.read(ours, idle)
                told = self._heard(idle)
            except (frames.Gone, OSError) as gone:
                why = str(gone)
                told = self._farewell()
            except BaseException:
                self._abandon()
                raise
        self.child = 0
        found, data = answered
        used = told.get("cpu_seconds")
        usage = None if used is None else Usage(float(used), int(told["peak_bytes"]))
        if found is None:
            return Done(None, b"", usage, _obituary(told, why))
        return Done(found, data, usage)

    def close(self) -> None:
        """End all processes; a child at work is abandoned."""
        if self.child:
            self._kill(self.child)
        for each in (self._zygote, self._control):
            if each is not None:
                each.close()
        self._zygote, self.zygote, self.child = None, 0, 0
        with suppress(ChildProcessError):
            end = time.monotonic() + 5.0
            while time.monotonic() < end:
                if os.waitpid(self.keeper, os.WNOHANG)[0]:
                    return
                time.sleep(0.02)
            self._kill(self.keeper)
            os.waitpid(self.keeper, 0)

    def _welcome(self, end: float) -> None:
        self._control.settimeout(max(0.1, end - time.monotonic()))
        _, handles, _, _ = socket.recv_fds(self._control, 64, 1)
        if not handles:
            raise DeploymentError(
                "the executor's keeper is gone", code="FK768", remedy="start the site again: `fedkit client start`"
            )
        if self._zygote is not None:
            self._zygote.close()
        self._zygote = socket.socket(fileno=handles[0])
        self._zygote.settimeout(max(0.1, end - time.monotonic()))
        told = _message(self._zygote)
        if "ready" not in told:
            raise frames.Gone(str(told.get("failed", "it ended while it imported")))
        self.zygote, self.address_space = int(told["ready"]), int(told["address_space"])
        self._zygote.settimeout(frames.TICK)

    def _heard(self, idle: Callable[[], None]) -> dict[str, Any]:
        assert self._zygote is not None  # noqa: S101
        while True:
            try:
                return _message(self._zygote)
            except TimeoutError:
                idle()
            except frames.Gone:
                self.zygote = 0
                raise

    def _farewell(self) -> dict[str, Any]:
        """How the child ended, from a zygote that may be gone too."""
        if not self.zygote:
            return {}
        # A child that closed its socket ends, or is ended.
        patience = [0]

        def idle() -> None:
            patience[0] += 1
            if patience[0] == 6 and self.child:
                self._kill(self.child)

        try:
            told = self._heard(idle)
            if "pid" in told:
                self.child = int(told["pid"])
                told = self._heard(idle)
            return told
        except (frames.Gone, OSError):
            return {}

    def _abandon(self) -> None:
        if self.child:
            self._kill(self.child)
        self._farewell()
        self.child = 0

    @staticmethod
    def _kill(pid: int) -> None:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _message(connection: socket.socket) -> dict[str, Any]:
    data = connection.recv(_MOST_STATUS)
    if not data:
        raise frames.Gone("the zygote is gone")
    found: dict[str, Any] = json.loads(data)
    return found


def _obituary(told: dict[str, Any], why: str) -> str:
    status = told.get("status")
    if status is None:
        return f"the executor died with its zygote ({why})"
    if os.WIFSIGNALED(status):
        name = signal.Signals(os.WTERMSIG(status)).name
        hint = "; the system may be out of memory" if name == "SIGKILL" else ""
        return f"the executor's child was ended by {name}{hint}"
    return f"the executor's child left with status {os.waitstatus_to_exitcode(status)} and no answer"


def _cannot_start(why: str) -> DeploymentError:
    return DeploymentError(
        f"the executor cannot start: {why}",
        code="FK767",
        remedy="see client.log in the site's folder, and run `fedkit client doctor SITE.yaml`",
    )
