"""Who has withdrawn: ids that no round reads from now on, one line each, kept at the site and only ever appended to.

::

    FK593  the file cannot be read: no record is read until it can be
    FK595  ids that cannot be
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Literal

from fedkit.data.table import name_text
from fedkit.data.units import is_no_id
from fedkit.errors import DeploymentError, FederationError
from fedkit.storage.sealed_lines import from_text, to_text
from fedkit.storage.sealing import Vault
from fedkit_client.appending import append, appending, mended, read_shared

Action = Literal["withdrawn", "revoked"]
_FIELDS = {"at": int, "data": str, "unit": str, "action": str}
KIND = "withdrawal"
_LONGEST = 1000
_MOST = 1_000_000


def read_withdrawn(path: Path, dataset: str, vault: Vault | None = None) -> frozenset[str]:
    """The ids of a data set whose withdrawal stands.

    Args:
        vault: of the site's folder; None where that holds plain text.

    Raises:
        FederationError: FK593, a line that is not what was written.
        DeploymentError: FK706, others may read the file.
    """
    try:
        content = read_shared(path)
    except OSError as error:
        raise _broken(path, f"cannot be read ({error.strerror})") from None
    return frozenset(_standing(path, content, dataset, vault))


def note(
    path: Path,
    dataset: str,
    units: Sequence[str],
    action: Action,
    now: float,
    vault: Vault | None = None,
    *,
    first: Callable[[], None] | None = None,
) -> list[str]:
    """Write down that units have withdrawn, or take it back; on disk when it returns.

    Args:
        units: as `unit_ids` makes them.
        first: is done before it counts, while nobody reads the file.

    Returns:
        Those of them for whom it was not so before.

    Raises:
        FederationError: FK593.
        DeploymentError: FK706; FK700, the disk does not take it: nothing of it counts then.
    """
    with appending(path) as handle:
        content = mended(handle, lambda line: vault is None and _entry(line) is not None)
        before, count = _standing(path, content, dataset, vault), len(content.splitlines())
        fresh = [unit for unit in dict.fromkeys(units) if (unit in before) != (action == "withdrawn")]
        # So that no withdrawal is without its line in the log, and no reader sees the one without the other.
        if first is not None:
            first()
        lines = [json.dumps({"at": int(now), "data": dataset, "unit": unit, "action": action}) for unit in fresh]
        append(handle, [to_text(vault, line.encode(), KIND, str(number)).decode()
                        for number, line in enumerate(lines, count + 1)])  # fmt: skip
    return fresh


def unit_ids(given: Iterable[str]) -> list[str]:
    """Ids as units have them, each once; blank lines are none.

    Raises:
        FederationError: FK595, no id, one that means none, or too many.

    >>> unit_ids(["7.0", " 7 ", "", "a"])
    ['7', 'a']
    """
    found: dict[str, None] = {}
    for text in given:
        unit = name_text(text)
        if not unit:
            continue
        if is_no_id(unit) or len(unit) > _LONGEST or "\x00" in unit or not _encodable(unit):
            # Who it is stays out of the message.
            raise FederationError(
                f"id {len(found) + 1} is none that a unit can have (such as 'null', or longer than {_LONGEST:,})",
                code="FK595",
                remedy="give one id a line",
            )
        found[unit] = None
        if len(found) > _MOST:
            raise FederationError(f"more than {_MOST:,} ids at once", code="FK595", remedy="give them in parts")
    if not found:
        raise FederationError("no id was given", code="FK595", remedy="give one id a line on standard input, or --unit")
    return list(found)


def _encodable(unit: str) -> bool:
    try:
        unit.encode()
    except UnicodeEncodeError:
        return False
    return True


def _standing(path: Path, content: bytes, dataset: str, vault: Vault | None) -> dict[str, None]:
    found: dict[str, None] = {}
    for number, line in enumerate(content.splitlines(), 1):
        try:
            entry = _entry(from_text(vault, line, KIND, str(number)))
        except DeploymentError as error:
            raise _broken(path, f"holds in line {number} what cannot be opened ({error.message})") from None
        if entry is None:
            raise _broken(path, f"holds in line {number} what nobody wrote there")
        if entry["data"] != dataset:
            continue
        if entry["action"] == "withdrawn":
            found[str(entry["unit"])] = None
        else:
            found.pop(str(entry["unit"]), None)
    return found


def _entry(line: bytes) -> dict[str, object] | None:
    try:
        values = json.loads(line)
        good = isinstance(values, dict) and set(values) == set(_FIELDS)
        good = good and all(isinstance(values[name], kind) for name, kind in _FIELDS.items())
        return values if good and values["action"] in ("withdrawn", "revoked") else None
    except (ValueError, RecursionError):
        return None


def _broken(path: Path, why: str) -> FederationError:
    return FederationError(
        f"{path.name} {why}, so nobody knows who has withdrawn",
        code="FK593",
        remedy="`fedkit client withdraw` mends a line that a crash has cut off; else restore it from a backup",
    )
