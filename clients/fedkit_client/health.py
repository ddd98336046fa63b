"""``python -m fedkit_client.health FOLDER [connected]``: exit status 0 while a site runs, or is connected.

For a container's checks: alive is a process that holds the folder's lock; ready is one that reaches its coordinator. It
reads two small files, so that it can be called every few seconds.
"""

from __future__ import annotations

import sys
from pathlib import Path

from fedkit_client import lock
from fedkit_client.folder import SiteFolder
from fedkit_client.state import read_state


def running(folder: SiteFolder) -> bool:
    """Whether a process works on the folder."""
    return folder.path.is_dir() and lock.holder(folder.pid_file) is not None


def connected(folder: SiteFolder) -> bool:
    """Whether that process reaches its coordinator."""
    state = read_state(folder.state_file) or {}
    return running(folder) and state.get("phase") in ("connected", "working")


def main(arguments: list[str]) -> int:
    """The exit status."""
    folder = SiteFolder(Path(arguments[0]))
    return 0 if (connected(folder) if arguments[1:] == ["connected"] else running(folder)) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
