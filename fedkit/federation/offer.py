"""An offer: what a site's file declares, signed by the site and told to the coordinator; declared constants only."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from fedkit.errors import FederationError
from fedkit.federation import strict_json
from fedkit.federation.envelope import Signed, check_times, read, seal, unseal
from fedkit.governance.declaration import declaration_digest
from fedkit.governance.offered import offered_policy, read_offered
from fedkit.governance.terms import SiteFile
from fedkit.storage.keys import SigningKey

MOST_DATASETS = 100
MOST_NAMES = 100
LONGEST_LIFE = 10 * 366 * 86_400.0
SKEW = 300.0
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_FIELDS = {"wire": int, "site": str, "issued_at": int, "version": str, "datasets": dict}
_DATASET: Mapping[str, type | tuple[type, ...]] = {
    "records": int, "unit": str, "delta": strict_json.NUMBER, "max_epsilon": strict_json.NUMBER, "models": list,
    "strategies": list, "unprotected": bool, "declaration": str,
}  # fmt: skip
_POLICY = "policy"
"""Optional: a site of before does not tell it."""


@dataclass(frozen=True)
class OfferedData:
    """One data set that a site offers.

    Attributes:
        records: declared units.
        unit: ``record`` or ``patient``.
        delta, max_epsilon: the site's bounds of one run.
        models, strategies: names that it admits.
        unprotected: whether it trains without privacy.
        declaration: SHA-256 of the canonical declaration, hex.
        policy: what the site discloses of it, see `fedkit.governance.offered`; None from a site of before.
    """

    records: int
    unit: str
    delta: float
    max_epsilon: float
    models: tuple[str, ...]
    strategies: tuple[str, ...]
    unprotected: bool
    declaration: str
    policy: Mapping[str, Any] | None = field(default=None)


@dataclass(frozen=True)
class Offer:
    """What a site offers; ``version`` is that of its fedkit."""

    site: str
    issued_at: int
    version: str
    datasets: Mapping[str, OfferedData]


def make_offer(site: str, version: str, datasets: Mapping[str, OfferedData], key: SigningKey, now: float) -> Signed:
    """Sign an offer with the site's key.

    Raises:
        FederationError: FK540, whatever `open_offer` would refuse.
    """
    values = {
        "site": site,
        "issued_at": int(now),
        "version": version,
        "datasets": {name: _plain(data) for name, data in datasets.items()},
    }
    signed = seal("offer", values, key)
    open_offer(signed.text, key.public, site, now)
    return signed


def offered(site_file: SiteFile) -> dict[str, OfferedData]:
    """What a site's file lets others know: declared constants, and no path, column or limit of its own."""
    return {
        name: OfferedData(
            data.records,
            data.unit,
            data.delta,
            data.max_epsilon,
            data.models,
            data.strategies,
            data.allow_unprotected,
            declaration_digest(data.declaration),
            offered_policy(data.policy, data.records),
        )
        for name, data in site_file.data.items()
    }


def open_offer(text: str, public: bytes, site: str, now: float) -> Offer:
    """Read and verify an offer.

    Args:
        public: the raw key that the site gave when it joined.
        site: its name.

    Raises:
        FederationError: FK540, unreadable; FK541, another key; FK542, another site; FK543, from the future; FK547.
    """
    signed = read(text)
    values = strict_json.fields(unseal(signed, "offer", public), _FIELDS, "the offer")
    if values["site"] != site:
        raise FederationError("the offer is another site's", code="FK542", remedy="send the site's own")
    issued = values["issued_at"]
    check_times("offer", issued, issued + int(LONGEST_LIFE), now, longest=LONGEST_LIFE, skew=SKEW)
    if not _NAME.fullmatch(values["version"].replace("+", "-")):
        raise strict_json.unreadable("the offer", "names no version")
    if len(values["datasets"]) > MOST_DATASETS:
        raise strict_json.unreadable("the offer", f"has more than {MOST_DATASETS} data sets")
    datasets = {name: _data(name, data) for name, data in values["datasets"].items()}
    return Offer(site, issued, values["version"], datasets)


def _plain(data: OfferedData) -> dict[str, Any]:
    return {key: value for key, value in asdict(data).items() if key != _POLICY or value is not None}


def _data(name: str, raw: Any) -> OfferedData:
    told = isinstance(raw, dict) and _POLICY in raw
    values = strict_json.fields(raw, {**_DATASET, **({_POLICY: dict} if told else {})}, "the offer")
    models, strategies = values["models"], values["strategies"]
    good = (
        _NAME.fullmatch(name)
        and 1 <= values["records"] < 10**12
        and values["unit"] in ("record", "patient")
        and 0 < values["delta"] < 1
        and values["max_epsilon"] > 0
        and math.isfinite(values["max_epsilon"])
        and _DIGEST.fullmatch(values["declaration"])
        and all(
            len(names) <= MOST_NAMES and all(isinstance(one, str) and _NAME.fullmatch(one) for one in names)
            for names in (models, strategies)
        )
    )
    if not good:
        raise strict_json.unreadable("the offer", "has a data set with a value out of its bounds")
    if told:
        read_offered(values[_POLICY], float(values["max_epsilon"]), values["records"])
    return OfferedData(
        **{key: values[key] for key in ("records", "unit", "unprotected", "declaration")},
        delta=float(values["delta"]),
        max_epsilon=float(values["max_epsilon"]),
        models=tuple(models),
        strategies=tuple(strategies),
        policy=values.get(_POLICY),
    )
