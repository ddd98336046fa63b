"""One finding of ``fedkit client doctor`` and of the checks before a start, which say the same in the same words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from fedkit.errors import FedkitError

MARK = {"ok": "ok  ", "warn": "warn", "fail": "FAIL"}


@dataclass(frozen=True)
class Check:
    """One finding."""

    name: str
    state: Literal["ok", "warn", "fail"]
    found: str
    remedy: str = ""


def failed(name: str, error: FedkitError) -> Check:
    """A check that an error has ended."""
    return Check(name, "fail", f"{error.code}: {error.message or error}", error.remedy)


def tried(name: str, look: Callable[[], str]) -> Check:
    """A check that is a function: what it returns is in order, what it raises is not."""
    try:
        return Check(name, "ok", look())
    except FedkitError as error:
        return failed(name, error)
