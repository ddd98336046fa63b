"""What a form has sent: plain fields, each once, of a bounded size. Files are taken nowhere."""

from __future__ import annotations

import asyncio
from urllib.parse import parse_qsl

from starlette.requests import ClientDisconnect, Request

MOST_BYTES = 1 << 20
SECONDS = 10.0
"""A form comes from this machine; one that does not end holds one of few connections."""

_MOST_FIELDS = 20
_TYPE = "application/x-www-form-urlencoded"


class BadForm(Exception):
    """What no form of ours sends; the text may be shown."""


async def read_form(request: Request) -> dict[str, str]:
    """The fields of a form.

    Raises:
        BadForm: another type, too much, too slow, a field twice, or no UTF-8.
    """
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != _TYPE:
        raise BadForm(f"a form is sent as {_TYPE}")
    body = bytearray()
    try:
        async with asyncio.timeout(SECONDS):
            async for part in request.stream():
                body += part
                if len(body) > MOST_BYTES:
                    raise BadForm(f"a form has at most {MOST_BYTES:,} bytes")
    except TimeoutError:
        raise BadForm(f"a form comes within {SECONDS:g} s") from None
    except ClientDisconnect:
        raise BadForm("the form has no end") from None
    try:
        pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=_MOST_FIELDS)
    except ValueError:
        raise BadForm("the form cannot be read") from None
    if len(dict(pairs)) != len(pairs):
        raise BadForm("the form has a field twice")
    return dict(pairs)
