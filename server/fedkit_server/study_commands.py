"""``fedkit server study create | list | show | add``: agreements that an admin signs, and the sites after them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from fedkit_server.options import SETTINGS, Json, Profile, connect, show

study_app = typer.Typer(
    help="Study agreements: make and sign one, collect the sites' signatures.\n\n"
    "Example: fedkit server study create heart-2026.yaml --out heart-2026.json",
    **SETTINGS,
)
Name = Annotated[str, typer.Argument(metavar="NAME", help="A study, as `fedkit server study list` lists it.")]


@study_app.command()
def create(
    file: Annotated[Path, typer.Argument(metavar="FILE.yaml", help="The terms; see docs/governance.md.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The signed agreement, for each site to sign.")],
    profile: Profile = None,
    json_: Json = False,
) -> None:
    """Check the terms, sign them with your key, an admin's, and give them to the coordinator.

    Parties may be a list of names: their keys are then those with which they are enrolled. From now on a run of the
    study needs the sites' signatures under this text, whatever they have signed before.

    Example: fedkit server study create heart-2026.yaml --out heart-2026.json --profile heart-admin
    """
    from fedkit.federation.study import make_study
    from fedkit.governance.agreement_file import read_agreement_file
    from fedkit.reporting.study_text import study_json, study_text
    from fedkit.storage.private import require_free, write_new

    if out.exists():
        require_free(out, "name a file that does not exist yet: --out FILE")
    from fedkit_server.under_study import enrolled_keys

    remote = connect(profile)
    key = remote.profile.key()
    remote.keyring().signer(key.fingerprint, "admin")
    keys = enrolled_keys(remote)
    agreement = read_agreement_file(file, keys)
    study = make_study(agreement, remote.profile.federation, remote.profile.name, key, time.time())
    remote.post("/studies", {"study": study.text})
    write_new(out, f"{study.text}\n".encode())
    told = study_json(study, keys)
    text = f"{study_text(told)}{out}: send it to each party, and tell its digest by another way than the file\n"
    show({**told, "file": str(out)}, text, json_=json_)


@study_app.command("list")
def list_(profile: Profile = None, json_: Json = False) -> None:
    """Every study, and how each party stands to its newest text.

    Example: fedkit server study list --profile heart-admin
    """
    found = connect(profile).get("/studies")["studies"]
    lines = []
    for each in found:
        if "problem" in each:
            lines.append(f"{each['study']}: cannot be read ({each['problem']}); no run of it is taken")
            continue
        parties = ", ".join(f"{site} {said}" for site, said in each["standing"].items())
        lines.append(f"{each['study']}, version {each['version']}, {each['begin']} to {each['end']}: {parties}")
    show({"studies": found}, "\n".join(lines) or "no study yet", json_=json_)


@study_app.command("show")
def show_(
    name: Name,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Write the file with all signatures here too.")
    ] = None,
    profile: Profile = None,
    json_: Json = False,
) -> None:
    """Every term of a study's newest text, its digest, and how each party stands.

    Example: fedkit server study show heart-2026 --out heart-2026.json
    """
    from fedkit.reporting.study_text import study_json, study_text
    from fedkit.storage.private import write_new
    from fedkit_server.under_study import enrolled_keys, fetched

    remote = connect(profile)
    study = fetched(remote, name)
    if out is not None:
        write_new(out, f"{study.text}\n".encode())
    told = study_json(study, enrolled_keys(remote))
    show(told, study_text(told), json_=json_)


@study_app.command()
def add(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="What sites have signed, or left.")],
    profile: Profile = None,
    json_: Json = False,
) -> None:
    """Give the coordinator what sites have signed; of a site's words the newest counts.

    Example: fedkit server study add heart-2026.north.json heart-2026.south.json
    """
    from fedkit.federation.study import read_study

    remote = connect(profile)
    studies = [read_study(file, remote.profile.federation) for file in files]
    told = [remote.post("/studies", {"study": study.text}) for study in studies]
    lines = []
    for each in told:
        changed = ", ".join(f"{site} {'signs' if act == 'sign' else 'leaves'}" for site, act in each["changed"].items())
        parties = ", ".join(f"{site} {said}" for site, said in each["standing"].items())
        lines.append(f"{each['study']}: {changed or 'nothing new'}; now {parties}")
    show({"studies": told}, "\n".join(lines), json_=json_)
