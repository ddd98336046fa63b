"""A run's archive on its way to a user: packed as it is read, copied nowhere, and ended where nobody reads."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from pathlib import Path

from starlette.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from fedkit_server.archive import packed
from fedkit_server.asgi import hang_up

STALLED_SECONDS = 60.0
"""Without a piece of 256 KiB being taken."""


class Archive(StreamingResponse):
    """A run's folder as an answer, which lets go of what it holds once it was sent, or was not."""

    def __init__(self, run: Path, held: ExitStack) -> None:
        super().__init__(packed(run), media_type="application/x-tar")
        self._held = held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it; a reader that stalls is left."""

        async def timely(message: Message) -> None:
            try:
                async with asyncio.timeout(STALLED_SECONDS):
                    await send(message)
            except TimeoutError:
                await hang_up(scope)

        with self._held:
            await super().__call__(scope, receive, timely)
