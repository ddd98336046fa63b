"""What the site's audit log recalls of a file that can be lost without a trace: who has withdrawn.

::

    FK593  the log tells of withdrawals that withdrawals.jsonl does not have

It finds a file that was deleted or put back alone. Of a folder that was put back as a whole, or a log that was cut, it
knows nothing: exports on another machine and the coordinator's heads tell of those.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from fedkit.errors import FederationError
from fedkit.governance.terms import SiteFile
from fedkit.storage.audit_line import Line
from fedkit.storage.audit_verify import readable_lines
from fedkit_client.folder import SiteFolder
from fedkit_client.pseudonyms import pseudonym_key
from fedkit_client.withdrawals import read_withdrawn


def withdrawn(folder: SiteFolder, dataset: str) -> frozenset[str]:
    """The ids of a data set whose withdrawal stands, as many at least as the audit log tells of.

    Raises:
        FederationError: FK593, the file has fewer, or cannot be read.
        DeploymentError: FK706; FK790, FK791, FK793, the folder's key.

    Guarantee: a withdrawal that was logged and is not in the file is never taken for none.
    """
    # The log first: a command holds the file's lock from before its first line until its ids are written.
    marks = _withdrawn_marks(folder, dataset)
    ids = read_withdrawn(folder.withdrawals, dataset, folder.vault())
    if marks:
        key = pseudonym_key(folder, make=False)
        missing = len(marks - {key.of(dataset, each).hex() for each in ids})
        if missing:
            raise FederationError(
                f"{folder.withdrawals.name} has {len(ids)} withdrawals of {dataset} that stand, and the audit log tells"
                f" of {missing} that it does not have",
                code="FK593",
                remedy="put it back, with pseudonym.key, from the folder's backup; where a `fedkit client withdraw` was"
                " interrupted, withdraw those ids again",
            )
    return ids


def require_withdrawals(file: SiteFile, folder: SiteFolder) -> int:
    """`withdrawn` for every data set; returns how many withdrawals stand."""
    return sum(len(withdrawn(folder, dataset)) for dataset in file.data)


def _withdrawn_marks(folder: SiteFolder, dataset: str) -> set[str]:
    marks: set[str] = set()
    for line in recalled(folder, ("withdrawn", "revoked")):
        if line.fields.get("dataset") == dataset:
            (marks.add if line.kind == "withdrawn" else marks.discard)(str(line.fields.get("unit")))
    return marks


def recalled(folder: SiteFolder, kinds: tuple[str, ...]) -> Iterator[Line]:
    """Lines of these kinds, of the folders before first; nothing is verified, for `log verify` does it."""
    for path in logs_of(folder):
        if path.exists():
            yield from (line for line in readable_lines(path, kinds) if line.kind in kinds)


def all_recalled(folder: SiteFolder, kinds: tuple[str, ...], unknown: str) -> list[Line]:
    """The same at once.

    Args:
        unknown: what nobody knows without them, in words.

    Raises:
        FederationError: FK593, a log is there and cannot be read.
    """
    try:
        return list(recalled(folder, kinds))
    except OSError as error:
        raise FederationError(
            f"{folder.audit.name} cannot be read ({error.strerror}), so nobody knows {unknown}",
            code="FK593",
            remedy="make it readable for the site's own user",
        ) from None


def logs_of(folder: SiteFolder) -> list[Path]:
    """The site's audit log, behind those of the folders that were taken over before, oldest first."""
    before = sorted(folder.path.glob("audit.before-*.jsonl"), key=lambda path: (len(path.name), path.name))
    return [*before, folder.audit]
