"""What ``fedkit stats`` shows on a terminal: what it will charge, then a block a column, sites side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from fedkit.reporting import text
from fedkit.reporting.verdict import ADJACENCY

SUPPRESSED = "suppressed"
_MOST_SITES = 30
_MOST_COLUMNS = 6
LEGEND = (
    "±: the wider arm of the 95 % interval; it holds the noise and the width of a bin, about these records and not a"
    " population.",
    "Numbers are clipped to their declared range; each unit counts once, and its rows share it.",
    "suppressed: the noisy count is below a public threshold (10 units, or two standard deviations of its noise). That"
    " is for readability and courtesy; what protects a person is the noise.",
)


def charge_table(stats: Mapping[str, Any]) -> RenderableType:
    """What the answers will cost, before anything is computed.

    Args:
        stats: what ``fedkit stats --json`` prints; figures are not needed yet.
    """
    columns = len(stats["columns"])
    parts: list[RenderableType] = [
        Text.assemble(
            (stats["data"], "bold"),
            f": {text.plural(columns, 'column')}, {text.plural(len(stats['charges']), 'site')}; one noisy histogram a"
            f" column at each site, noise of {stats['noise_multiplier']:.4g} {stats['unit']}s on every cell",
        ),
        _charges(stats),
        Text(stats["statement"], style="green" if stats["private"] else "yellow"),
    ]
    parts += [Text(f"! {note}", style="yellow") for note in stats["notes"]]
    return Group(*parts)


def stats_table(stats: Mapping[str, Any]) -> RenderableType:
    """The figures of all columns.

    Args:
        stats: what ``fedkit stats --json`` prints.
    """
    scopes = {"pooled": stats["pooled"], **dict(list(stats["sites"].items())[:_MOST_COLUMNS])}
    counts = _table("", *scopes)
    counts.add_row(Text(f"{stats['unit']}s", style="bold"), *(_shown(each["count"]) for each in scopes.values()))
    parts: list[RenderableType] = [counts]
    for index, column in enumerate(stats["pooled"]["columns"]):
        parts += ["", _heading(column), *_column([scope["columns"][index] for scope in scopes.values()], list(scopes))]
    if (more := len(stats["sites"]) - _MOST_COLUMNS) > 0:
        parts += ["", Text(f"… {text.plural(more, 'site')} more: --json shows all", style="dim")]
    return Group(*parts, "", *(Text(line, style="dim") for line in LEGEND))


def stats_statement(stats: Mapping[str, Any]) -> str:
    """What is promised, in a sentence or two; never more than ``stats["private"]`` allows."""
    cost = (
        f"epsilon {text.epsilon(stats['epsilon'])} at delta {text.small(stats['delta'])} for one {stats['unit']} at"
        f" each site, {ADJACENCY[stats['adjacency']]} adjacency, by PLD"
    )
    if not stats["private"]:
        return (
            "Not private: the noise is seeded, for replay. With real noise (--noise secure) these figures would cost"
            f" {cost}."
        )
    if stats["ledgers"] is None:
        return f"Everything shown costs {cost}. No ledger keeps count: a second question costs as much again."
    if not any(charge["state"] == "new" for charge in stats["charges"].values()):
        return f"Nothing is charged: this question was paid for before, {cost}."
    return f"Everything shown costs {cost}, charged to each site's ledger before its records are read."


def stats_notes(stats: Mapping[str, Any]) -> list[str]:
    """What a reader must know beside the statement."""
    notes = []
    states = {site: charge["state"] for site, charge in stats["charges"].items()}
    if again := [site for site, state in states.items() if state == "answered"]:
        notes.append(
            f"{_names(again)}: answered before, the stored reply is shown again at no charge, whatever the records are"
            " now; --run NAME asks anew"
        )
    if paid := [site for site, state in states.items() if state == "paid"]:
        notes.append(f"{_names(paid)}: paid for before and never answered; goes on at no charge")
    if stats["unit"] == "patient":
        notes.append("a patient with records at several sites spends this at each of them")
    return notes


def _charges(stats: Mapping[str, Any]) -> Table:
    ledgers = stats["ledgers"] is not None
    table = _table("site", "sigma", "epsilon", *(("takes", "left before", "budget") if ledgers else ()))
    for site, charge in list(stats["charges"].items())[:_MOST_SITES]:
        row = [text.floored(charge["noise_multiplier"]), text.epsilon(charge["epsilon"])]
        if ledgers:
            takes = "nothing" if charge["state"] != "new" else f"{_percent(charge['share'], math.ceil)} %"
            limit = f"epsilon {charge['limit']:g} at {text.small(charge['budget_delta'])}"
            row += [takes, f"{_percent(charge['left'], math.floor)} %", limit]
        table.add_row(Text(site), *row)
    if len(stats["charges"]) > _MOST_SITES:
        table.add_row(Text(f"… {len(stats['charges']) - _MOST_SITES} more", style="dim"))
    return table


def _percent(share: float, rounded: Any) -> str:
    """A share of a budget in percent; what it takes is rounded up, what is left down."""
    return f"{rounded(share * 1e4) / 100:.2f}"


def _heading(column: Mapping[str, Any]) -> Text:
    kind = "number" if column["mean"] is not None else "category"
    role = "" if column["role"] in ("numeric", "categorical") else f", {column['role']}"
    return Text.assemble((column["name"], "bold"), f" ({kind}{role})")


def _column(found: Sequence[Mapping[str, Any]], scopes: Sequence[str]) -> list[RenderableType]:
    rows: list[tuple[str, list[Mapping[str, Any]]]] = [("missing", [each["missing"] for each in found])]
    if found[0].get("outside") is not None:
        rows.append(("outside its range", [each["outside"] for each in found]))
    if found[0]["mean"] is not None:
        rows += [(name, [each[name] for each in found]) for name in ("mean", "variance")]
        rows += [
            ("median" if q == "0.5" else f"{float(q):.0%} quantile", [each["quantiles"][q] for each in found])
            for q in found[0]["quantiles"]
        ]
    rows += [
        (cell["label"], [each["cells"][at]["count"] for each in found]) for at, cell in enumerate(found[0]["cells"])
    ]
    table, hidden = _table("", *scopes), []
    for label, figures in rows:
        if all(figure["suppressed"] for figure in figures):
            hidden.append(label)
            continue
        table.add_row(Text(label), *(_shown(figure) for figure in figures))
    parts: list[RenderableType] = [table] if table.row_count else []
    if hidden:
        parts.append(Text(f"{SUPPRESSED} everywhere: {'; '.join(hidden)}", style="dim"))
    return parts


def _shown(figure: Mapping[str, Any]) -> Text:
    if figure["suppressed"]:
        return Text(SUPPRESSED, style="dim")
    arm = max(figure["high"] - figure["value"], figure["value"] - figure["low"])
    # Two digits of the uncertainty; more of the value would be noise.
    digits = 0 if arm <= 0 else max(0, min(6, 1 - math.floor(math.log10(arm))))
    return Text(f"{figure['value']:,.{digits}f} ±{arm:,.{digits}f}")


def _names(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 5 else f"{', '.join(names[:5])} and {len(names) - 5} more"


def _table(*names: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for index, name in enumerate(names):
        table.add_column(Text(name), justify="left" if index == 0 else "right", overflow="fold")
    return table
