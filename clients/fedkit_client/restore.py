"""``fedkit client restore``: a site's folder out of its backup, paused, with nothing that may have been answered open.

A folder that is put back forgets what was spent since. What can be known of it is charged: what an export shows; and a
reservation without an answer, which may have been answered after the backup was made, is answered by nobody any more.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fedkit.errors import DeploymentError
from fedkit.governance.pause import MOST_REASON
from fedkit.privacy.ledger.export import Export, read_export
from fedkit.privacy.ledger.ledger import Ledger
from fedkit.privacy.ledger.reconcile import reconcile
from fedkit.storage.backup import LIST, becoming, described, make_folders, put_back, read_list
from fedkit_client.audit import record
from fedkit_client.backup import KIND
from fedkit_client.folder import SiteFolder
from fedkit_client.unseen import RESTORED


def put_back_site(backup: Path, target: Path, exports: Sequence[Path], now: float) -> dict[str, Any]:
    """Make a site's folder from a backup.

    Args:
        target: the folder to be made.
        exports: of ledgers, written after the backup was made.

    Returns:
        What was charged and closed by data set, and since when the folder knows nothing.

    Raises:
        DeploymentError: FK766, the backup is not whole; FK759; FK704, FK700; FK770, the log cannot be written.
        PrivacyError: FK350, an export that cannot be read, or is of no ledger there; what a ledger refuses.

    Guarantee: the folder is there as a whole, paused, with the line `restored` in its log, or not at all.
    """
    values = read_list(backup, KIND, ("site",))
    # Several of one ledger each count: which is the newest nobody has to know.
    given: dict[str, list[Export]] = {}
    for export in map(read_export, exports):
        given.setdefault(export.ledger, []).append(export)
    made_at = datetime.fromtimestamp(values["made_at"], UTC)
    with becoming(target) as scrap:
        put_back(backup, values["files"], scrap)
        make_folders(scrap, ("ledgers",))
        folder = SiteFolder(scrap)
        # Until a person has looked: nothing leaves on what this folder remembers.
        before = folder.pause.read()
        reason = f"put back from the backup of {made_at:%Y-%m-%d %H:%M} UTC; to be looked at"
        if before is not None:
            # Whoever lets the site go on is to know of both.
            reason += f"; it was paused before: {before.reason or 'without a reason'}"
        folder.pause.put(reason[:MOST_REASON], now)
        digest = described(backup / LIST)["sha256"]
        record(folder, RESTORED, made_at=values["made_at"], digest=digest, exports=len(exports))
        told = {path.stem: _reconciled(path, given) for path in sorted(folder.ledgers.glob("*.sqlite"))}
        if given:
            raise DeploymentError(
                f"an export is of the ledger {next(iter(given))}, and the backup holds none of that name",
                code="FK766",
                remedy="give the exports of this site's ledgers",
            )
    return {"folder": str(target), "site": values["site"], "made_at": values["made_at"], "ledgers": told}


def _reconciled(path: Path, given: dict[str, list[Export]]) -> dict[str, Any]:
    with Ledger(path) as ledger:
        shown = given.pop(ledger.file.book.ledger, [])
        done = [reconcile(ledger, each) for each in (shown or [ledger.export()])]
        charged, closed = sum(len(each.charged) for each in done), sum(each.closed for each in done)
        return {"export": bool(shown), "charged": charged, "closed": closed}
