"""What ``fedkit data check`` shows on a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text


def table_report(report: Mapping[str, Any]) -> RenderableType:
    """A table's check: sites, columns, warnings, and whether a run could use it.

    Args:
        report: ``TableReport.to_dict()``.
    """
    parts: list[RenderableType] = [
        Text(
            f"{report['name']}: {report['rows']} rows, {len(report['sites'])} sites,"
            f" {report['repeated']} rows that repeat an earlier row or unit"
        )
    ]
    sites = _table("site", "rows", "units", "declared", "train", "test", "classes")
    for site in report["sites"]:
        classes = ", ".join(f"{label}: {count}" for label, count in site["classes"].items())
        numbers = [site[key] for key in ("rows", "units", "records_declared", "train", "test")]
        sites.add_row(Text(site["name"]), *(Text("–" if n is None else str(n)) for n in numbers), Text(classes or "–"))
    columns = _table("column", "role", "missing", "no number", "out of range", "undeclared")
    for column in report["columns"]:
        numbers = [column[key] for key in ("missing", "not_numbers", "out_of_range", "undeclared")]
        cells = [Text(str(n), style="dim" if n == 0 else "yellow") for n in numbers]
        columns.add_row(Text(column["name"]), Text(column["role"]), *cells)
    parts += [sites, columns] if report["sites"] else [columns]
    parts += [Text(f"! {warning}", style="yellow") for warning in report["warnings"]]
    parts += [Text(f"✗ {problem}", style="red") for problem in report["problems"]]
    if not report["problems"]:
        parts.append(Text("A run can use this table.", style="green"))
    return Group(*parts)


def _table(*names: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for index, name in enumerate(names):
        table.add_column(name, justify="left" if index == 0 or name in ("role", "classes") else "right")
    return table
