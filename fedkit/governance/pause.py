"""A site's pause, ``paused.json`` in its folder: whatever lies at that place stops all release, until it is taken away.

::

    FK580  the site is paused
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fedkit.errors import DeploymentError, FederationError
from fedkit.governance.quarantine import NAME, QuarantineFile
from fedkit.storage.atomic import sync_folder
from fedkit.storage.private import replace

PAUSED = "FK580"
MOST_REASON = 500
"""Characters of a reason."""

_MOST_BYTES = 64 * 1024
_LATEST = 2**40


@dataclass(frozen=True)
class Pause:
    """Since when a site is paused, and why.

    Attributes:
        since: seconds since the epoch; None where the file does not say.
        reason: for the site's own eyes; it never leaves.
        problem: what is wrong with the file; a site whose file is odd is paused like any other.
    """

    since: float | None
    reason: str = ""
    problem: str = ""


@dataclass(frozen=True)
class PauseFile:
    """The file that pauses a site.

    Guarantee: nothing but the absence of the file, in a folder that is there, lets anything out. Once `settled` has
    said True after a `put`, nothing that `release` stood around is under way, and nothing more begins.
    """

    path: Path

    @property
    def quarantine(self) -> QuarantineFile:
        """The file beside it, which holds back what a pause does, and the code of the pause too."""
        return QuarantineFile(self.path.with_name(NAME))

    def there(self) -> bool:
        """Whether the site is paused: whatever lies there, even a link to nothing or what cannot be looked at."""
        try:
            self.path.lstat()
        except FileNotFoundError:
            return not self.path.parent.is_dir() or self.quarantine.there()
        except OSError:
            return True
        return True

    def refuse(self) -> None:
        """Go no further while the site is paused.

        Raises:
            FederationError: FK580.
        """
        if self.there():
            raise FederationError("the site is paused", code=PAUSED, remedy="there: `fedkit client resume SITE.yaml`")

    def refusal(self) -> str:
        """The code that every message is answered with now; empty while the site is not paused."""
        return PAUSED if self.there() else ""

    @contextmanager
    def release(self, reply: object) -> Iterator[None]:
        """Stands around each thing that leaves of a reply; the code of the pause may leave too, but in quarantine.

        Raises:
            FederationError: FK580, the site is paused or quarantined, or its folder cannot be locked: a pause would
                then not know whether something is still being sent.
        """
        handle, unlocked = -1, None
        try:
            try:
                handle = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
                fcntl.flock(handle, fcntl.LOCK_SH)
            except OSError as error:
                unlocked = error
            if not (isinstance(reply, str) and reply == PAUSED):
                if unlocked is not None:
                    raise _unlocked(self.path.parent, unlocked)
                self.refuse()
            elif self.quarantine.there():
                self.refuse()
            yield
        finally:
            if handle >= 0:
                os.close(handle)

    def read(self) -> Pause | None:
        """What the file says; None if the site is not paused."""
        if not self.there():
            return None
        try:
            values = json.loads(_content(self.path))
            since, reason = values["since"], values["reason"]
            if set(values) != {"since", "reason"} or type(since) not in (int, float) or not 0 <= since < _LATEST:
                raise ValueError
            if not isinstance(reason, str) or len(reason) > MOST_REASON:
                raise ValueError
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            return Pause(None, problem=f"{self.path} is not what `fedkit client pause` writes, and pauses all the same")
        return Pause(float(since), reason)

    def put(self, reason: str, now: float) -> Pause:
        """Pause the site; one that is paused already stays so since then, and a new reason takes the old one's place.

        On a disk that is full it is paused without words, see ``problem``.

        Raises:
            DeploymentError: FK700, the file cannot be written.
        """
        known = self.read()
        since = known.since if known is not None and known.since is not None else now
        made = Pause(since, reason or (known.reason if known is not None else ""))
        values = {"since": made.since, "reason": made.reason}
        try:
            replace(self.path, (json.dumps(values) + "\n").encode())
            sync_folder(self.path.parent)
        except (OSError, DeploymentError) as error:
            # A full disk takes no words, and still a name: whatever lies there pauses.
            if not self._named():
                raise error if isinstance(error, DeploymentError) else _cannot(self.path, "written", error) from None
            problem = f"{self.path} cannot be written in full; the site is paused all the same, without a reason"
            return known if known is not None else Pause(None, problem=problem)
        return made

    def _named(self) -> bool:
        try:
            os.close(os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
            sync_folder(self.path.parent)
        except OSError:
            return False
        return True

    def settled(self, seconds: float) -> bool:
        """Wait until nothing is being sent any more; False if that is not known when the time is over."""
        end = time.monotonic() + seconds
        try:
            handle = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            while True:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    if time.monotonic() >= end:
                        return False
                    time.sleep(0.02)
                except OSError:
                    return False
                else:
                    return True
        finally:
            os.close(handle)

    def take_away(self) -> Pause | None:
        """End the pause; returns what it was, None if there was none.

        Raises:
            DeploymentError: FK700, what lies there cannot be removed; FK787, the site is quarantined.
        """
        self.quarantine.refuse()
        known = self.read()
        try:
            self.path.unlink(missing_ok=True)
            sync_folder(self.path.parent)
        except OSError as error:
            raise _cannot(self.path, "removed", error) from None
        return known


def _content(path: Path) -> str:
    # Neither a pipe that nobody writes into nor a link may hold up whoever looks.
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise ValueError
        content = file.read(_MOST_BYTES + 1)
    if len(content) > _MOST_BYTES:
        raise ValueError
    return content.decode()


def _unlocked(folder: Path, error: OSError) -> FederationError:
    return FederationError(
        f"{folder} cannot be locked ({error.strerror}), so nothing is sent from it",
        code=PAUSED,
        remedy="put the site's folder on a local disk",
    )


def _cannot(path: Path, what: str, error: OSError) -> DeploymentError:
    return DeploymentError(
        f"{path} cannot be {what}: {error.strerror or error}",
        code="FK700",
        remedy="run as the folder's owner; until then `fedkit client stop SITE.yaml` stops the site",
    )
