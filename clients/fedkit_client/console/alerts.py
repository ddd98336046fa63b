"""What stands at a site, for one page after the other: the log is read on, not anew."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from fedkit.storage.keys import load_signing_key
from fedkit_client.alert import Alert, weight
from fedkit_client.alert_look import Look, standing
from fedkit_client.start import Opened


@dataclass
class Standing:
    """The newest look at a site's files; may be asked from any thread."""

    _look: Look | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def alerts(self, opened: Opened, now: float) -> list[Alert]:
        """What `fedkit client alerts` lists, the gravest and newest first.

        Raises:
            DeploymentError: FK785, FK706; FK702, FK703, the site's key.
        """
        with self._lock:
            if self._look is None or self._look.file != opened.file:
                key = load_signing_key(opened.folder.signing_key).public
                self._look = Look(opened.file, opened.folder, key)
            found, _ = standing(opened.file, opened.folder, self._look.public, now, self._look)
        return sorted(found, key=lambda each: (-weight(each.severity), -each.since))
