"""The written claim, docs/privacy.md, beside each report: what is promised must be read where the result is."""

from __future__ import annotations

from pathlib import Path

NAMES = ("privacy.md", "ledger.md")
_PACKAGE = Path(__file__).resolve().parents[1]


def claim(name: str = NAMES[0]) -> str:
    """A page of docs/, from the installed package or the repository; empty where it is missing."""
    for base in (_PACKAGE, _PACKAGE.parent):
        path = base / "docs" / name
        if path.is_file():
            return path.read_text(encoding="utf-8")
    return ""
