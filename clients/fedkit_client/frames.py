"""Frames between the node's process and its executor: a JSON header and raw bytes, over a socket pair. No pickle."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Callable, Mapping
from typing import Any

from fedkit.errors import DeploymentError

MOST_HEADER = 16 * 2**20
MOST_BODY = 2**33
TICK = 0.5
"""Seconds between two calls of ``idle`` while a frame is waited for."""

Bytes = bytes | memoryview
_HEAD = struct.Struct("<4sIQ")
_MAGIC = b"fdk1"


def nothing() -> None:
    """What is done while nothing needs doing."""


class Gone(Exception):
    """The other end went away within a frame, or before one."""


def write(
    connection: socket.socket, header: Mapping[str, Any], body: Bytes = b"", idle: Callable[[], None] = nothing
) -> None:
    """Send one frame.

    Args:
        idle: called about every `TICK` seconds while the other end does not read.

    Raises:
        Gone: there is no other end any more.
    """
    text = json.dumps(header, separators=(",", ":"), allow_nan=False).encode()
    for part in (_HEAD.pack(_MAGIC, len(text), len(body)) + text, body):
        view = memoryview(part)
        while view:
            try:
                view = view[connection.send(view) :]
            except TimeoutError:
                idle()
            except OSError as error:
                raise Gone(str(error)) from None


def read(connection: socket.socket, idle: Callable[[], None] = nothing) -> tuple[dict[str, Any], Bytes]:
    """Receive one frame.

    Args:
        idle: called about every `TICK` seconds while nothing comes.

    Raises:
        Gone: the other end ended before the frame was whole.
        DeploymentError: FK769, what came is no frame.
    """
    magic, header_size, body_size = _HEAD.unpack(_exactly(connection, _HEAD.size, idle))
    if magic != _MAGIC or header_size > MOST_HEADER or body_size > MOST_BODY:
        raise DeploymentError(
            f"a frame of {header_size:,} and {body_size:,} bytes is none of the executor's",
            code="FK769",
            remedy="start the site again; if it happens again, report it",
        )
    header = json.loads(_exactly(connection, header_size, idle))
    # As it came: bytes() would be another copy of a large model.
    return header, memoryview(_exactly(connection, body_size, idle)).toreadonly()


def _exactly(connection: socket.socket, size: int, idle: Callable[[], None]) -> bytearray:
    found = bytearray(size)
    view = memoryview(found)
    while view:
        try:
            count = connection.recv_into(view)
        except TimeoutError:
            idle()
            continue
        except OSError as error:
            raise Gone(str(error)) from None
        if not count:
            raise Gone("the other end closed the connection")
        view = view[count:]
    return found
