"""Stopping all release and letting it go on, whoever asks for it: the command line or the console."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fedkit.errors import ConfigError, FedkitError
from fedkit.governance.pause import MOST_REASON, Pause
from fedkit_client.folder import SiteFolder

SECONDS = 60.0
"""What may be sent when a pause begins is one part of an answer; Flower's largest have 5 MiB."""


@dataclass(frozen=True)
class Paused:
    """What became of a pause that was asked for.

    Attributes:
        quiet: nothing is being sent any more.
        unlogged: why the audit log does not tell of it; empty where it does.
    """

    pause: Pause
    quiet: bool
    unlogged: str = ""


def reason_of(text: str) -> str:
    """A reason as it is kept.

    Raises:
        ValueError: it is no line of at most `MOST_REASON` characters.
    """
    reason = text.strip()
    if len(reason) > MOST_REASON or not reason.isprintable():
        raise ValueError(f"a reason is one line of at most {MOST_REASON} characters; it has {len(reason)}")
    return reason


def pause_site(folder: SiteFolder, reason: str, now: float, *, by: str = "", seconds: float = SECONDS) -> Paused:
    """Pause a site, and wait until nothing is being sent any more.

    Args:
        reason: as `reason_of` gives it.
        by: the console's user.

    Raises:
        DeploymentError: FK700, the pause cannot be written.
    """
    made = folder.pause.put(reason, now)
    # Loaded when the site is paused: neither the time that takes nor a log that cannot be written may delay it.
    unlogged = ""
    try:
        from fedkit_client.audit import record, signed_by

        record(folder, "paused", **signed_by(by))
    except (FedkitError, OSError) as error:
        unlogged = str(error)
    return Paused(made, folder.pause.settled(seconds), unlogged)


def resume_site(folder: SiteFolder, *, by: str = "") -> Pause | None:
    """End a pause; returns what it was, None if there was none.

    Raises:
        DeploymentError: FK787, it is quarantined; FK770, FK771, FK700: the site stays paused.
    """
    # Before the log tells of what would then be refused.
    folder.quarantine.refuse()
    if folder.pause.there():
        from fedkit_client.audit import record, signed_by

        record(folder, "resumed", **signed_by(by))
    return folder.pause.take_away()


def folder_to_pause(site_yaml: Path) -> SiteFolder:
    """The folder of a site's file, even of one that cannot be read any more.

    Raises:
        DeploymentError: FK741.
    """
    from fedkit.governance.site_file import read_site_file

    try:
        folder = SiteFolder(read_site_file(site_yaml).folder.resolve())
    except ConfigError:
        # Neither a file that was broken since nor a mode too loose may keep a site from being paused.
        folder = SiteFolder(site_yaml.absolute().parent)
    folder.enrolment()
    return folder
