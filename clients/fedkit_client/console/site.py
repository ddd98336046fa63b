"""The site whose console it is: its file is read anew for every page."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from fedkit_client.console.alerts import Standing
from fedkit_client.folder import SiteFolder
from fedkit_client.start import Opened, open_site


@dataclass(frozen=True)
class Site:
    """What pages and actions are about.

    Attributes:
        path: of the site's file.
        folder: as it was at the start: a site can be paused whatever became of its file since.
        pause_seconds: how long a pause waits until nothing is being sent any more.
    """

    path: Path
    folder: SiteFolder
    pause_seconds: float = 20.0
    standing: Standing = field(default_factory=Standing)

    def opened(self) -> Opened:
        """The site's file and folder as they are now.

        Raises:
            ConfigError: FK120.
            DeploymentError: FK741, FK752, FK706.
        """
        return open_site(self.path)
