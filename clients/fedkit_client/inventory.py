"""``fedkit client inventory``: the site's data card, from its file, its ledgers and its log. No row is read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from datetime import UTC, datetime
from typing import Any

from fedkit.governance.card import CARD_TEXTS, columns_of
from fedkit.governance.terms import SiteData
from fedkit_client.folder import SiteFolder
from fedkit_client.recalled import logs_of
from fedkit_client.released import accounts, submitters
from fedkit_client.start import Opened
from fedkit_client.studies import studies_of, summaries

FORMAT = "fedkit-inventory-1"
_PLACES = ("source", "path", "url", "query")


def inventory(opened: Opened, now: float) -> dict[str, Any]:
    """What the site holds, what may be done with it, and what was released to whom; plain JSON types.

    Guarantee: no source is opened, and neither a path nor a URL of one is told.
    """
    folder, federation = opened.folder, opened.enrolment.federation
    who = submitters(logs_of(folder))
    datasets = {name: _dataset(data) | _released(folder, name, who) for name, data in opened.file.data.items()}
    gone = sorted(path.stem for path in folder.ledgers.glob("*.sqlite") if path.stem not in datasets)
    return {
        "format": FORMAT,
        "site": opened.file.site,
        "federation": federation,
        "at": datetime.fromtimestamp(now, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "datasets": datasets,
        "studies": summaries(studies_of(folder, opened.file.site)),
        "no_longer_offered": {name: _released(folder, name, who) for name in gone},
    }


def _dataset(data: SiteData) -> dict[str, Any]:
    declared, card = data.declaration, data.card
    return {
        "description": card.description or declared.description,
        **{key: getattr(card, key) for key in CARD_TEXTS if key != "description"},
        "source": declared.source.kind,
        "columns": {
            column: {"role": role, "sensitivity": card.sensitivity.get(column, "undeclared")}
            for column, role in columns_of(declared).items()
        },
        "records": data.records,
        "unit": data.unit,
        "max_epsilon": data.max_epsilon,
        "delta": data.delta,
        "models": list(data.models),
        "strategies": list(data.strategies),
        "allow_unprotected": data.allow_unprotected,
        "policy": _plain(data.policy),
        "consent": _plain(data.consent),
    }


def _plain(value: Any) -> Any:
    """Plain JSON types of a value of a site's file, and nothing of a source within it."""
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items() if key not in _PLACES}
    if isinstance(value, (set, frozenset)):
        return sorted(map(_plain, value))
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    # A path, or whatever else is no word of the file's, has no place in a card.
    return value if isinstance(value, (str, int, float, bool)) else None


def _released(folder: SiteFolder, name: str, who: Mapping[tuple[str, str], str]) -> dict[str, Any]:
    told = accounts(folder, name)
    runs = told.pop("runs")
    charged = {run["run"] for run in runs}
    for run in runs:
        run["submitter"] = who.get((name, run["run"]))
    # What a ledger did not charge was admitted without privacy, or refused by the ledger.
    uncharged = [
        {"run": run, "submitter": submitter}
        for (dataset, run), submitter in sorted(who.items())
        if dataset == name and run not in charged
    ]
    return {"budget": told, "released": runs, "uncharged": uncharged}
