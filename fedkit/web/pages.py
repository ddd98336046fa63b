"""Pages from Jinja2 templates over the report's style; what is filled in is escaped, and nothing in it is hidden."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.responses import HTMLResponse, Response

from fedkit import __version__
from fedkit.federation.trail import stamped
from fedkit.reporting.page import TEMPLATES
from fedkit.reporting.visible import plain, shower

if TYPE_CHECKING:
    from jinja2 import Environment

_HERE = Path(__file__).parent / "templates"


@cache
def _environment(own: Path, most: int | None = None) -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader([own, _HERE, TEMPLATES]),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=shower(most),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(stamped=stamped, version=__version__)
    environment.filters["plain"] = plain
    return environment


def render(own: Path, most: int | None, template: str, status: int = 200, **context: Any) -> Response:
    """A page as a response.

    Args:
        own: the folder of templates in which it is looked for first.
        most: characters of one value that are shown; None where what is cut off would hide what a person decides.
    """
    text = _environment(own, most).get_template(f"{template}.html.j2").render(context)
    return HTMLResponse(text.lstrip(), status_code=status)


@cache
def style() -> bytes:
    """The one style sheet: the report's, and what forms need besides."""
    return "\n".join(
        _environment(_HERE).get_template(name).render() for name in ("style.css.j2", "web.css.j2")
    ).encode()


@cache
def icon() -> bytes:
    """The picture in a browser's tab."""
    return (_HERE / "icon.svg").read_bytes()
