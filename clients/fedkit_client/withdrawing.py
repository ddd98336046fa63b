"""Leaving units out from the next round on, or taking that back; for the command line and the console alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedkit.config.wording import shown, suggestion
from fedkit.errors import FederationError
from fedkit.governance.consent_rules import require_ids
from fedkit_client.audit import record, signed_by
from fedkit_client.forgotten import forgotten, forgotten_lines
from fedkit_client.lineage import runs_with
from fedkit_client.pseudonyms import unit_pseudonym
from fedkit_client.start import Opened
from fedkit_client.unseen import restores, restores_lines, unseen
from fedkit_client.withdrawals import Action, note


def require_data(opened: Opened, data: str) -> None:
    """Refuse a data set that is not the site's, or in which no column holds ids.

    Raises:
        FederationError: FK560, FK592.
    """
    own = opened.file.data.get(data)
    if own is None:
        raise FederationError(
            f"the site has no data set {shown(data)}; {suggestion(data, opened.file.data)}", code="FK560"
        )
    require_ids(own, data)


def withdraw_units(
    opened: Opened, data: str, ids: Sequence[str], now: float, *, revoke: bool = False, by: str = ""
) -> dict[str, Any]:
    """Note withdrawals, or that they are taken back; the audit log has keyed hashes, never an id.

    Args:
        ids: as `fedkit_client.withdrawals.unit_ids` makes them.
        by: the console's user.

    Raises:
        FederationError: FK560, FK592, FK593.
        DeploymentError: FK700, FK706, FK770, FK771; FK790, FK791, FK793, the folder's key.
    """
    require_data(opened, data)
    kind: Action = "revoked" if revoke else "withdrawn"

    def first() -> None:
        for each in ids:
            record(opened.folder, kind, dataset=data, unit=unit_pseudonym(opened.folder, data, each), **signed_by(by))

    fresh = note(opened.folder.withdrawals, data, ids, kind, now, opened.folder.vault(), first=first)
    used = sum(bool(runs_with(opened.folder, data, each)) for each in ids)
    return {
        "data": data, "given": len(ids), "changed": len(fresh), "revoked": revoke, "used_before": used,
        "lineage_deleted": forgotten(opened.folder, data), "presumed": unseen(opened.folder, [data]),
        "restored": restores(opened.folder),
    }  # fmt: skip


def used_text(told: Mapping[str, Any]) -> str:
    """How many were in rounds so far, as far as anybody can still tell; of what :func:`withdraw_units` returned."""
    gone, missing = told["lineage_deleted"], told["presumed"]
    count = sum(each["count"] for each in missing)
    put_back = (
        f"; of {count} round{'' if count == 1 else 's'} that presumably left before the folder was put back nobody"
    )
    beside = f"{put_back} here can tell whose they were" if missing else ""
    beside += "".join(f"; {line}" for line in restores_lines(told["restored"]))
    if not gone:
        return f"{told['used_before']} of them were in rounds so far{beside}"
    runs = len({each["run"] for each in gone})
    return (
        f"{told['used_before']} of them were in rounds that are still known;"
        f" {forgotten_lines(gone)[-1]} ({runs} {'run' if runs == 1 else 'runs'} in all): whoever was in those"
        f" nobody can tell any more{beside}"
    )
