"""A site's quarantine, ``quarantine.json`` in its folder: whatever lies at that place keeps the site from answering.

::

    FK787  the site is quarantined
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from fedkit.errors import DeploymentError
from fedkit.storage.atomic import sync_folder
from fedkit.storage.private import replace

QUARANTINED = "FK787"
NAME = "quarantine.json"
_MOST_BYTES = 64 * 1024
_LATEST = 2**40


@dataclass(frozen=True)
class QuarantineFile:
    """The file that quarantines a site.

    Guarantee: nothing but the absence of the file, in a folder that is there, lets the site answer or be resumed.
    """

    path: Path

    def there(self) -> bool:
        """Whether the site is quarantined: whatever lies there, even what cannot be looked at."""
        try:
            self.path.lstat()
        except FileNotFoundError:
            return not self.path.parent.is_dir()
        except OSError:
            return True
        return True

    def refuse(self) -> None:
        """Go no further while the site is quarantined.

        Raises:
            DeploymentError: FK787.
        """
        if self.there():
            raise DeploymentError(
                "the site is quarantined: it answers nothing and is not resumed",
                code=QUARANTINED,
                remedy="once it is known what happened: `fedkit client quarantine SITE.yaml --lift --reason TEXT`",
            )

    def since(self) -> float | None:
        """Since when; 0 where the file does not say, None where the site is not quarantined."""
        if not self.there():
            return None
        since = self._values().get("since")
        good = type(since) in (int, float) and 0 <= since < _LATEST  # type: ignore[operator]
        return float(since) if good else 0.0  # type: ignore[arg-type]

    def reason(self) -> str:
        """Why, for the site's own eyes; empty where the file does not say."""
        reason = self._values().get("reason")
        return reason if isinstance(reason, str) else ""

    def put(self, reason: str, now: float) -> float:
        """Quarantine the site; returns since when, which a second call does not change.

        Raises:
            DeploymentError: FK700, the file cannot be written.
        """
        since = self.since() or now
        replace(self.path, (json.dumps({"since": since, "reason": reason or self.reason()}) + "\n").encode())
        sync_folder(self.path.parent)
        return since

    def take_away(self) -> None:
        """Lift the quarantine.

        Raises:
            OSError: what lies there cannot be removed.
        """
        self.path.unlink(missing_ok=True)
        sync_folder(self.path.parent)

    def _values(self) -> dict[str, object]:
        try:
            handle = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            with os.fdopen(handle, "rb") as file:
                found = json.loads(file.read(_MOST_BYTES))
        except (OSError, ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}
