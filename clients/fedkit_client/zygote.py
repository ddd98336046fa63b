"""The executor's processes: a keeper that holds nothing, a zygote with everything imported, a child for each request.

The keeper is forked from ``start`` before any thread, connection or CUDA context exists, and forks the zygote anew
when it dies. A child has its own socket to the node's process, so that whatever becomes of it, the next one begins
with a clean one; the zygote never reads a byte that came over the network.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import resource
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, NoReturn

from fedkit_client import frames

Handle = Callable[[dict[str, Any], frames.Bytes], tuple[dict[str, Any], frames.Bytes]]
"""Answers a request (header, bytes) in a child of its own."""

_PDEATHSIG = 1
_SOON = 5.0
_PAUSE = 2.0


def keep(control: socket.socket, preload: Callable[[], None], handle: Handle, parent: int) -> NoReturn:
    """The keeper: hands the socket of a fresh zygote to the node's process, again whenever one has died."""
    _settle(parent)
    keeper = os.getpid()
    while True:
        began = time.monotonic()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pid = os.fork()
        if pid == 0:
            ours.close()
            control.close()
            _guarded(partial(_zygote, theirs, preload, handle, keeper))
        theirs.close()
        try:
            socket.send_fds(control, [b"zygote"], [ours.fileno()])
        except OSError:
            os._exit(0)
        ours.close()
        os.waitpid(pid, 0)
        if _closed(control):
            os._exit(0)
        if time.monotonic() - began < _SOON:
            # Whatever kills it at once would do so again.
            time.sleep(_PAUSE)


def _zygote(control: socket.socket, preload: Callable[[], None], handle: Handle, parent: int) -> None:
    _settle(parent)
    try:
        preload()
    except Exception as error:
        _tell(control, {"failed": f"{type(error).__name__}: {error}"[:1000]})
        raise
    # What was imported stays shared with the children: no collector writes into its pages.
    gc.freeze()
    zygote = os.getpid()
    _tell(control, {"ready": zygote, "address_space": address_space()})
    while True:
        message, handles, _, _ = socket.recv_fds(control, 64, 1)
        if not message:
            return
        pid = os.fork()
        if pid == 0:
            control.close()
            _guarded(partial(_child, socket.socket(fileno=handles[0]), handle, zygote))
        for each in handles:
            os.close(each)
        _tell(control, {"pid": pid})
        _, status, used = os.wait4(pid, 0)
        peak = used.ru_maxrss * 1024
        _tell(control, {"status": status, "cpu_seconds": used.ru_utime + used.ru_stime, "peak_bytes": peak})


def _child(connection: socket.socket, handle: Handle, parent: int) -> None:
    _settle(parent)
    header, body = frames.read(connection)
    header, body = handle(header, body)
    used = resource.getrusage(resource.RUSAGE_SELF)
    header["used"] = {"cpu_seconds": used.ru_utime + used.ru_stime, "peak_bytes": used.ru_maxrss * 1024}
    frames.write(connection, header, body)


def address_space() -> int:
    """Bytes of this process' address space, which ``RLIMIT_AS`` bounds."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


def _settle(parent: int) -> None:
    """Die with the parent; leave the terminal's signals to the node's process."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None, use_errno=True).prctl(_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    # What a crash would leave on the disk holds records, and their key.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if os.getppid() != parent:
        os._exit(0)


def _guarded(run: Callable[[], None]) -> NoReturn:
    """A forked process never returns into what its parent was doing."""
    status = 1
    try:
        run()
        status = 0
    except frames.Gone:
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def _tell(control: socket.socket, message: dict[str, Any]) -> None:
    try:
        control.send(json.dumps(message).encode())
    except OSError as error:
        raise frames.Gone(str(error)) from None


def _closed(control: socket.socket) -> bool:
    try:
        return not control.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True
