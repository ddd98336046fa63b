"""The shape that a user's YAML file may have: no aliases, no abyss; checked before anything builds its values."""

from __future__ import annotations

from pathlib import Path

import yaml

MAX_DEPTH = 20
MAX_BYTES = 1_000_000


def shape_problem(path: Path) -> str | None:
    """What makes a file unfit to be read, or None; a file that is no YAML at all is left to whoever reads it.

    A few lines of aliases can stand for billions of values, and an alias to its own parent for endless ones.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            return f"{path} has more than {MAX_BYTES} bytes; a config is shorter"
        depth = 0
        for event in yaml.parse(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader):
            line = event.start_mark.line + 1 if event.start_mark else 0
            if isinstance(event, yaml.AliasEvent):
                return f"{path}:{line} uses the alias *{event.anchor}; write the value out"
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH:
                return f"{path}:{line} is nested more than {MAX_DEPTH} deep"
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return None
    except RecursionError:
        return f"{path} is nested more than {MAX_DEPTH} deep"
    return None
