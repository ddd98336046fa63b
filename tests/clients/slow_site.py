"""``fedkit`` with a training that waits while FOLDER/hold is there: for tests that end something in the middle of it.

Patches the engine before the executor is forked, and so in all of its processes.
"""

import sys
import time
from pathlib import Path

from fedkit.cli.main import main
from fedkit.training.engine import REFERENCE

folder = Path(sys.argv.pop(1))
real = REFERENCE.train


def slow(*arguments):
    """Train once the test lets go."""
    (folder / "training").touch()
    while (folder / "hold").exists():
        time.sleep(0.02)
    return real(*arguments)


if __name__ == "__main__":
    # It is frozen, and what every site holds.
    object.__setattr__(REFERENCE, "train", slow)
    main()
