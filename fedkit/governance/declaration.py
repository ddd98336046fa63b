"""What two sides mean when they say that they declare the same table."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict

from fedkit.config.experiment import DataConfig

_EACH_SITES_OWN = ("source", "site_column", "unit_column", "records", "partition")
_NO_MEANING = ("description",)


def declaration_digest(data: DataConfig) -> str:
    """SHA-256 of all that a declaration says of a table, hex.

    Left out is what each site has its own of: the source, the columns that name sites and units, the counts. Whether
    there is a unit column is left out too; the unit is compared by itself. The order of columns means nothing here:
    it is the job's everywhere.

    >>> from fedkit.config.compose import compose
    >>> heart = compose("heart_disease").data
    >>> declaration_digest(heart) == declaration_digest(compose("heart_disease", ["data.site_column=ward"]).data)
    True
    """
    values = asdict(data)
    for key in (*_EACH_SITES_OWN, *_NO_MEANING):
        del values[key]
    values["missing"]["codes"].pop(data.unit_column, None)
    if values["features"]["shape"] is None:
        # As if the key did not exist: what a site has approved of its table before there was one stays approved.
        del values["features"]["shape"]
    text = json.dumps(values, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(b"fedkit-declaration-1\n" + text.encode()).hexdigest()
