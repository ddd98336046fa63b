"""What a site notes of its own acts, without an identity or a secret: one line of its log each."""

from __future__ import annotations

import json
import logging

from fedkit_client import logs
from fedkit_client.folder import SiteFolder

_LOG = logging.getLogger("fedkit.events")


def record(folder: SiteFolder, kind: str, **fields: str | int | float | bool) -> None:
    """Note one event; a command that has no log yet appends to the running site's.

    Args:
        fields: flat; of a unit its pseudonym (`fedkit_client.pseudonyms.unit_pseudonym`) and nothing else.
    """
    if not logging.getLogger().handlers:
        logs.configure(folder.log)
    _LOG.info("%s %s", kind, json.dumps(fields, allow_nan=False))
