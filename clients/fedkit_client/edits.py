"""Whether the site's file on disk has become another one than the site goes by: told to the log once, in its own words.

A running site goes by its file as it was read at the start. ``configured`` in the audit log tells that text; ``edited``
tells that the file has another one now, which counts once the site is started again.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fedkit.errors import ConfigError
from fedkit.governance.site_file import SiteFile, read_site_file
from fedkit.storage.audit_line import Event
from fedkit_client.digest import file_digest

EDITED = "edited"
_TRIES = 5


class Edits:
    """Looks at one file; cheap enough for every message.

    Args:
        known: digest of the text that the log told last.
    """

    def __init__(self, path: Path, known: str) -> None:
        self._path, self._known = path, known
        self._seen: tuple[int, ...] | None = None

    def news(self) -> list[Event]:
        """The line that is to be logged; none where the file has the text that was told last.

        A file that is gone or cannot be read has the digest "".
        """
        seen = self._look()
        if seen is not None and seen == self._seen:
            return []
        digest = file_digest(self._path)
        if digest == self._known:
            self._seen = seen
            return []
        return [Event(EDITED, {"digest": digest})]

    def told(self, events: list[Event]) -> None:
        """They are on disk."""
        for event in events:
            self._known = str(event.fields["digest"])

    def _look(self) -> tuple[int, ...] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return (found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino)


def read_whole(path: Path) -> tuple[SiteFile, str]:
    """A site's file and the digest of the very text that was read.

    Raises:
        ConfigError: FK120, every problem at once, or a file that is being written.
    """
    for _ in range(_TRIES):
        before = file_digest(path)
        file = read_site_file(path)
        if before == file_digest(path):
            return file, before
    raise ConfigError([f"{path.name} changes while it is read; save it, and try again"], code="FK120")


def both(first: Callable[[], None], second: Callable[[], None]) -> Callable[[], None]:
    """One call for two."""

    def call() -> None:
        first()
        second()

    return call
