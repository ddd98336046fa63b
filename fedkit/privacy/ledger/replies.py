"""The replies that a ledger stores: bit for bit, or not at all."""

from __future__ import annotations

import hashlib

from fedkit.errors import PrivacyError
from fedkit.privacy.ledger.book import Reservation
from fedkit.privacy.ledger.checks import gone
from fedkit.privacy.ledger.file import LedgerFile
from fedkit.privacy.ledger.sealed import UNREAD
from fedkit.privacy.ledger.sqlite_errors import RESTORE


def answer(file: LedgerFile, there: Reservation, what: str) -> bytes:
    """The committed reply, bit for bit.

    Raises:
        PrivacyError: FK354, the round failed; FK349, FK331, as :func:`stored`.
    """
    if there.failed:
        raise PrivacyError(
            f"{what} failed while it was computed and is closed: a second try would show how often it fails",
            code="FK354",
            remedy="see the site's log for the failure, and go on with the next round",
        )
    return stored(file, there, what)[0]


def stored(file: LedgerFile, there: Reservation, what: str) -> tuple[bytes, bytes]:
    """The committed reply and the state after it, bit for bit.

    Raises:
        PrivacyError: FK349, they are gone; FK331, they are not what was committed; FK359, their key is missing.
    """
    found = file.reply(there.commit or "", what)
    if found is None:
        raise gone(what)
    if tuple(hashlib.sha256(part).hexdigest() for part in found) != there.stored:
        raise PrivacyError(f"the reply to {what} was altered after it was committed", code="FK331", remedy=RESTORE)
    return found


def replies(file: LedgerFile) -> tuple[int, int]:
    """Every committed reply of a run that was not pruned is there, bit for bit.

    Returns:
        How many there are, and how many more could not be looked at for want of the key.

    Raises:
        PrivacyError: FK349, one is gone; FK331, one was altered; FK359, one does not open with the key that is given.
    """
    committed = [
        (f"round {round_} of run {name}", reservation)
        for account in file.refresh().accounts.values()
        for name, run in account.runs.items()
        if not run.pruned
        for (_, round_), reservation in run.reserved.items()
        if reservation.commit is not None
    ]
    unread = 0
    for what, reservation in committed:
        try:
            stored(file, reservation, what)
        except PrivacyError as error:
            if error.code != UNREAD or file.vault is not None:
                raise
            unread += 1
    return len(committed) - unread, unread
