"""What a process is given while Ray runs in it, and what it gets back: variables, signals, a share of memory."""

from __future__ import annotations

import functools
import os
import secrets
import signal
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

_STORE_BYTES = 512 << 20


@functools.cache
def token() -> str:
    """What a cluster that this process starts asks whoever calls it for."""
    # Ray reads it once a process.
    return secrets.token_hex(32)


@contextmanager
def environment(values: Mapping[str, str], without: Sequence[str] = ()) -> Iterator[None]:
    """Variables that Ray reads, and those that it is not to see or sets itself; as they were afterwards."""
    names = (*values, *without)
    before = {name: os.environ.pop(name, None) for name in names}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


@contextmanager
def handlers_kept() -> Iterator[None]:
    """Ray takes SIGTERM for itself."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before if before is not None else signal.SIG_DFL)


@contextmanager
def signals_held() -> Iterator[None]:
    """Ctrl-C and SIGTERM are answered as the block ends, for what must not be left half done; a second one at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    waiting: list[int] = []

    def hold(number: int, _: object) -> None:
        if not waiting:
            waiting.append(number)
            return
        waiting.clear()
        signal.signal(number, before[number])
        signal.raise_signal(number)

    # None: set by something other than Python, which is then not put back.
    before: dict[int, Any] = {n: signal.getsignal(n) or signal.SIG_DFL for n in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, hold)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if waiting:
            signal.raise_signal(waiting[0])


def same_place(one: str, other: str) -> bool:
    """Whether HOST:PORT and HOST:PORT are one, whatever the hosts are called.

    >>> same_place("localhost:6379", "127.0.0.1:6379"), same_place("127.0.0.1:1", "127.0.0.1:2")
    (True, False)
    """
    return one == other or bool(_addresses(one) & _addresses(other))


def _addresses(place: str) -> set[tuple[str, str]]:
    host, _, port = place.rpartition(":")
    with suppress(OSError):
        return {(str(found[4][0]), port) for found in socket.getaddrinfo(host.strip("[]"), None)}
    return set()


def store_bytes() -> int:
    """Bytes of shared memory for objects: what there is, at most."""
    with suppress(OSError):
        status = os.statvfs("/dev/shm")  # noqa: S108
        return max(80 << 20, min(_STORE_BYTES, status.f_bavail * status.f_frsize // 2))
    return _STORE_BYTES
