"""The written claim, docs/privacy.md, beside each report: what is promised must be read where the result is."""

from __future__ import annotations

from pathlib import Path

NAME = "privacy.md"
_PACKAGE = Path(__file__).resolve().parents[1]


def claim() -> str:
    """The text of docs/privacy.md, from the installed package or the repository; empty where it is missing."""
    for base in (_PACKAGE, _PACKAGE.parent):
        path = base / "docs" / NAME
        if path.is_file():
            return path.read_text(encoding="utf-8")
    return ""
