"""``fedkit server retrain-without``: a run once more, under a new name, on what the sites may still use."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from fedkit_server.options import Json, Profile, RunName, connect, show


def retrain_without(
    run: RunName,
    name: Annotated[
        str | None, typer.Option("--name", metavar="NAME", help="The new run's name; by default NAME-without.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be signed, and submit nothing.")] = False,
    profile: Profile = None,
    json_: Json = False,
) -> None:
    """Submit the config of RUN again, signed with your key: each site leaves out who has withdrawn since.

    It is a new run from its first round on, and is charged to the sites' budgets like any other. The models of RUN stay
    what they are, and so does what was released of them.

    Example: fedkit server retrain-without 20260101-120000-heart_disease-0a1b2c --dry-run
    """
    from fedkit.config.serialize import to_dict, to_yaml
    from fedkit_server.remote import segment
    from fedkit_server.retraining import same_again
    from fedkit_server.submission import circumstances, sign
    from fedkit_server.under_study import agreement_for

    remote = connect(profile)
    known = remote.keyring()
    key = remote.profile.key()
    known.signer(key.fingerprint, "operator")
    row, sites = remote.get(f"/runs/{segment(run)}"), remote.get("/sites")["sites"]
    models, asked = remote.get("/status").get("models", ()), circumstances(remote.profile, "none", time.time())
    again = same_again(str(row.get("job")), run, known, sites, name, models, asked=asked)
    if dry_run:
        config, names = again.config, list(again.config.data.records)
        told = {"of": run, "name": config.name, "sites": names, "study": again.study, "config": to_dict(config)}
        said = f"{config.name}: the config of {run} for {', '.join(names)}; nothing is submitted"
        show(told, f"{said}\n{to_yaml(config).rstrip()}", json_=json_)
        return
    quorum, deadline = again.min_sites, again.deadline
    # Under the study's newest text, whichever the run was submitted under.
    agreement = agreement_for(remote, again.study, again.config, list(again.config.data.records))
    made, signed = sign(
        again.config, remote.profile, study=again.study, min_sites=quorum, deadline=deadline, now=time.time(),
        agreement=agreement,
    )  # fmt: skip
    answer = remote.post("/runs", {"job": signed.text})
    found = {"run": str(answer["run"]), "of": run, "job": signed.digest, "sites": list(again.config.data.records)}
    show(
        found,
        f"{made}: submitted with the config of {run}; who has withdrawn at a site is not in it\n"
        f"next: `fedkit server watch {made}{remote.profile.option}`",
        json_=json_,
    )
