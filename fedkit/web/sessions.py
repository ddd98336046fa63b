"""Who is logged in: in the memory of the page's process alone, by hashes; they end with it."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from fedkit.web.users import User

IDLE, LONGEST = 15 * 60.0, 8 * 3600.0
"""Seconds without a request, and in all, after which a session has ended."""

_MOST = 50
_SLACK = 60.0


@dataclass
class Session:
    """One login.

    Attributes:
        stamp: of the user as it was at the login.
        token: what every form of the session must hold.
        notices: what the next page tells, with its kind (``good`` or ``bad``).
        refreshing: whether pages of what goes on ask for themselves again.
    """

    user: str
    stamp: str = field(repr=False)
    token: str = field(repr=False)
    began: float
    seen: float
    notices: list[tuple[str, str]] = field(default_factory=list)
    refreshing: bool = True

    def may(self, token: str) -> bool:
        """Whether a form is one of this session's."""
        return hmac.compare_digest(self.token.encode(), token.encode("utf-8", "replace"))


@dataclass
class Sessions:
    """All of them.

    Guarantee: what a browser holds is in no file and not in this memory; a session outlives neither `IDLE` seconds
    without a request, nor `LONGEST` in all, nor another password of its user.
    """

    clock: Callable[[], float] = time.time
    _all: dict[str, Session] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def begin(self, name: str, user: User) -> str:
        """A new session; returns what the browser is to show."""
        ticket, now = secrets.token_urlsafe(32), self.clock()
        with self._lock:
            self._sweep(now)
            while len(self._all) >= _MOST:
                self._all.pop(min(self._all, key=lambda each: self._all[each].seen))
            self._all[_hashed(ticket)] = Session(name, user.stamp, secrets.token_urlsafe(32), now, now)
        return ticket

    def find(self, ticket: str, users: dict[str, User], *, asked: bool = True) -> Session | None:
        """The session of a browser; None if there is none, or it has ended.

        Args:
            asked: by somebody, who is seen thereby; False for a page that refreshes itself, perhaps before nobody.
        """
        with self._lock:
            now = self.clock()
            self._sweep(now)
            found = self._all.get(_hashed(ticket))
            if found is None:
                return None
            user = users.get(found.user)
            if user is None or not hmac.compare_digest(user.stamp, found.stamp):
                del self._all[_hashed(ticket)]
                return None
            if asked:
                found.seen = now
            return found

    def end(self, ticket: str) -> None:
        """End a session."""
        with self._lock:
            self._all.pop(_hashed(ticket), None)

    def _sweep(self, now: float) -> None:
        # A clock that was put back ends them too.
        early = -_SLACK
        over = [
            mark
            for mark, each in self._all.items()
            if not (early <= now - each.seen < IDLE and early <= now - each.began < LONGEST)
        ]
        for mark in over:
            del self._all[mark]


def _hashed(ticket: str) -> str:
    return hashlib.sha256(ticket.encode("utf-8", "replace")).hexdigest()
