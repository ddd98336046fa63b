"""``fedkit client``: the commands of a deployed site."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from fedkit_client.alert_commands import alerts
from fedkit_client.backup_commands import backup, restore
from fedkit_client.consent_commands import lineage, rectify, withdraw
from fedkit_client.console_commands import console, console_user
from fedkit_client.encrypt_command import encrypt
from fedkit_client.governing_commands import approve, deny, explain, requests
from fedkit_client.incident_command import incident
from fedkit_client.inventory_command import inventory
from fedkit_client.log_commands import log_app
from fedkit_client.pause_commands import pause, resume
from fedkit_client.purge_command import purge
from fedkit_client.quarantine_command import quarantine
from fedkit_client.study_commands import study_app
from fedkit_client.trust_command import trust

SiteYaml = Annotated[Path, typer.Argument(metavar="SITE.yaml", help="The site's own file.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout and nothing else.")]

app = typer.Typer(
    help="A hospital's site: join a federation, run, look after it.\n\nExample: fedkit client --help",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(log_app, name="log")
app.add_typer(study_app, name="study")


def main(arguments: Sequence[str]) -> None:
    """Run one command.

    Raises:
        FedkitError: what the command refuses.
        click.ClickException: arguments that cannot be.
    """
    status = app(list(arguments), prog_name="fedkit client", standalone_mode=False)
    if isinstance(status, int) and status:
        # Of a command within a command nobody else looks at what it returns.
        raise typer.Exit(status)


@app.command()
def join(
    address: Annotated[str, typer.Argument(metavar="ADDRESS", help="The coordinator, HOST or HOST:PORT.")],
    token_file: Annotated[
        str, typer.Option("--token-file", metavar="FILE", help="Holds the invitation; - reads standard input.")
    ],
    site_file: Annotated[
        Path | None,
        typer.Option(
            "--site-file", metavar="YAML", help="Copied into the folder as site.yaml; by default that of --from."
        ),
    ] = None,
    folder: Annotated[
        Path | None, typer.Option("--folder", metavar="FOLDER", help="Made by joining; by default fedkit-site.")
    ] = None,
    old: Annotated[
        Path | None,
        typer.Option("--from", metavar="FOLDER", help="Of an earlier joining: its ledgers and withdrawals come along."),
    ] = None,
    empty_ledgers: Annotated[
        bool, typer.Option("--empty-ledgers", help="Budgets begin anew, although the site has joined before.")
    ] = False,
    start: Annotated[bool, typer.Option("--start", help="Go on as `fedkit client start`.")] = False,
    detach: Annotated[bool, typer.Option("--detach", help="With --start: in the background.")] = False,
    json_: Json = False,
) -> None:
    """Join a federation with an invitation: checks who answers, makes keys, writes the site's folder.

    Paths in the site file are relative to the folder. Connections go through HTTPS_PROXY if it is set.

    Example: fedkit client join fl.example.org:9443 --token-file north.token --folder site
    """
    from fedkit_client.join import join as do
    from fedkit_client.join import read_token

    if detach and not start:
        raise typer.BadParameter("--detach goes with --start")
    if old and empty_ledgers:
        raise typer.BadParameter("--from takes the ledgers along; leave out --empty-ledgers")
    folder = folder or Path("fedkit-site")
    done = do(address, read_token(token_file), folder, site_file, old=old, empty_ledgers=empty_ledgers)
    path = folder / done.folder.site_yaml.name
    told = {
        "event": "joined",
        "site": done.enrolment.site,
        "folder": str(done.folder.path),
        "address": done.enrolment.address,
        "federation": done.enrolment.federation,
        "node": done.enrolment.node_id,
        "site_file_is_blank": done.blank,
        "encrypted_by": done.key or None,
    }
    text = f"{done.enrolment.site} has joined; keys and pins are in {folder}\n"
    if done.key:
        text += f"  what the site stores is encrypted by {done.key}: keep a copy of it, apart from copies of {folder}\n"
    if old:
        text += f"  what was spent and withdrawn in {old} goes on there; {old} can no longer be started\n"
        from fedkit_client.backup import left_out

        text += f"  tables that {path} names by a relative path belong into {folder} now; signatures under studies, and"
        text += " approvals, are given anew\n"
        if others := left_out(old):
            text += f"  in {old} there are left: {', '.join(others)}\n"
    if done.blank:
        text += f"  next: fill in {path}, then `fedkit client start {path}`\n"
    elif not start:
        text += f"  next: `fedkit client start {path}`\n"
    _print(told, json_, text)
    if start:
        from fedkit_client.start import start as run

        run(path, _say(json_=json_), detach=detach)


@app.command()
def start(
    site_yaml: SiteYaml,
    detach: Annotated[
        bool, typer.Option("--detach", help="Go on in the background; return once it has connected, or could not.")
    ] = False,
    json_: Json = False,
) -> None:
    """Run the site until SIGTERM or Ctrl-C: connect to the coordinator and answer what the site file admits.

    Example: fedkit client start site/site.yaml --detach
    """
    from fedkit_client.start import start as run

    run(site_yaml, _say(json_=json_), detach=detach)


@app.command()
def stop(site_yaml: SiteYaml, json_: Json = False) -> None:
    """Stop a running site; a request at work is finished or left, and asked again later without a second charge.

    Example: fedkit client stop site/site.yaml
    """
    from fedkit.errors import ConfigError
    from fedkit_client import lock
    from fedkit_client.folder import SiteFolder
    from fedkit_client.start import open_site

    try:
        folder = open_site(site_yaml).folder
    except ConfigError:
        # A file that was broken since must not keep a site from being stopped.
        folder = SiteFolder(site_yaml.absolute().parent)
        folder.enrolment()
    pid = lock.stop(folder.pid_file, 60.0)
    text = "the site was not running\n" if pid is None else f"stopped (process {pid})\n"
    _print({"stopped": pid}, json_, text)


@app.command()
def status(site_yaml: SiteYaml, json_: Json = False) -> None:
    """Whether the site runs and is connected, its last round, and what is left of each budget.

    Example: fedkit client status site/site.yaml
    """
    from fedkit_client.start import open_site
    from fedkit_client.status import status as look
    from fedkit_client.status import status_text

    found = look(open_site(site_yaml))
    _print(found, json_, status_text(found))


@app.command()
def doctor(
    site_yaml: Annotated[
        Path | None, typer.Argument(metavar="[SITE.yaml]", help="The site's own file; checks everything.")
    ] = None,
    address: Annotated[
        str | None, typer.Option("--address", metavar="HOST:PORT", help="Check network and clock only, before joining.")
    ] = None,
    grpc_port: Annotated[
        int, typer.Option("--grpc-port", min=1, max=65535, help="With --address: the coordinator's port of enrolment.")
    ] = 9444,
    json_: Json = False,
) -> None:
    """Check network, TLS, clock, disk, data, ledgers, enrolment and limits; exit status 1 if anything fails.

    Example: fedkit client doctor site/site.yaml
    """
    from fedkit_client.doctor import checks_of_address, checks_of_site, report_text

    if (site_yaml is None) == (address is None):
        raise typer.BadParameter("give either SITE.yaml or --address HOST:PORT")
    found = checks_of_site(site_yaml) if site_yaml is not None else checks_of_address(str(address), grpc_port)
    failed = any(each.state == "fail" for each in found)
    plain = [{"check": each.name, "state": each.state, "found": each.found, "remedy": each.remedy} for each in found]
    _print({"ok": not failed, "checks": plain}, json_, report_text(found))
    if failed:
        raise typer.Exit(1)


_COMMANDS: tuple[Callable[..., None], ...] = (
    pause, resume, inventory, explain, requests, approve, deny, withdraw, rectify, lineage, alerts, quarantine,
    incident, console, console_user, encrypt, purge, backup, restore, trust,
)  # fmt: skip
for _command in _COMMANDS:
    app.command()(_command)


@app.command("init")
def init(
    site: Annotated[str, typer.Argument(metavar="SITE", help="The hospital's name in the federation.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="Where to write it.")] = Path("site.yaml"),
    example: Annotated[
        bool, typer.Option("--example", help="A complete one for a hospital of the built-in heart disease table.")
    ] = False,
    json_: Json = False,
) -> None:
    """Write a site file in which everything that the hospital has to decide is blank.

    Example: fedkit client init north --out site.yaml
    """
    from fedkit.data.names import require_site_names
    from fedkit.storage.private import write_new
    from fedkit_client.template import example_file, site_template

    require_site_names([site], listed=True)
    write_new(out, (example_file(site) if example else site_template(site, str(out))).encode())
    _print({"file": str(out)}, json_, f"{out} is written{'' if example else '; fill in what is blank'}\n")


@app.command("hash")
def hash_(
    function: Annotated[str, typer.Argument(metavar="PACKAGE.MODULE:NAME", help="What the site file is to allow.")],
    json_: Json = False,
) -> None:
    """The hash of an installed package, to be written into the site file's allow table; runs none of it.

    Example: fedkit client hash our_package.models:build
    """
    from fedkit.governance.allow import package_hash

    found = package_hash(function)
    _print({"import": function, "sha256": found}, json_, f"import: {function}\nsha256: {found}\n")


def _print(value: dict[str, Any], json_: bool, text: str) -> None:
    sys.stdout.write(json.dumps(value, allow_nan=False) + "\n" if json_ else text)
    sys.stdout.flush()


def _say(*, json_: bool) -> Any:
    """Prints one line an event."""

    def say(event: dict[str, Any]) -> None:
        _print(event, json_, _words(event) + "\n")

    return say


def _words(event: dict[str, Any]) -> str:
    from fedkit_client.logs import printable

    match event["event"]:
        case "starting":
            return f"{event['site']}: loading; the log is {event['folder']}/client.log"
        case "warning":
            return f"warning: {printable(event['message'])}"
        case "connected":
            return f"connected to {event['address']} as node {event['node']}; waiting for runs"
        case "retrying":
            return f"{printable(event['message'])}\n  going on to try; see `fedkit client doctor`"
        case "answered":
            what = f"{event['kind']} of round {event['round']} of run {event['run']}"
            return f"{what} was refused with {event['code']}" if event["code"] else f"{what} was answered"
        case "started":
            began = "".join(f"warning: {printable(text)}\n" for text in event.get("warnings", ()))
            began += f"started in the background (process {event['pid']})"
            if event["connected"]:
                return f"{began}, connected to {event['address']}"
            return f"{began}, not connected: {event.get('message', 'it was stopped')}\n  going on to try; see `status`"
        case other:
            return str(other)
