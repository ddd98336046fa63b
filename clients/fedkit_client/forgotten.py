"""Which lineage was deleted, by its receipts in the audit log: who was in those rounds nobody can tell any more."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from fedkit_client.folder import SiteFolder
from fedkit_client.recalled import all_recalled
from fedkit_client.retention import KIND


def forgotten(folder: SiteFolder, dataset: str = "", run: str = "") -> list[dict[str, Any]]:
    """The receipts of a data set, or of a run, oldest first; plain JSON types.

    Returns:
        Of each ``dataset``, ``run``, ``at`` and ``line``: when it was deleted, and the number of the receipt in the log
        that was the site's then.

    Raises:
        FederationError: FK593, the log is there and cannot be read.
    """
    return [
        {"dataset": str(line.fields.get("dataset")), "run": str(line.fields.get("run")), "at": line.at,
         "line": line.seq}
        for line in all_recalled(folder, (KIND,), "which lineage was deleted")
        if line.fields.get("what") == "lineage"
        and dataset in ("", line.fields.get("dataset"))
        and run in ("", line.fields.get("run"))
    ]  # fmt: skip


def forgotten_lines(found: list[dict[str, Any]]) -> list[str]:
    """The same for a person, a line a receipt."""
    return [
        f"lineage of run {each['run']} on {each['dataset']} was deleted on"
        f" {datetime.fromtimestamp(each['at'], UTC):%Y-%m-%d}, receipt line {each['line']} of the audit log"
        for each in found
    ]
