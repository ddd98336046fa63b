"""One mapping of a site's file after another, with every problem noted on the way."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedkit.config.wording import shown, suggestion

# YAML 1.1 takes 1e-5 for text; a person does not.
_EXPONENT = re.compile(r"[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+")


@dataclass
class Reader:
    """What was found so far in one mapping after another."""

    base: Path
    problems: list[str] = field(default_factory=list)

    def add(self, key: str, text: str) -> None:
        """Note a problem of one key."""
        self.problems.append(f"{key} {text}")

    def mapping(self, value: Any, key: str, known: Any = None) -> dict[str, Any]:
        """Keys and values; nothing in the place of what is none, and of an absent one."""
        if value is None:
            return {}
        if not isinstance(value, dict):
            self.add(key, f"is {shown(value)}; keys and values are needed")
            return {}
        for name in value:
            if not isinstance(name, str):
                self.add(f"{key}.{name}", f"is no text; write the name in quotes: '{name}'")
            elif known is not None and name not in known:
                self.add(f"{key}.{name}" if key else name, f"is unknown; {suggestion(name, known)}")
        return {name: inner for name, inner in value.items() if isinstance(name, str)}

    def number(self, value: Any, key: str, least: float, most: float, example: str) -> float:
        """A finite number within its bounds."""
        if isinstance(value, str) and _EXPONENT.fullmatch(value):
            value = float(value)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            self.add(key, f"is {shown(value)}; a number is needed, such as {example}")
        elif not (math.isfinite(value) and least <= value <= most):
            self.add(key, f"is {value}; it must be between {least:g} and {most:g}, such as {example}")
        else:
            return float(value)
        return least

    def flag(self, value: Any, key: str) -> bool:
        """true or false."""
        if not isinstance(value, bool):
            self.add(key, f"is {shown(value)}; true or false is needed")
        return value is True

    def column(self, value: Any, key: str) -> str | None:
        """The name of a column, or null."""
        if value is not None and not (isinstance(value, str) and value.strip()):
            self.add(key, f"is {shown(value)}; the name of a column is needed, or null")
            return None
        return value

    def names(self, value: Any, key: str, known: Any) -> tuple[str, ...]:
        """A list of at least one known name."""
        if not isinstance(value, list) or not value or not all(isinstance(name, str) for name in value):
            self.add(key, f"is {shown(value)}; a list of names is needed, such as [{min(known, key=len)}]")
            return ()
        for name in value:
            if name not in known:
                self.add(key, f"names {shown(name)}, which is unknown; {suggestion(name, known)}")
        return tuple(dict.fromkeys(value))

    def whole(self, value: Any, key: str, least: int, most: int, example: str) -> int:
        """A whole number within its bounds."""
        if isinstance(value, bool) or not isinstance(value, int):
            self.add(key, f"is {shown(value)}; a whole number is needed, such as {example}")
        elif not least <= value <= most:
            self.add(key, f"is {value}; it must be between {least:,} and {most:,}, such as {example}")
        else:
            return value
        return least

    def texts(self, value: Any, key: str, good: Callable[[str], bool], example: str) -> tuple[str, ...]:
        """A list of at least one text."""
        if not isinstance(value, list) or not value or not all(isinstance(each, str) for each in value):
            self.add(key, f"is {shown(value)}; a list is needed, such as [{example}]")
            return ()
        for each in value:
            if not good(each):
                self.add(key, f"holds {shown(each)}, which cannot be; write such as [{example}]")
        return tuple(dict.fromkeys(value))

    def choice(self, value: Any, key: str, known: Sequence[str]) -> str:
        """One of the known texts."""
        if not isinstance(value, str) or value not in known:
            self.add(key, f"is {shown(value)}; {suggestion(str(value), known)}")
            return known[0]
        return value
