"""``fedkit client``: the commands of the deployed site."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from fedkit.errors import FedkitError

_HELP = """\
Usage: fedkit client [--help]

This version has no commands of its own for a deployed site. Its Flower app,
fedkit_client.app, runs in `fedkit simulate NAME federation=flower`.

Example: fedkit client --help
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
        f"fedkit client has no command {arguments[0]!r}", code="FK012", remedy="run `fedkit client --help`"
    )
