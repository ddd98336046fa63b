"""``fedkit`` with a training that waits while FOLDER/hold is there: for tests that end something in the middle of it.

Patches a module's attribute before the executor is forked, and so in all of its processes.
"""

import sys
import time
from pathlib import Path

import fedkit.training.local as local
from fedkit.cli.main import main

folder = Path(sys.argv.pop(1))
real = local.train


def slow(*arguments):
    """Train once the test lets go."""
    (folder / "training").touch()
    while (folder / "hold").exists():
        time.sleep(0.02)
    return real(*arguments)


if __name__ == "__main__":
    local.train = slow
    main()
