"""What stands before every page: only this machine's own name for the desk, only its own forms, headers on all."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
"""No script, no frame, nothing from anywhere else; a page may narrow or name its own style by hash."""

HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-embedder-policy": "require-corp",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "cache-control": "no-store",
}
_METHODS = ("GET", "HEAD", "POST")


@dataclass(frozen=True)
class Shield:
    """Refuses what the desk's own page in a browser on this machine would not send.

    Args:
        host: what the Host header must be, ``127.0.0.1:PORT``: a name that was made to point here is another site.
    """

    app: ASGIApp
    host: str

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        app: Any = self.app if refusal is None else PlainTextResponse(refusal[1], status_code=refusal[0])

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await app(scope, receive, guarded)

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        headers = Headers(scope=scope)
        if headers.getlist("host") != [self.host]:
            return 421, f"This page is at http://{self.host}/ and answers to no other name.\n"
        if scope["method"] not in _METHODS:
            return 405, "Only GET, HEAD and POST.\n"
        if scope["method"] == "POST" and not self._own(headers):
            return 403, "This form was sent from another page than this one's own.\n"
        return None

    def _own(self, headers: Headers) -> bool:
        """Whether a browser says that its own page of the desk sends this; every form has a token besides."""
        if (fetched := headers.get("sec-fetch-site")) is not None and fetched != "same-origin":
            return False
        # Without a referrer a browser calls the origin of its own form null.
        return headers.get("origin", "null") in ("null", f"http://{self.host}")
