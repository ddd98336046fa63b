"""The door: name, password and code are looked at together, and one answer is given to all that fails."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from fedkit.errors import DeploymentError
from fedkit.web import passwords, totp
from fedkit.web.users import User, Users, alone
from fedkit.web.wrong import Wrong

_LOG = logging.getLogger("fedkit.web")
_PATIENCE = 10.0
LOGIN, LOGOUT, LOCKED = "login", "logout", "locked"


class Busy(Exception):
    """Too many try to log in at once."""


@dataclass
class Door:
    """Lets users in.

    Args:
        users: who may log in.
        counts: the file of wrong logins.
        record: puts on record what (`LOGIN`, `LOGOUT`, `LOCKED`) happened to whom, or raises; an empty name stands for
            one that nobody has.

    Guarantee: nobody is let in without the password, a code that was not used before, and a name that is not locked;
    and what :meth:`login` returns, how long it takes and what it writes to disk are the same for a name that nobody has
    as for a user's with a wrong password.
    """

    users: Users
    counts: Path
    record: Callable[[str, str], None]
    clock: Callable[[], float] = time.time
    _turn: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        """Make what stands in for a user who is not there, before anybody's time is taken."""
        self._nobody, self._decoy = User(passwords.decoy(), "", 0), totp.decoy()

    def login(self, name: str, password: str, code: str) -> User | None:
        """The user, or None: the name, the password or the code is wrong, or the name is locked.

        Raises:
            Busy: others log in at this moment.
            DeploymentError: FK795, FK706, FK700, the files; whatever the vault of ``users`` raises, and ``record``: who
                comes in must be on record.
        """
        # One hash at a time: each takes 64 MiB.
        if not self._turn.acquire(timeout=_PATIENCE):
            raise Busy
        try:
            return self._login(name, passwords.normal(password), "".join(code.split()))
        finally:
            self._turn.release()

    def logout(self, name: str) -> None:
        """Put on record that a user has left; one that cannot be leaves all the same."""
        self._tell(LOGOUT, name)

    def _login(self, name: str, password: str, code: str) -> User | None:
        known_users = self.users.read()
        secrets, user = self.users.factors(known_users), known_users.get(name, self._nobody)
        right = passwords.matches(user.password, password)
        now = self.clock()
        step = totp.step_of(secrets.get(name, self._decoy), code, now)
        with self.users.changing() as users:
            wrong = Wrong.read(self.counts)
            there = users.get(name, self._nobody)
            # Somebody may have come in with this code, or changed the password, since.
            fresh = there.stamp == user.stamp and step is not None and step > there.step
            if right and fresh and step is not None and name in users and not wrong.locked(name, now):
                self.record(LOGIN, name)
                users[name] = there = replace(there, step=step)
                wrong.clear(name)
                wrong.write()
                return there
            locks = wrong.add(name, now, frozenset(users))
            wrong.write()
            known = name in users
        if locks:
            # What nobody has as a name may have been a password.
            _LOG.warning("a name is locked after wrong logins: %s", name if known else "(of no user)")
            self._tell(LOCKED, name if known else "")
        return None

    def _tell(self, what: str, name: str) -> None:
        try:
            self.record(what, name)
        except (DeploymentError, OSError) as error:
            _LOG.warning("what happened at the door (%s) is not on record: %s", what, error)


def unlock(users: Users, counts: Path, name: str) -> bool:
    """Forget a user's wrong logins; False if there were none.

    Raises:
        DeploymentError: FK796, FK795, FK706, FK700.
    """
    users.require(name, there=True)
    with alone(users.path):
        wrong = Wrong.read(counts)
        if wrong.told(name) is None:
            return False
        wrong.clear(name)
        wrong.write()
    return True
