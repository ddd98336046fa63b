"""How often a name was logged in to in vain, and until when it is locked: a file of counts, mode 0600.

Names that nobody has are counted like those of users, by one path of code, so that neither an answer nor its time
tells whether somebody has the name. What was typed as a name, which may have been a password, is not kept: a keyed hash
of it is.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import math
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedkit.storage.private import read, replace, require_private
from fedkit.web.users import unreadable

EVERY, SPAN = 10, 900.0
"""Each tenth wrong login in a row locks a name for a quarter of an hour."""

FINAL = 100
"""So many in a row lock it until somebody at the machine unlocks it."""

_MOST = 1000
_LATEST = 1e12
_FOR_GOOD = math.inf


@dataclass(frozen=True)
class Count:
    """Wrong logins of one name since the last right one.

    Attributes:
        until: seconds since the epoch; infinity until it is unlocked.
        at: of the last one.
    """

    wrong: int
    until: float
    at: float


@dataclass
class Wrong:
    """The counts, read and written under the lock of the users' file."""

    path: Path
    key: bytes
    counts: dict[str, Count]

    @classmethod
    def read(cls, path: Path) -> Wrong:
        """The counts as they stand; none where there is no file.

        Raises:
            DeploymentError: FK795, FK706.
        """
        require_private([path])
        try:
            values = json.loads(read(path))
            if set(values) != {"key", "counts"} or len(values["key"]) != 64:
                raise ValueError
            return cls(
                path, bytes.fromhex(values["key"]), {name: _count(each) for name, each in values["counts"].items()}
            )
        except FileNotFoundError:
            return cls(path, secrets.token_bytes(32), {})
        except OSError as error:
            raise unreadable(path, error.strerror or type(error).__name__) from None
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise unreadable(path, "it is not what fedkit writes") from None

    def locked(self, name: str, now: float) -> bool:
        """Whether a name cannot be logged in to now."""
        found = self.counts.get(self._mark(name))
        return found is not None and now < found.until

    def told(self, name: str) -> Count | None:
        """The count of a name."""
        return self.counts.get(self._mark(name))

    def add(self, name: str, now: float, kept: frozenset[str]) -> bool:
        """Count one more; True if it has locked the name.

        Args:
            kept: names that are not forgotten to make room for others.
        """
        mark = self._mark(name)
        before = self.counts.get(mark, Count(0, 0.0, now))
        if now < before.until:
            # What is tried meanwhile does not count: else nobody could wait for the end of it.
            return False
        wrong = before.wrong + 1
        locks = wrong % EVERY == 0
        until = (_FOR_GOOD if wrong >= FINAL else now + SPAN) if locks else 0.0
        self.counts[mark] = Count(wrong, until, now)
        marks = {self._mark(each) for each in kept}
        strangers = [each for each in self.counts if each not in marks]
        for each in sorted(strangers, key=lambda each: self.counts[each].at)[: max(0, len(strangers) - _MOST)]:
            del self.counts[each]
        return locks

    def clear(self, name: str) -> None:
        """Forget a name's wrong logins."""
        self.counts.pop(self._mark(name), None)

    def write(self) -> None:
        """Put the counts on disk.

        Raises:
            DeploymentError: FK700.
        """
        plain = {
            mark: [each.wrong, None if each.until == _FOR_GOOD else each.until, each.at]
            for mark, each in self.counts.items()
        }
        replace(self.path, (json.dumps({"key": self.key.hex(), "counts": plain}) + "\n").encode())

    def _mark(self, name: str) -> str:
        return hmac.digest(self.key, name.encode("utf-8", "surrogatepass"), hashlib.sha256).hex()[:32]


def _count(values: Any) -> Count:
    wrong, until, at = values
    times = [at] if until is None else [at, until]
    # Neither a number below zero nor one that is none may stand for fewer wrong logins, or for no lock.
    good = all(type(each) in (int, float) and 0 <= each <= _LATEST for each in times)
    if type(wrong) is not int or wrong < 1 or not good:
        raise ValueError("no count")
    return Count(wrong, _FOR_GOOD if until is None else float(until), float(at))
