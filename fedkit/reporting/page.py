"""Self-contained HTML pages: one Jinja2 environment, written in one piece."""

from __future__ import annotations

import errno
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedkit.errors import RunError
from fedkit.reporting import text
from fedkit.reporting.visible import shower
from fedkit.storage.atomic import write_text

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).parent / "templates"


@cache
def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        # Names of sites, columns and runs come from tables and command lines: everything is escaped.
        autoescape=True,
        undefined=StrictUndefined,
        # Nor may one be taken for another, or turn what stands beside it.
        finalize=shower(keep="\n\t"),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(
        describe=text.describe,
        number=text.number,
        epsilon=text.epsilon,
        small=text.small,
        floored=text.floored,
        evaluation_of=text.evaluation,
        ceiled=text.ceiled,
        count=lambda value: "–" if value is None else f"{value:,}",
    )
    return environment


def render(template: str, context: Mapping[str, Any]) -> str:
    """A page as text; equal contexts give equal bytes."""
    return _environment().get_template(template).render(context).lstrip()


def write(path: Path, content: str) -> Path:
    """Replace a file in one step, so that a reader never sees half of it.

    Raises:
        RunError: FK614, the file cannot be written.
    """
    try:
        write_text(path, content)
    except OSError as error:
        reason = error.strerror or str(error)
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise RunError(
            f"{path} cannot be written: {reason}",
            code="FK614",
            remedy="free space on that disk" if full else "make the folder writable",
        ) from error
    return path
