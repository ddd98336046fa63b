"""``fedkit server``: the commands of the deployed coordinator."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from fedkit.errors import FedkitError

_HELP = """\
Usage: fedkit server [--help]

This version has no commands of its own for a deployed coordinator. Its Flower app,
fedkit_server.app, runs in `fedkit simulate NAME federation=flower`.

Example: fedkit server --help
"""


def main(arguments: Sequence[str]) -> None:
    """Run one command.

    Raises:
        FedkitError: there is no such command.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        sys.stdout.write(_HELP)
        return
    raise FedkitError(
        f"fedkit server has no command {arguments[0]!r}", code="FK011", remedy="run `fedkit server --help`"
    )
