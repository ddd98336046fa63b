"""What the audit log says of who has withdrawn: a file of withdrawals that lacks one of them was lost, or put back.

The log has keyed hashes; whose they are is known to nobody without the key and the ids.

::

    FK593  withdrawals that the log tells of and the file does not
"""

from __future__ import annotations

from fedkit.errors import FederationError
from fedkit.governance.terms import SiteFile
from fedkit.storage.audit_verify import readable_lines
from fedkit_client.folder import SiteFolder
from fedkit_client.pseudonyms import pseudonym_key
from fedkit_client.withdrawals import read_withdrawn


def require_withdrawals(file: SiteFile, folder: SiteFolder) -> int:
    """Refuse a folder whose log tells of a withdrawal, not taken back since, that its file does not have.

    Returns:
        How many withdrawals stand.

    Raises:
        FederationError: FK593.
        DeploymentError: FK706, others may read the files.

    Guarantee: no record is read.
    """
    told, count = _told(folder), 0
    for dataset in file.data:
        units = read_withdrawn(folder.withdrawals, dataset)
        count += len(units)
        if not (standing := told.get(dataset)):
            continue
        key = pseudonym_key(folder, make=False)
        missing = standing - {key.of(dataset, unit).hex() for unit in units}
        if missing:
            raise FederationError(
                f"the audit log tells of {len(standing):,} withdrawals from {dataset}, and {folder.withdrawals.name}"
                f" lacks {len(missing):,} of them",
                code="FK593",
                remedy="restore it and pseudonym.key from the folder's backup; if only the last `fedkit client"
                " withdraw` was interrupted, give it again",
            )
    return count


def _told(folder: SiteFolder) -> dict[str, set[str]]:
    """Data set to the hashes of those whose newest line is a withdrawal."""
    found: dict[str, set[str]] = {}
    try:
        for line in readable_lines(folder.audit, ("withdrawn", "revoked")) if folder.audit.exists() else ():
            units, unit = found.setdefault(str(line.fields.get("dataset")), set()), str(line.fields.get("unit"))
            if line.kind == "withdrawn":
                units.add(unit)
            else:
                units.discard(unit)
    except OSError as error:
        raise FederationError(
            f"{folder.audit.name} cannot be read ({error.strerror}), so nobody knows who has withdrawn",
            code="FK593",
            remedy="make it readable for the site's own user",
        ) from None
    return found
