"""Quarantining a site and lifting it, whoever asks for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedkit.errors import ConfigError, DeploymentError, FedkitError
from fedkit.governance.pause import MOST_REASON
from fedkit_client.folder import SiteFolder

SECONDS = 60.0
"""What may be sent when a quarantine begins is one part of an answer; Flower's largest have 5 MiB."""


@dataclass
class Quarantined:
    """What became of a quarantine that was asked for; it stands whatever the rest says.

    Attributes:
        quiet: nothing is being sent any more.
        evidence: as `fedkit_client.evidence.keep_evidence` returns it; None where none was kept.
        problems: finished sentences about what is not so.
    """

    since: float
    quiet: bool = False
    evidence: dict[str, Any] | None = None
    problems: list[str] = field(default_factory=list)


def quarantine_site(
    folder: SiteFolder, reason: str, now: float, *, by: str = "", seconds: float = SECONDS
) -> Quarantined:
    """Have a site answer nothing any more, wait until nothing is being sent, and keep what shows what happened.

    Args:
        reason: as `reason_of` gives it.
        by: the console's user.

    Raises:
        DeploymentError: FK700, the quarantine itself cannot be written.
    """
    done = Quarantined(folder.quarantine.put(reason, now))
    # The pause too, so that a lift, or a version of before, leaves the site paused.
    try:
        folder.pause.put(reason, now)
    except DeploymentError as error:
        done.problems.append(str(error))
    done.quiet = folder.pause.settled(seconds)
    if not done.quiet:
        done.problems.append("the site did not let go of what it was sending: `fedkit client stop SITE.yaml`")
    try:
        from fedkit_client.audit import record, signed_by

        record(folder, "quarantined", **signed_by(by))
    except (FedkitError, OSError) as error:
        done.problems.append(f"the audit log does not tell of it: {error}")
    done.evidence = _kept(folder, now, done.problems)
    return done


def lift_site(folder: SiteFolder, reason: str, now: float) -> None:
    """End a quarantine; the site stays paused, whatever became of the pause meanwhile.

    Raises:
        DeploymentError: FK787, it is not quarantined; FK700, FK770, FK771: it stays so.
    """
    from fedkit_client.audit import record

    if not folder.quarantine.there():
        raise DeploymentError(
            "the site is not quarantined", code="FK787", remedy="`fedkit client status SITE.yaml` says how it stands"
        )
    folder.pause.put(f"quarantine lifted: {reason}"[:MOST_REASON], now)
    record(folder, "unquarantined")
    try:
        folder.quarantine.take_away()
    except OSError as error:
        raise DeploymentError(
            f"{folder.quarantine.path} cannot be removed: {error.strerror or error}",
            code="FK700",
            remedy="run as the folder's owner",
        ) from None


def reason_of(text: str) -> str:
    """A reason as it is kept.

    Raises:
        ValueError: none, or no line of at most `MOST_REASON` characters.
    """
    reason = text.strip()
    if not reason:
        raise ValueError("is needed: who looks at it later must know why")
    if len(reason) > MOST_REASON or not reason.isprintable():
        raise ValueError(f"is one line of at most {MOST_REASON} characters; it has {len(reason)}")
    return reason


def folder_to_quarantine(site_yaml: Path) -> SiteFolder:
    """The folder of a site's file, even of one that cannot be read any more.

    Raises:
        DeploymentError: FK741, no site's folder.
    """
    from fedkit.governance.site_file import read_site_file

    try:
        folder = SiteFolder(read_site_file(site_yaml).folder.resolve())
    except ConfigError:
        # Neither a file that was broken since nor a mode too loose may keep a site from being quarantined.
        folder = SiteFolder(site_yaml.absolute().parent)
    folder.enrolment()
    return folder


def _kept(folder: SiteFolder, now: float, problems: list[str]) -> dict[str, Any] | None:
    from fedkit.storage.keys import load_signing_key
    from fedkit_client.evidence import keep_evidence

    try:
        kept = keep_evidence(folder, load_signing_key(folder.signing_key), now)
    except (FedkitError, OSError) as error:
        problems.append(f"no evidence was kept: {error}")
        return None
    problems += [f"{name} could not be copied ({why})" for name, why in kept["failed"].items()]
    return kept
