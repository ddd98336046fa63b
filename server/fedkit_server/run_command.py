"""``fedkit server run``: compose, sign, submit, watch."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from fedkit.cli.words import name_and_overrides
from fedkit_server.options import Json, Profile, connect, show

Words = Annotated[
    list[str] | None,
    typer.Argument(metavar="[NAME] [KEY=VALUE]...", help="An experiment, and overrides of its config."),
]


def run(
    sites: Annotated[str, typer.Option("--sites", metavar="A,B,...", help="The sites that take part.")],
    words: Words = None,
    min_sites: Annotated[
        int | None, typer.Option("--min-sites", metavar="N", help="A round with fewer fails; by default all.")
    ] = None,
    deadline: Annotated[
        float, typer.Option("--deadline", metavar="SECONDS", help="How long a round waits for absent sites.")
    ] = 600.0,
    study: Annotated[
        str, typer.Option("--study", metavar="NAME", help="The study that the run belongs to; none: to no study.")
    ] = "none",
    config_dir: Annotated[
        Path | None,
        typer.Option("--config-dir", metavar="DIR", help="A folder with groups and experiments of your own."),
    ] = None,
    detach: Annotated[bool, typer.Option("--detach", help="Return once the run is submitted.")] = False,
    profile: Profile = None,
    json_: Json = False,
) -> None:
    """Submit a run, signed with your key, and watch it.

    Refused before anything is asked of a site: a site that is unknown, absent or revoked, whose offer does not admit
    the run by what it tells of the site's file, or that has not signed the study's agreement. What would only wait
    there, for an hour or a person, is told. DIR/model/NAME.yaml makes a model known by its name: it must be installed
    at the coordinator and at each site.

    Example: fedkit server run heart_disease privacy.epsilon=1 --sites north,south --min-sites 2
    """
    from fedkit_server.submission import circumstances, composed, require_model, require_purpose, sign, with_sites
    from fedkit_server.under_study import agreement_for

    remote = connect(profile)
    key = remote.profile.key()
    name, overrides = name_and_overrides(words or [])
    config = composed(name, overrides, config_dir)
    require_purpose(config)
    require_model(config, remote.get("/status").get("models", ()))
    names = [word.strip() for word in sites.split(",") if word.strip()]
    quorum = len(names) if min_sites is None else min_sites
    asked = circumstances(remote.profile, study, time.time())
    config, waits = with_sites(config, remote.get("/sites")["sites"], names, quorum, deadline, asked)
    known = remote.keyring()
    # Better said here than by every site.
    known.signer(key.fingerprint, "operator")
    agreement = agreement_for(remote, study, config, names)
    made, signed = sign(
        config, remote.profile, study=study, min_sites=quorum, deadline=deadline, now=time.time(), agreement=agreement
    )
    answer = remote.post("/runs", {"job": signed.text})
    run_id = str(answer["run"])
    text = "\n".join([*(f"! {wait}" for wait in waits), f"{run_id}: submitted"])
    if detach:
        show(
            {"run": run_id, "job": signed.digest, "sites": names, "waits": waits},
            f"{text}\nnext: `fedkit server watch {made}{remote.profile.option}`",
            json_=json_,
        )
        return
    from fedkit_server.watching import follow

    if not json_:
        show({}, text, json_=False)
    if follow(remote, run_id, json_=json_) == "failed":
        raise typer.Exit(1)
