"""``fedkit config show | list``."""

from __future__ import annotations

import json
import sys

import typer

from fedkit.cli.run_commands import ConfigDir, Json, Words
from fedkit.cli.words import name_and_overrides

config_app = typer.Typer(
    help="See what an experiment says.\n\nExample: fedkit config show heart_disease",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@config_app.command()
def show(words: Words = None, config_dir: ConfigDir = None, json_: Json = False) -> None:
    """Print the resolved config.

    Example: fedkit config show heart_disease privacy.epsilon=1
    """
    from fedkit.config.compose import compose
    from fedkit.config.serialize import to_dict, to_yaml

    name, overrides = name_and_overrides(words or [])
    config = compose(name, overrides, config_dir)
    sys.stdout.write(json.dumps(to_dict(config)) + "\n" if json_ else to_yaml(config))


@config_app.command("list")
def list_(config_dir: ConfigDir = None, json_: Json = False) -> None:
    """Print every group, option and experiment with a line each.

    Example: fedkit config list --config-dir my
    """
    from fedkit.config.listing import options

    groups = options(config_dir)
    if json_:
        sys.stdout.write(json.dumps({group: dict(found) for group, found in groups.items()}) + "\n")
        return
    width = max((len(name) for found in groups.values() for name, _ in found), default=0)
    for group, found in groups.items():
        sys.stdout.write(f"{group}\n")
        for name, line in found:
            sys.stdout.write(f"  {name:<{width}}  {line}".rstrip() + "\n")
