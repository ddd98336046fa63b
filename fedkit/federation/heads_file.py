"""The heads that one side keeps of the other's log, as a small signed file: what the other verifies its log against.

::

    FK772  a file that is no such thing, or is about other logs
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedkit.errors import DeploymentError, FedkitError
from fedkit.federation import strict_json
from fedkit.federation.envelope import read, seal, unseal
from fedkit.federation.heads import CONTRADICTED, KEPT, Told, told_by
from fedkit.storage.audit_line import Line
from fedkit.storage.audit_verify import readable_lines
from fedkit.storage.chain import Head
from fedkit.storage.keys import SigningKey

MOST_HEADS = 1000
_MOST_BYTES = 2 * strict_json.MOST_BYTES
_FIELDS: Mapping[str, type] = {"wire": int, "party": str, "issued_at": int, "heads": list}
_HEAD: Mapping[str, type] = {"party": str, "seq": int, "digest": str, "key": str, "signature": str}
Keys = Callable[[str], Sequence[bytes]]
"""A party's name to the raw keys that it has had; none for one that is not known."""


@dataclass(frozen=True)
class HeadsFile:
    """What such a file says.

    Attributes:
        party: who keeps the heads.
    """

    party: str
    issued_at: int
    heads: tuple[Told, ...]


def decisive(lines: Iterable[Line]) -> list[Told]:
    """Of all heads that a log keeps, those that say the most: each party's newest one, and those around an alert.

    A head pins all that was before it, so older ones add nothing unless the party has contradicted them.
    """
    found: list[Told] = []
    newest: dict[str, Told] = {}
    for line in lines:
        if line.kind not in KEPT:
            continue
        told = told_by(line)
        name = str(line.fields.get("peer"))
        if line.kind == CONTRADICTED and name in newest:
            found.append(newest.pop(name))
        if told is not None:
            newest[name] = told
    return list(dict.fromkeys([*found, *newest.values()]))


def write_heads(party: str, heads: Sequence[Told], key: SigningKey, now: float) -> str:
    """The file's text; of more than `MOST_HEADS` the last ones."""
    plain = [
        {
            "party": each.party,
            "seq": each.head.seq,
            "digest": each.head.digest,
            "key": each.key,
            "signature": each.signature,
        }
        for each in heads[-MOST_HEADS:]
    ]
    return seal("heads", {"party": party, "issued_at": int(now), "heads": plain}, key).text + "\n"


def export_heads(log: Path, party: str, key: SigningKey, now: float) -> tuple[str, int]:
    """The file's text for a party's log, and how many heads are in it.

    Raises:
        DeploymentError: FK770, the log cannot be read.
    """
    try:
        heads = decisive(readable_lines(log, KEPT))
    except OSError as error:
        raise DeploymentError(
            f"the audit log {log} cannot be read: {error.strerror}", code="FK770", remedy="name the folder of a party"
        ) from None
    return write_heads(party, heads, key, now), min(len(heads), MOST_HEADS)


def read_heads(path: Path, keys: Keys) -> HeadsFile:
    """Read and verify a file.

    Raises:
        DeploymentError: FK772, it cannot be read, or is not signed by the party that it names.
    """
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(_MOST_BYTES).strip()
        signed = read(text)
        said = strict_json.read(signed.payload, "the file")
        party = said.get("party") if isinstance(said, dict) else None
        known = keys(party) if isinstance(party, str) else ()
        for key in known:
            if (values := _opened(signed, key)) is not None:
                heads = tuple(_told(each) for each in values["heads"][:MOST_HEADS])
                return HeadsFile(values["party"], values["issued_at"], heads)
    except (OSError, ValueError) as error:
        raise unusable(path, getattr(error, "strerror", None) or "it is no text") from None
    except FedkitError as error:
        raise unusable(path, error.message) from None
    raise unusable(path, "it is not signed by the party that it names, or that party is not known here")


def unusable(path: Path, why: str) -> DeploymentError:
    """The error of a file that proves nothing."""
    return DeploymentError(
        f"{path} is of no use for verifying this log: {why}",
        code="FK772",
        remedy="name the file that the other side's `log export` has written",
    )


def _opened(signed: Any, key: bytes) -> dict[str, Any] | None:
    try:
        values = unseal(signed, "heads", key)
    except FedkitError as error:
        if error.code == "FK541":
            return None
        raise
    return strict_json.fields(values, _FIELDS, "the file")


def _told(raw: Any) -> Told:
    values = strict_json.fields(raw, _HEAD, "the file")
    return Told(values["party"], Head(values["seq"], values["digest"]), values["key"], values["signature"])
