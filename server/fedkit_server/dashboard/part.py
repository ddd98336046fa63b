"""One page of a long list: what a coordinator tells has any length, and a browser draws so much."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from fedkit.errors import DeploymentError
from fedkit.web.desk import Visit


@dataclass(frozen=True)
class Part:
    """What a page shows of a list.

    Attributes:
        number: of the page, from 1.
        pages: how many there are, one at least.
        total: rows in all.
    """

    rows: Sequence[Any]
    number: int
    pages: int
    total: int

    @classmethod
    def of(cls, visit: Visit, rows: Sequence[Any], size: int) -> Part:
        """The part that the address asks for.

        Raises:
            DeploymentError: FK722, there is no such page.
        """
        text, pages = visit.request.query_params.get("page", "1"), max(1, -(-len(rows) // size))
        good = text.isascii() and text.isdecimal() and len(text) <= 9 and 1 <= int(text) <= pages
        if not good:
            raise DeploymentError("there is no such page", code="FK722", remedy="use the links below the table")
        number = int(text)
        return cls(rows[(number - 1) * size : number * size], number, pages, len(rows))
