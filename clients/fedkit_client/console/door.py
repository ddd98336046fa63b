"""The console's door: name, password and code are looked at together, and one answer is given to all that fails."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from fedkit.errors import DeploymentError
from fedkit_client.audit import record
from fedkit_client.console import passwords, totp
from fedkit_client.console.users import User, Users, alone
from fedkit_client.console.wrong import Wrong
from fedkit_client.folder import SiteFolder

_LOG = logging.getLogger("fedkit.console")
_PATIENCE = 10.0


class Busy(Exception):
    """Too many try to log in at once."""


@dataclass
class Door:
    """Lets users in.

    Guarantee: nobody is let in without the password, a code that was not used before, and a name that is not locked;
    and what :meth:`login` returns, how long it takes and what it writes to disk are the same for a name that nobody has
    as for a user's with a wrong password.
    """

    folder: SiteFolder
    clock: Callable[[], float] = time.time
    _turn: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        """Make what stands in for a user who is not there, before anybody's time is taken."""
        self._nobody = User(passwords.decoy(), totp.decoy(), 0)

    @property
    def users(self) -> Users:
        """Who may log in."""
        return Users(self.folder.console_users)

    def login(self, name: str, password: str, code: str) -> User | None:
        """The user, or None: the name, the password or the code is wrong, or the name is locked.

        Raises:
            Busy: others log in at this moment.
            DeploymentError: FK795, FK706, FK700, the files; FK770, FK771: who comes in must be on record.
        """
        # One hash at a time: each takes 64 MiB.
        if not self._turn.acquire(timeout=_PATIENCE):
            raise Busy
        try:
            return self._login(name, passwords.normal(password), "".join(code.split()))
        finally:
            self._turn.release()

    def unlock(self, name: str) -> bool:
        """Forget a user's wrong logins; False if there were none.

        Raises:
            DeploymentError: FK795, FK706, FK700.
        """
        with alone(self.users.path):
            wrong = Wrong.read(self.folder.console_wrong)
            if wrong.told(name) is None:
                return False
            wrong.clear(name)
            wrong.write()
        return True

    def _login(self, name: str, password: str, code: str) -> User | None:
        user = self.users.read().get(name, self._nobody)
        right = passwords.matches(user.password, password)
        now = self.clock()
        step = totp.step_of(user.secret, code, now)
        with self.users.changing() as users:
            wrong = Wrong.read(self.folder.console_wrong)
            there = users.get(name, self._nobody)
            # Somebody may have come in with this code, or changed the password, since.
            fresh = there.stamp == user.stamp and step is not None and step > there.step
            if right and fresh and step is not None and name in users and not wrong.locked(name, now):
                record(self.folder, "console_login", by=name)
                users[name] = there = replace(there, step=step)
                wrong.clear(name)
                wrong.write()
                return there
            locks = wrong.add(name, now, frozenset(users))
            wrong.write()
            known = name in users
        if locks:
            self._tell(name if known else "")
        return None

    def _tell(self, name: str) -> None:
        """What nobody has as a name may have been a password: it is told as an empty one."""
        _LOG.warning("a name is locked after wrong logins: %s", name or "(of no user)")
        try:
            record(self.folder, "console_locked", by=name)
        except (DeploymentError, OSError) as error:
            _LOG.warning("the audit log does not tell of it: %s", error)
