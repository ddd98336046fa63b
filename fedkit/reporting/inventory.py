"""A site's data card as one HTML file that loads nothing: for a data protection officer's desk."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fedkit.reporting.incident import presumed_text
from fedkit.reporting.page import render

_TEXTS = {
    "legal_basis": "Legal basis",
    "residency": "Residency",
    "retention": "Retention",
    "contact": "Contact",
}
UNSAID = "not declared"


def inventory_page(card: Mapping[str, Any], version: str) -> str:
    """The page of an inventory's plain values; equal values give equal bytes."""
    datasets = [
        {"name": name, "facts": _facts(data), "rules": _rules(data), "columns": data["columns"], **_released(data)}
        for name, data in card["datasets"].items()
    ]
    gone = [{"name": name, **_released(data)} for name, data in card["no_longer_offered"].items()]
    return render("inventory.html.j2", {"card": card, "datasets": datasets, "gone": gone, "version": version})


def _facts(data: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        ("Description", data["description"] or UNSAID),
        ("Source", data["source"]),
        ("Declared units", f"{data['records']:,} ({data['unit']}s)"),
        *((label, data[key] or UNSAID) for key, label in _TEXTS.items()),
    ]


def _rules(data: Mapping[str, Any]) -> list[tuple[str, str]]:
    rules = [
        ("Most that all runs together may cost", f"epsilon {data['max_epsilon']:g} at delta {data['delta']:g}"),
        ("Models", ", ".join(data["models"])),
        ("Strategies", ", ".join(data["strategies"])),
        ("Runs without privacy", "ADMITTED: they reveal what they like" if data["allow_unprotected"] else "refused"),
    ]
    for heading in ("policy", "consent"):
        said = data[heading]
        if said is None:
            unsaid = "no rule" if heading == "policy" else "no filter: every row may be used"
            rules.append((heading.capitalize(), unsaid))
        elif isinstance(said, Mapping):
            rules += [(f"{heading.capitalize()}: {key}", _words(value)) for key, value in said.items()]
        else:
            rules.append((heading.capitalize(), _words(said)))
    return rules


def _words(value: Any) -> str:
    if isinstance(value, Mapping):
        return "; ".join(f"{key}: {_words(inner)}" for key, inner in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_words, value)) or "none"
    return "not set" if value is None else str(value)


def _released(data: Mapping[str, Any]) -> dict[str, Any]:
    budget = data["budget"]
    if budget["problem"]:
        told = f"The budget is not known: {budget['problem']}."
    else:
        told = (
            f"Spent so far: epsilon {budget['epsilon_spent']:g} of {budget['limit']:g} at delta {budget['delta']:g} for"
            f" one {budget['unit']}, {budget['adjacency'].replace('_', ' ')} adjacency. Of the budget"
            f" {budget['spent']:.1%} is spent, {budget['held']:.1%} held, {budget['left']:.1%} left."
        )
    runs = [
        {
            **run,
            "rounds": "; ".join(f"{purpose} {_ranges(numbers)}" for purpose, numbers in run["answered"].items()),
            "gone": presumed_text(run["presumed"]) if run["presumed"] else "",
        }
        for run in data["released"]
    ]
    return {"budget": told, "runs": runs, "uncharged": data["uncharged"]}


def _ranges(numbers: list[int]) -> str:
    """Whole numbers in ascending order, in short.

    >>> _ranges([1, 2, 3, 5, 7, 8])
    '1 to 3, 5, 7 to 8'
    """
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][-1] + 1:
            parts[-1] = [parts[-1][0], number]
        else:
            parts.append([number])
    return ", ".join(" to ".join(map(str, part)) for part in parts)
