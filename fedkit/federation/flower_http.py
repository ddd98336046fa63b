"""What a site lets a coordinator's HTTP answers do: Flower's client follows wherever it is sent, and unpacks whatever.

A coordinator must not have a site send requests into the network that the site stands in, nor fill its memory with
what a few kilobytes unpack to.
"""

from __future__ import annotations

from collections.abc import Iterator

from fedkit.federation import flower_internals  # noqa: F401  # first: it switches telemetry off

import httpx  # isort: skip
from flwr.supercore.error import ApiErrorCode, FlowerError

MOST_RESPONSE = 16 * 2**20
"""Bytes of one answer: Flower's largest parts have 5 MiB."""

MOST_NAMES = 2**19
"""Bytes of an answer that only names a message and its parts: 4,096 of them have 300 KiB; read, it is much larger."""

_SMALL = ("/pull-messages", "/push-messages", "/activate-node", "/send-node-heartbeat", "/confirm-message-received")


def guard(client: httpx.Client) -> None:
    """Have a client follow no redirect, and refuse an answer that is packed or too large.

    Its bound is `MOST_RESPONSE`, and `MOST_NAMES` for what brings no part.

    What is refused raises ``httpx.RemoteProtocolError``; a redirect is an answer without success like any other.
    """
    client.follow_redirects = False
    client.headers["accept-encoding"] = "identity"
    client.event_hooks["response"].append(_check)


def is_over(error: httpx.HTTPStatusError) -> bool:
    """Whether the SuperLink refused because the run has ended: no fault of the node's key, though the status is 403."""
    found = FlowerError.from_json(error.response.text)
    return found is not None and found.code == ApiErrorCode.FLEET_RUN_STATUS_NOT_ALLOWED


def _check(response: httpx.Response) -> None:
    if response.headers.get("content-encoding", "identity").strip().lower() != "identity":
        response.close()
        raise httpx.RemoteProtocolError("the answer is packed, which nobody asked for", request=response.request)
    assert isinstance(response.stream, httpx.SyncByteStream)  # noqa: S101  # what a client that is not async has
    response.stream = _Bounded(response.stream, response.request)


class _Bounded(httpx.SyncByteStream):
    def __init__(self, stream: httpx.SyncByteStream, request: httpx.Request) -> None:
        self._stream, self._request = stream, request
        self._most = MOST_NAMES if request.url.path.endswith(_SMALL) else MOST_RESPONSE

    def __iter__(self) -> Iterator[bytes]:
        left = self._most
        for chunk in self._stream:
            left -= len(chunk)
            if left < 0:
                raise httpx.RemoteProtocolError(f"the answer has more than {self._most:,} bytes", request=self._request)
            yield chunk

    def close(self) -> None:
        self._stream.close()
