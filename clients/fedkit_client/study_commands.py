"""``fedkit client study show | sign | list | leave``: the agreements that the site has signed."""

from __future__ import annotations

import json
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from fedkit.federation.study import Study
    from fedkit_client.folder import SiteFolder
    from fedkit_client.studies import Studies

SiteYaml = Annotated[Path, typer.Argument(metavar="SITE.yaml", help="The site's own file.")]
File = Annotated[Path, typer.Argument(metavar="FILE", help="The agreement, as the coordinator's admin gave it.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="A study that the site has signed.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout and nothing else.")]
# All of it: whoever writes both texts finds two that agree in twelve digits within seconds.
_DIGEST = re.compile(r"[0-9a-f]{64}")

study_app = typer.Typer(
    help="Study agreements: read, sign, list and leave them. A run of a study is taken only under a text that the site"
    " has signed.\n\nExample: fedkit client study show site/site.yaml heart-2026.json",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@study_app.command()
def show(
    site_yaml: SiteYaml,
    study: Annotated[str, typer.Argument(metavar="FILE|NAME", help="A file, or a study that the site has signed.")],
    json_: Json = False,
) -> None:
    """Every term of an agreement, who has signed it, and the digest of the text that `sign` asks for.

    Example: fedkit client study show site/site.yaml heart-2026.json
    """
    from fedkit.federation.study import read_study
    from fedkit.reporting.study_text import study_json, study_text
    from fedkit_client.logs import printable
    from fedkit_client.studies import check_new

    folder, studies = _site(site_yaml)
    if Path(study).is_file():
        found = read_study(Path(study), studies.federation)
        check_new(found, folder)
    else:
        found = studies.read(study)
    told = study_json(found)
    _print(told, _each_line(study_text(told), printable), json_=json_)


@study_app.command()
def sign(
    site_yaml: SiteYaml,
    file: File,
    digest: Annotated[
        str,
        typer.Option("--digest", metavar="HEX", help="All 64 digits of the text that you read, as `show` prints them."),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Where the signed file goes; by default into FILE.")
    ] = None,
    json_: Json = False,
) -> None:
    """Sign exactly this text with the site's key; the signed file goes back to the coordinator's admin.

    Runs of the study are then taken, within the agreement and within the site's own file, which must name the study.

    Example: fedkit client study sign site/site.yaml heart-2026.json --digest "$DIGEST"
    """
    from fedkit.errors import DeploymentError
    from fedkit.federation.study import read_study
    from fedkit.governance.site_file import read_site_file
    from fedkit.storage.keys import load_signing_key
    from fedkit.storage.private import replace
    from fedkit_client.audit import record
    from fedkit_client.studies import check_new

    folder, studies = _site(site_yaml)
    found = read_study(file, studies.federation)
    check_new(found, folder)
    if not _DIGEST.fullmatch(digest) or found.digest != digest:
        raise DeploymentError(
            f"the text in {file} has the digest {found.digest}, and {digest[:64]!r} was to be signed",
            code="FK780",
            remedy="read it with `fedkit client study show`, compare its digest with the admin's by another way, and"
            " give all 64 digits: two texts that share a few can be made",
        )
    signed = studies.sign(found, load_signing_key(folder.signing_key), time.time())
    name, target = signed.agreement.study, out or file
    # What is not on record is not signed.
    record(folder, "study_signed", **_fields(signed))
    studies.keep(signed)
    replace(target, f"{signed.text}\n".encode())
    named = {data: name in own.policy.studies for data, own in read_site_file(site_yaml).data.items()}
    text = f"{studies.site} has signed {name}, {signed.digest}\n  {target}: send it to the coordinator's admin\n"
    if not any(named.values()):
        text += f"  no data set's policy.studies names {name} yet, so that its runs are still refused (FK571)\n"
    _print({"study": name, "digest": signed.digest, "file": str(target), "named_by": named}, text, json_=json_)


@study_app.command("list")
def list_(site_yaml: SiteYaml, json_: Json = False) -> None:
    """Every agreement in the site's folder: how the site stands to it, and for how long it runs.

    Example: fedkit client study list site/site.yaml
    """
    from fedkit_client.studies import summaries

    told = summaries(_site(site_yaml)[1])
    lines = [f"{each['study']}: {each['standing']}{_more(each)}\n" for each in told]
    _print({"studies": told}, "".join(lines) or "the site has signed no study\n", json_=json_)


@study_app.command()
def leave(
    site_yaml: SiteYaml,
    name: Name,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write the signed word for the coordinator here too.")
    ] = None,
    json_: Json = False,
) -> None:
    """Withdraw the site's signature: from the next message on its runs are refused, also those that have begun.

    What was released stays released. `sign` signs the same text again.

    Example: fedkit client study leave site/site.yaml heart-2026 --out heart-2026.left.json
    """
    from fedkit.errors import FedkitError
    from fedkit.storage.keys import load_signing_key
    from fedkit.storage.private import replace
    from fedkit_client.audit import record

    folder, studies = _site(site_yaml, leaving=True)
    fields: dict[str, Any] = {"study": name}
    try:
        left = studies.leave(name, load_signing_key(folder.signing_key), time.time())
        fields = _fields(left)
        path = studies.keep(left)
    except FedkitError as error:
        if error.code == "FK780":
            raise
        # A text that cannot be read, or not be signed again, must keep nobody from leaving.
        left, path = None, studies.put_away(name, time.time())
    unlogged = ""
    try:
        record(folder, "study_left", **fields)
    except (FedkitError, OSError) as error:
        unlogged = str(error)
    text = f"{studies.site} has left {name}; every message of its runs is refused from now on (FK579)\n"
    if left is None:
        text += f"  its agreement could not be signed; it lies in {path}. Tell the coordinator's admin\n"
    else:
        if out is not None:
            replace(out, f"{left.text}\n".encode())
        text += f"  {out or path}: send it to the coordinator's admin, who otherwise goes on asking\n"
    if unlogged:
        text += f"  the audit log does not tell of it: {unlogged}\n"
    told = {"study": name, "left": True, "signed": left is not None, "file": str(out or path), "logged": not unlogged}
    _print(told, text, json_=json_)


def _more(each: dict[str, Any]) -> str:
    if each["standing"] == "unreadable":
        return f" ({each['why']}); no run of it is taken"
    return f", version {each['version']}, {each['begin']} to {each['end']}, {each['digest'][:12]}"


def _fields(study: Study) -> dict[str, Any]:
    return {"study": study.agreement.study, "version": study.agreement.version, "agreement": study.digest}


def _site(site_yaml: Path, *, leaving: bool = False) -> tuple[SiteFolder, Studies]:
    from fedkit.governance.site_file import read_site_file
    from fedkit_client.folder import SiteFolder
    from fedkit_client.studies import studies_of
    from fedkit_client.unlinked import require_unlinked

    file = read_site_file(site_yaml)
    folder = SiteFolder(file.folder.resolve())
    # A link elsewhere keeps nobody from leaving.
    if not leaving or folder.studies.is_symlink():
        require_unlinked(folder.path)
    return folder, studies_of(folder, file.site)


def _each_line(text: str, shown: Any) -> str:
    return "".join(f"{shown(line)}\n" for line in text.splitlines())


def _print(value: dict[str, Any], text: str, *, json_: bool) -> None:
    sys.stdout.write(json.dumps(value, allow_nan=False) + "\n" if json_ else text)
    sys.stdout.flush()
