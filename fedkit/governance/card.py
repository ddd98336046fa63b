"""What a site's file says of a data set for people to read: no run is admitted or refused by any of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Protocol

from fedkit.config.experiment import DataConfig
from fedkit.config.wording import shown, suggestion

SENSITIVITIES = ("direct-identifier", "quasi-identifier", "special-category", "ordinary")
CARD_KEYS = ("sensitivity", "card")
MOST_TEXT = 2000


@dataclass(frozen=True)
class DataCard:
    """Declared by the hospital, checked by nobody.

    Attributes:
        sensitivity: column to its class; a column that is not named has none.
    """

    legal_basis: str = ""
    residency: str = ""
    retention: str = ""
    contact: str = ""
    description: str = ""
    sensitivity: Mapping[str, str] = field(default_factory=dict)


CARD_TEXTS = tuple(each.name for each in fields(DataCard) if each.name != "sensitivity")


class Found(Protocol):
    """Where problems of a site's file are noted."""

    def add(self, key: str, text: str) -> None:
        """Note one."""

    def mapping(self, value: Any, key: str, known: Any = None) -> dict[str, Any]:
        """Keys and values of a mapping, and nothing in the place of what is none."""


def columns_of(data: DataConfig) -> dict[str, str]:
    """Every column that a declaration lets be read, and what it is for."""
    roles = dict.fromkeys(data.subgroups, "subgroup")
    roles |= dict.fromkeys(data.features.numeric, "feature, number")
    roles |= dict.fromkeys(data.features.categorical, "feature, category")
    roles[data.target.column] = f"target, {data.target.kind}"
    for column, role in ((data.unit_column, "unit of privacy"), (data.site_column, "site")):
        if column is not None:
            roles[column] = role
    return roles


def card_of(found: Found, raw: Mapping[str, Any], key: str, columns: Collection[str]) -> DataCard:
    """The keys `CARD_KEYS` of a data set; every problem is noted.

    Args:
        raw: the data set's own keys.
        columns: those that are declared.
    """
    texts: dict[str, str] = {}
    for name, text in found.mapping(raw.get("card"), f"{key}.card", CARD_TEXTS).items():
        if text is None or name not in CARD_TEXTS:
            continue
        if not isinstance(text, str):
            found.add(f"{key}.card.{name}", f"is {shown(text)}; a text is needed, in quotes")
        elif len(text) > MOST_TEXT:
            found.add(f"{key}.card.{name}", f"has {len(text):,} characters; {MOST_TEXT:,} are the most")
        else:
            texts[name] = " ".join(text.split())
    classes: dict[str, str] = {}
    for column, said in found.mapping(raw.get("sensitivity"), f"{key}.sensitivity").items():
        if column not in columns:
            found.add(f"{key}.sensitivity.{column}", f"names no declared column; {suggestion(column, columns)}")
        elif said not in SENSITIVITIES:
            found.add(f"{key}.sensitivity.{column}", f"is {shown(said)}; {suggestion(str(said), SENSITIVITIES)}")
        else:
            classes[column] = said
    return DataCard(**texts, sensitivity=classes)
