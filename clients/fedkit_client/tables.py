"""Whether a site's tables can be read as declared: looked at by a child under the site's limits, before it connects.

What bars a start follows from where a table lies and what its columns are. How many rows it has, and whether anybody
has withdrawn, bars nothing: a site that stays away because of them would tell so. Nor does a database that is away:
it may be back in a minute, and the site with it, while a node that has given up waits for a person.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedkit.errors import DataError, FedkitError
from fedkit.governance.terms import SiteData, SiteFile
from fedkit_client.check import Check, failed
from fedkit_client.consents import purposes_of, reading_now
from fedkit_client.folder import SiteFolder

AWAY = "FK223"
"""A database that cannot be reached."""

_SOURCE = re.compile(r"\bsource\.(?=[a-z])")
_OF_ROWS = frozenset({"FK222"})
"""More units than declared: a table that can be read, of which no run may make use."""


@dataclass(frozen=True)
class Look:
    """What became of one reading.

    Attributes:
        code: of what failed; empty where nothing did.
        bars: whether the site cannot start with it.
    """

    check: Check
    code: str = ""
    bars: bool = False

    def plain(self) -> dict[str, Any]:
        """As it goes over a frame's header."""
        each = self.check
        return {"check": [each.name, each.state, each.found, each.remedy], "code": self.code, "bars": self.bars}


def from_plain(told: Mapping[str, Any]) -> Look:
    """What a child has told of one reading."""
    return Look(Check(*told["check"]), str(told["code"]), bool(told["bars"]))


def look_at_tables(file: SiteFile, folder: SiteFolder) -> Iterator[Look]:
    """Read every table as a run would, for each purpose; counts are for this site's own eyes."""
    for name, own in file.data.items():
        for purpose in purposes_of(own):
            yield look_at(file, folder, name, purpose)


def look_at(file: SiteFile, folder: SiteFolder, name: str, purpose: str | None) -> Look:
    """Read one table as a run for a purpose would; leaves no trace."""
    from fedkit.data.load import load_site_dataset

    own, title = file.data[name], f"data {name}{f' for {purpose}' if purpose else ''}"
    try:
        read = reading_now(file, folder, name, purpose, time.time())
        dataset = load_site_dataset(own.declaration, file.site, private=True, read=read)
    except FedkitError as error:
        bars = isinstance(error, DataError) and error.code not in (AWAY, *_OF_ROWS)
        return Look(failed(title, _in_site_file(error, name, own)), error.code, bars)
    except Exception as error:
        remedy = "read it with another program; the source must lie where site.yaml says"
        return Look(
            Check(title, "fail", f"FK224: the table cannot be read ({type(error).__name__})", remedy), "FK224", True
        )
    (site,) = dataset.sites
    units = site.train.num_units + site.test.num_units
    which = " with consent" if own.consent is not None else ""
    text = f"all declared columns are there; {units} units{which} of at most {own.records} declared"
    if not units:
        return Look(Check(title, "warn", f"{text}: no row can be used", "check source, site_column and consent"))
    if dataset.warnings:
        remedy = "compare the table with its declaration; the site answers all the same"
        return Look(Check(title, "warn", f"{text}; {'; '.join(dataset.warnings)}", remedy))
    return Look(Check(title, "ok", text))


def _in_site_file(error: FedkitError, name: str, own: SiteData) -> FedkitError:
    """The same error, with the keys of a site's own file in its remedy."""
    if error.code == "FK222":
        remedy = f"set data.{name}.records in site.yaml to at least as many, best a round number above; a run's"
        return FedkitError(error.message, code=error.code, remedy=f"{remedy} data.records for this site must be equal")
    register = own.consent.register if own.consent is not None else None
    file = register.source.path if register is not None else None
    key = "consent.register.source" if file and file in error.message else "source"
    remedy = _SOURCE.sub(f"data.{name}.{key}.", error.remedy).replace("the declaration's file", "site.yaml")
    return FedkitError(error.message, code=error.code, remedy=remedy)


def require_readable(looks: Sequence[Look]) -> None:
    """Refuse to start with a table that cannot be read, in the doctor's words.

    Raises:
        DataError: the code of the first one, with all that bars.
    """
    barred = [look for look in looks if look.bars]
    if not barred:
        return
    told = [f"{look.check.name}: {look.check.found.removeprefix(f'{look.code}: ')}" for look in barred]
    remedies = dict.fromkeys(look.check.remedy for look in barred if look.check.remedy)
    raise DataError("\n  ".join(told), code=barred[0].code, remedy="; ".join(remedies))


def remarks(looks: Sequence[Look]) -> list[str]:
    """What a site starts with all the same, said clearly."""
    return [
        f"{look.check.name}: {look.check.found}; the site connects all the same, and refuses what asks for it until"
        " that has changed"
        for look in looks
        if look.check.state == "fail" and not look.bars
    ]
