"""``fedkit client alerts``: what stands, and whether the channels work."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedkit_client.pause_commands import Json, SiteYaml

if TYPE_CHECKING:
    from fedkit_client.alert import Alert
    from fedkit_client.alert_facts import Facts
    from fedkit_client.start import Opened


def alerts(
    site_yaml: SiteYaml,
    test: Annotated[
        bool, typer.Option("--test", help="Send one to each channel that the file names, now, and say how it went.")
    ] = False,
    json_: Json = False,
) -> None:
    """What somebody should look at, by the site's log, ledgers and clock; exit status 1 if anything critical stands.

    With --test exit status 1 if a channel did not take the alert; nothing that is queued is sent or lost by it.

    Example: fedkit client alerts site/site.yaml --test
    """
    from fedkit.storage.keys import load_signing_key
    from fedkit_client.alert_look import standing
    from fedkit_client.start import open_site

    opened = open_site(site_yaml)
    if test:
        tried = _tested(opened)
        _print(
            {"channels": tried}, "".join(f"{name}: {why or 'took it'}\n" for name, why in tried.items()), json_=json_
        )
        if any(tried.values()):
            raise typer.Exit(1)
        return
    found, facts = standing(opened.file, opened.folder, load_signing_key(opened.folder.signing_key).public)
    told = {"site": opened.file.site, "running": facts.running, "alerts": [each.plain() for each in found]}
    _print({**told, **_channels(facts)}, _text(opened, found, facts), json_=json_)
    if any(each.severity == "critical" for each in found):
        raise typer.Exit(1)


def _tested(opened: Opened) -> dict[str, str]:
    from fedkit.errors import DeploymentError
    from fedkit_client.alert import Alert
    from fedkit_client.alert_book import notice
    from fedkit_client.alert_channels import senders

    now, told = time.time(), dict[str, str]()
    channels = senders(opened.file.alerts)
    if not channels:
        raise DeploymentError(
            f"{opened.path} names no webhook and no syslog under alerts, so nobody is told of any",
            code="FK786",
            remedy="write alerts.webhook or alerts.syslog (docs/operations.md#alerts), and start the site again",
        )
    alert = Alert("test", "info", "test", now, "a test of this channel, and nothing else", "nothing is to be done")
    for name, send in channels.items():
        try:
            send(notice(alert, "test", opened.file.site, now), now)
            told[name] = ""
        except DeploymentError as error:
            told[name] = str(error)
    return told


def _channels(facts: Facts) -> dict[str, Any]:
    return {
        "channels": {
            name: {"queued": each.queued, "failures": each.failures, "why": each.why, "dropped": each.dropped}
            for name, each in facts.channels.items()
        }
    }


def _text(opened: Opened, found: list[Alert], facts: Facts) -> str:
    from fedkit.federation.trail import stamped
    from fedkit_client.logs import printable

    count = f"{len(found)} alert{'' if len(found) == 1 else 's'}" if found else "nothing stands"
    lines = [f"{opened.file.site}: {count}"]
    for each in found:
        lines += [f"{each.severity.upper():<8}  {each.text}", f"          since {stamped(each.since)}. {each.remedy}"]
    for name, channel in facts.channels.items():
        how = f"failing: {channel.why}" if channel.since is not None else "works, as far as is known"
        lines.append(f"channel {name}: {channel.queued} wait, {how}")
    if not facts.running:
        lines.append("the site does not run: whether the coordinator is silent is not known")
    if not opened.file.alerts.channels:
        lines.append("no channel: nobody is told; see `alerts` in docs/operations.md")
    return "\n".join(map(printable, lines)) + "\n"


def _print(value: dict[str, Any], text: str, *, json_: bool) -> None:
    sys.stdout.write(json.dumps(value, allow_nan=False) + "\n" if json_ else text)
    sys.stdout.flush()
