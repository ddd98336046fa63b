"""A ledger's history as a text that is kept elsewhere: what a restored backup is held against."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fedkit.errors import PrivacyError
from fedkit.privacy.ledger.book import Book
from fedkit.privacy.ledger.elsewhere import reopened, told, uncharged
from fedkit.privacy.ledger.facts import Created, Opened, Reserved, decode
from fedkit.storage.chain import ChainBroken, Entry, Head, common_length, genuine, verify

FORMAT = "fedkit-ledger-export-1"
_RECONCILE = "`fedkit ledger reconcile` it with the export and the coordinator's receipts"


@dataclass(frozen=True)
class Export:
    """All entries of a ledger at some time; its head is that of the last one.

    Attributes:
        ledger: the ledger's random name.
    """

    ledger: str
    entries: tuple[Entry, ...]

    @property
    def head(self) -> Head:
        """Where the history ended."""
        return Head(self.entries[-1].seq, self.entries[-1].digest)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "format": FORMAT,
            "ledger": self.ledger,
            "seq": self.head.seq,
            "head": self.head.digest,
            "entries": [asdict(entry) for entry in self.entries],
        }


def exported(entries: Iterable[Entry], ledger: str) -> Export:
    """The export of a verified chain."""
    return Export(ledger, tuple(entries))


def read_export(path: Path) -> Export:
    """The export in a file, verified.

    Raises:
        PrivacyError: FK350, no export, or one that was altered.
    """
    values = _json(path)
    try:
        entries = tuple(_entry(each) for each in values["entries"])
        head = Head(int(values["seq"]), str(values["head"]))
        if values["format"] != FORMAT or not entries:
            raise ValueError(f"format {values['format']!r}")
        verify(entries, head=head)
        first, _ = decode(entries[0].body)
        if not isinstance(first, Opened) or first.ledger != values["ledger"]:
            raise ValueError("its first entry opens no ledger of that name")
        return Export(first.ledger, entries)
    except (ChainBroken, PrivacyError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise _unusable(path, f"no export of a ledger, or an altered one ({_why(error)})") from error


def read_receipts(path: Path, ledger: str) -> list[Entry]:
    """The reservations that the coordinator's receipts show: a JSON list, or one receipt a line.

    A receipt carries the reservation's own entry, so that its events cannot be made smaller afterwards. One that was
    invented can only charge more.

    Raises:
        PrivacyError: FK350, no receipts, altered ones, or those of another ledger.
    """
    values = _json(path, lines=True)
    found = []
    for number, receipt in enumerate(values if isinstance(values, list) else [values], 1):
        try:
            entry, name = _entry(receipt["entry"]), str(receipt["ledger"])
            fact, _ = decode(entry.body)
            untouched = genuine(entry)
        except (PrivacyError, ValueError, KeyError, TypeError, OverflowError) as error:
            raise _unusable(path, f"receipt {number} is none ({_why(error)})") from error
        if not untouched or not isinstance(fact, Reserved):
            raise _unusable(path, f"receipt {number} was altered")
        if name != ledger:
            raise _unusable(path, f"receipt {number} is from the ledger {name}, this one is {ledger}")
        found.append(entry)
    return found


def check_against(entries: Sequence[Entry], book: Book, known: Export | Head) -> None:
    """A ledger must go on where a head that was seen elsewhere ended, or have charged all that it lacks.

    Guarantee: with an export, every reservation that it shows is this ledger's own or charged by a reconciliation with
    the same events, every budget is there with the same constants, and no round that it shows as answered is open. A
    bare head shows none of this: it must be an entry of this ledger, at its place.

    Raises:
        PrivacyError: FK334, the ledger is older; FK335, its history is another one; FK350, another ledger's export.
    """
    if isinstance(known, Head):
        _check_head(entries, known)
        return
    if known.ledger != book.ledger:
        raise PrivacyError(
            f"the export is of the ledger {known.ledger}, this one is {book.ledger}",
            code="FK350",
            remedy="use this ledger's export",
        )
    shared = common_length(entries, known.entries)
    if shared == len(known.entries):
        return
    shown = told(known.entries[shared:])
    lacking = len(uncharged(shown.spent, {entry.digest for entry in entries}, book))
    for created in shown.created:
        _check_budget(created, book)
    if lacking or (twice := len(reopened(shown.answered, book))):
        what = (
            f"{lacking} charges that the ledger lacks" if lacking else f"{twice} answers to rounds that it holds open"
        )
        older = known.head.seq > len(entries)
        raise PrivacyError(
            f"beyond entry {shared}, the last that both share, the export shows {what}: a restored backup "
            + ("has forgotten what was spent since" if older else "went on by itself"),
            code="FK334" if older else "FK335",
            remedy=_RECONCILE,
        )


def _check_head(entries: Sequence[Entry], head: Head) -> None:
    if head.seq > len(entries):
        raise PrivacyError(
            f"the ledger ends at entry {len(entries)}, its exported head is entry {head.seq}: a restored backup has"
            " forgotten what was spent since",
            code="FK334",
            remedy=_RECONCILE,
        )
    if head.seq > 0 and entries[head.seq - 1].digest != head.digest:
        raise PrivacyError(
            f"entry {head.seq} of the ledger is not the one that was exported: a restored backup went on by itself",
            code="FK335",
            remedy=_RECONCILE,
        )


def _check_budget(created: Created, book: Book) -> None:
    there = book.accounts.get(created.dataset)
    if there is None:
        raise PrivacyError(
            f"the export shows a budget of {created.dataset}, and the ledger has none: a restored backup has forgotten"
            " it",
            code="FK334",
            remedy=_RECONCILE,
        )
    if there.budget != created:
        raise PrivacyError(
            f"the budget of {created.dataset} is epsilon {there.budget.limit!r} at delta {there.budget.delta!r}; the"
            f" export shows epsilon {created.limit!r} at delta {created.delta!r}, fixed for good",
            code="FK335",
            remedy="restore a backup from before the budget was made anew, then `fedkit ledger reconcile` it",
        )


def _json(path: Path, *, lines: bool = False) -> Any:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise _unusable(path, f"it cannot be read ({error})") from error
    try:
        return json.loads(text)
    except RecursionError as error:
        raise _unusable(path, "it is nested too deeply") from error
    except ValueError as error:
        try:
            if lines:
                return [json.loads(line) for line in text.splitlines() if line.strip()]
        except (ValueError, RecursionError):
            pass
        raise _unusable(path, f"no JSON ({error})") from error


def _entry(values: Any) -> Entry:
    return Entry(int(values["seq"]), str(values["prev"]), str(values["body"]), str(values["digest"]))


def _why(error: Exception) -> str:
    return error.message if isinstance(error, PrivacyError) else str(error)


def _unusable(path: Path, why: str) -> PrivacyError:
    return PrivacyError(f"{path} cannot be used: {why}", code="FK350", remedy="use a file as fedkit wrote it")
