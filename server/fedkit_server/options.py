"""Options that several commands share, and how they print. Loads nothing heavy."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from fedkit_server.remote import Remote

Dir = Annotated[Path, typer.Argument(metavar="DIR", help="The coordinator's folder.")]
Profile = Annotated[
    Path | None,
    typer.Option("--profile", metavar="FOLDER", help="Your profile; the environment's FEDKIT_PROFILE if not given."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else.")]
RunName = Annotated[str, typer.Argument(metavar="RUN", help="A run, as `fedkit server status` lists it.")]
SETTINGS: dict[str, Any] = {"no_args_is_help": True, "rich_markup_mode": None, "add_completion": False}


def connect(profile: Path | None) -> Remote:
    """The coordinator that a profile names.

    Raises:
        DeploymentError: FK711, FK706.
    """
    from fedkit_server.profile import open_profile
    from fedkit_server.remote import Remote

    return Remote(open_profile(profile))


def show(value: dict[str, Any], text: str, *, json_: bool) -> None:
    """Print JSON or prose."""
    sys.stdout.write(json.dumps(value, allow_nan=False) + "\n" if json_ else f"{text.rstrip()}\n")
    sys.stdout.flush()


def stamp(seconds: float | None) -> str:
    """A time for people; empty for none.

    >>> stamp(None)
    ''
    """
    from datetime import UTC, datetime

    return "" if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
