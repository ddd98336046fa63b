"""Personal tokens: shown once, stored as a hash, compared in constant time; and a brake on guessing."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

PREFIX = "fedkit-token-1."
_TOKEN = re.compile(r"fedkit-token-1\.[A-Za-z0-9_-]{43}")
SECRETS = re.compile(r"fedkit-(?:token|invite)-1\.[A-Za-z0-9_=-]*")
"""What a token or an invitation looks like in any text; logs leave it out."""


def new_token() -> str:
    """256 random bits behind a prefix by which a leaked one is found.

    >>> looks_like_token(new_token())
    True
    """
    return PREFIX + secrets.token_urlsafe(32)


def token_hash(token: str) -> str:
    """What is stored of a token: its SHA-256, hex. 256 random bits need no slow hash."""
    return hashlib.sha256(token.encode("utf-8", errors="surrogateescape")).hexdigest()


def looks_like_token(text: str) -> bool:
    """Whether a text is written as a token is."""
    return _TOKEN.fullmatch(text) is not None


def owner(token: str, known: Iterable[tuple[str, str]]) -> str | None:
    """The user of a token.

    Args:
        known: hash and user of every token.

    Guarantee: takes the same time whichever token it is, or none: all are compared, each in constant time.
    """
    wanted, found = token_hash(token), None
    for stored, user in known:
        if hmac.compare_digest(stored, wanted):
            found = user
    return found


@dataclass
class Brake:
    """Counts failures by address; may be called from any thread.

    Args:
        most: failures within ``seconds`` after which an address has to wait.
    """

    most: int = 20
    seconds: float = 60.0
    clock: Callable[[], float] = time.monotonic
    _failures: dict[str, deque[float]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _MOST_ADDRESSES = 10_000

    def holds(self, address: str) -> bool:
        """Whether the address has to wait."""
        with self._lock:
            recent = self._recent(address)
            return recent is not None and len(recent) >= self.most

    def failed(self, address: str) -> None:
        """One more failure."""
        with self._lock:
            recent = self._recent(address)
            if recent is None:
                if len(self._failures) >= self._MOST_ADDRESSES:
                    self._failures.clear()
                recent = self._failures[address] = deque(maxlen=self.most)
            recent.append(self.clock())

    def _recent(self, address: str) -> deque[float] | None:
        recent = self._failures.get(address)
        while recent and recent[0] < self.clock() - self.seconds:
            recent.popleft()
        if recent is not None and not recent:
            del self._failures[address]
            return None
        return recent
