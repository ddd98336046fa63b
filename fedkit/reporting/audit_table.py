"""What ``fedkit audit`` shows on a terminal: each measurement beside the plan, and what contradicts the claim."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from fedkit.reporting import text
from fedkit.reporting.verdict import ADJACENCY

_STYLES = {"holds": "", "contradiction": "bold red", "not measured": "dim"}


def audit_table(audit: Mapping[str, Any]) -> RenderableType:
    """An audit's findings, of each check the site that is furthest from its plan.

    Args:
        audit: what ``fedkit audit --json`` prints.
    """
    sites = len(audit["claims"])
    parts: list[RenderableType] = [
        Text.assemble((audit["name"], "bold"), f": audit of {text.plural(sites, 'site')} through the training path"),
        *(Text.assemble(("Claim: ", "bold"), line) for line in claims_in_words(audit["claims"])),
        _findings(audit["findings"]),
        Text(
            "Noise and influence in units of the clip C; independence as correlations; spreads over those of"
            " independent draws. interval: of a measurement, or the range in which a correct mechanism stays; a correct"
            f" mechanism fails any of them once in {1 / audit['false_alarm']:,.0f} audits. Of several sites the one"
            " furthest from its plan is shown; --json has all.",
            style="dim",
        ),
    ]
    parts += [Text(f"! {note}", style="yellow") for note in audit["notes"]]
    parts += [Text.assemble(("Contradiction: ", "bold red"), line) for line in audit["contradictions"]]
    parts.append(Text(audit["statement"], style="bold red" if audit["contradictions"] else "green"))
    return Group(*parts)


def audit_statement(audit: Mapping[str, Any]) -> str:
    """The verdict in a sentence or two; an audit refutes a claim or fails to, and proves none."""
    found = [finding for finding in audit["findings"] if finding["status"] == "contradiction"]
    if found:
        checks = ", ".join(dict.fromkeys(finding["check"] for finding in found))
        return f"The claim does not stand: {text.plural(len(found), 'contradiction')} ({checks})."
    bounds = [finding for finding in audit["findings"] if finding["check"] == "bound.one_run"]
    largest = max(bounds, key=lambda finding: float(finding["estimate"]))
    return (
        f"No contradiction: the releases show epsilon to be at least {largest['estimate']:.2f}, and"
        f" {text.epsilon(largest['expected'])} is claimed. An audit refutes a claim or fails to; it proves none."
    )


def claims_in_words(claims: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What is claimed, each claim with the sites that make it."""
    sites: dict[str, list[str]] = {}
    for site, plan in claims.items():
        words = (
            f"epsilon {text.epsilon(plan['epsilon'])} at delta {text.small(plan['delta'])} for one {plan['unit']},"
            f" {ADJACENCY.get(plan['adjacency'], plan['adjacency'])} adjacency"
            f" (q {text.ceiled(plan['sample_rate'])}, sigma {text.floored(plan['noise_multiplier'])},"
            f" {text.plural(plan['steps'], 'step')} a round, {text.plural(plan['rounds'], 'round')}; histograms of the"
            f" evaluation: {text.evaluation(plan.get('evaluation'))})"
        )
        sites.setdefault(words, []).append(site)
    return [
        f"{words} at {'every site' if len(names) == len(claims) else ', '.join(names)}"
        for words, names in sites.items()
    ]


def _findings(findings: Sequence[Mapping[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("measured", ratio=5, overflow="fold")
    for name in ("value", "interval", "plan"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict", ratio=4, overflow="fold")
    for group, members in groupby(findings, key=lambda finding: finding["group"]):
        table.add_row(Text(group, style="bold"))
        checks: dict[str, list[Mapping[str, Any]]] = {}
        for finding in members:
            checks.setdefault(finding["check"], []).append(finding)
        for each in checks.values():
            table.add_row(*_row(each))
    return table


def _row(each: Sequence[Mapping[str, Any]]) -> list[Text]:
    worst = max(each, key=_distance)
    style = _STYLES[worst["status"]]
    where = f" ({worst['site']})" if worst["status"] == "contradiction" and worst["site"] != "all" else ""
    return [
        Text(f"  {worst['what']}{where}", style=style),
        Text(_number(worst["estimate"]), style=style),
        Text(_interval(worst["low"], worst["high"]), style=style),
        Text(_number(worst["expected"]), style=style),
        Text(worst["verdict"], style=style),
    ]


def _distance(finding: Mapping[str, Any]) -> float:
    """How far a finding is from what is expected, in widths of its interval; a contradiction is beyond them all."""
    if finding["status"] != "holds":
        return 1e9 if finding["status"] == "contradiction" else -1.0
    estimate, low, high, expected = (finding[name] for name in ("estimate", "low", "high", "expected"))
    if estimate is None or high is None:
        return 0.0
    middle = expected if expected is not None else 0.0
    width = high - low if low is not None else abs(high)
    return abs(estimate - middle) / width if width > 0 else 0.0


def _interval(low: float | None, high: float | None) -> str:
    if low is None and high is None:
        return ""
    if low is None or high is None:
        return f"<= {_number(high)}" if low is None else f">= {_number(low)}"
    return f"{_number(low)}..{_number(high)}"


def _number(value: float | None) -> str:
    if value is None:
        return ""
    if value == int(value) and abs(value) < 1e6:
        return f"{int(value)}"
    return f"{value:.4f}" if abs(value) < 0.1 else f"{value:.4g}"
