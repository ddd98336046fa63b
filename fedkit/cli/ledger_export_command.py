"""``fedkit ledger export``: a ledger's history and head, to be kept on another machine."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedkit.cli.run_commands import Json

if TYPE_CHECKING:
    from fedkit.privacy.ledger.export import Export

LedgerPath = Annotated[Path, typer.Option("--ledger", metavar="FILE", help="The site's ledger.")]


def export(
    ledger: LedgerPath,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Write there, not to stdout.")] = None,
    json_: Json = False,
) -> None:
    """Write the ledger's history and head, to be kept on another machine.

    An older export of the same ledger is replaced; any other file stays as it is.

    Example: fedkit ledger export --ledger ledger.db --out head.json
    """
    from fedkit.privacy.ledger.file import may_write
    from fedkit.privacy.ledger.ledger import Ledger
    from fedkit.storage.atomic import write_json

    # What is replaced must be a part of what replaces it: a restored backup would destroy what shows that it is one.
    older = None if out is None else _replaced(ledger, out)
    with Ledger(ledger, head=older, read_only=not may_write(ledger)) as opened:
        found = opened.export()
    if out is None:
        sys.stdout.write(json.dumps(found.to_dict()) + "\n")
        return
    try:
        write_json(out, found.to_dict())
    except (OSError, ValueError) as error:
        from fedkit.errors import PrivacyError

        raise PrivacyError(
            f"{out} cannot be written ({getattr(error, 'strerror', None) or error})",
            code="FK350",
            remedy="give --out a file in a folder that is there and that this user may write",
        ) from error
    seen = {"out": str(out), "entries": found.head.seq, "head": found.head.digest}
    if json_:
        sys.stdout.write(json.dumps(seen) + "\n")
        return
    sys.stdout.write(f"{found.head.seq} entries, head {found.head.digest}, in {out}: keep it on another machine\n")


def _replaced(ledger: Path, out: Path) -> Export | None:
    """The export that ``out`` holds already; None where there is no file."""
    from fedkit.errors import PrivacyError
    from fedkit.privacy.ledger.export import read_export

    remedy = "give --out another path, such as head.json on another disk"
    try:
        if not out.exists():
            return None
        own = ledger.exists() and ledger.samefile(out)
    except (OSError, ValueError) as error:
        raise PrivacyError(f"{out} cannot be written ({error})", code="FK350", remedy=remedy) from error
    if own or not out.is_file():
        what = "is the ledger itself" if own else "is no regular file"
        raise PrivacyError(f"{out} {what}, and would be replaced by its export", code="FK350", remedy=remedy)
    try:
        return read_export(out)
    except PrivacyError as error:
        raise PrivacyError(
            f"{out} is there already and is no export of a ledger that could be replaced", code="FK350", remedy=remedy
        ) from error
