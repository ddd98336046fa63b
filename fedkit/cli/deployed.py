"""``fedkit server`` and ``fedkit client``: two literal entries, imported when used; an image may lack either."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec

import typer

from fedkit.errors import FedkitError


def server(context: typer.Context) -> None:
    """The coordinator's commands (package fedkit_server).

    Example: fedkit server --help
    """
    _run("fedkit_server", "the coordinator", context)


def client(context: typer.Context) -> None:
    """A site's commands (package fedkit_client).

    Example: fedkit client --help
    """
    _run("fedkit_client", "a site", context)


def _run(package: str, what: str, context: typer.Context) -> None:
    if find_spec(package) is None:
        raise FedkitError(
            f"package {package} ({what}) is not installed here",
            code="FK010",
            remedy="use the image or wheel that holds it",
        )
    import_module(f"{package}.cli").main(context.args)
