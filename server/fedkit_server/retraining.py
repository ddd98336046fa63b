"""A run's job, read again to be signed anew: what a user of the federation once signed, and nothing that came since.

::

    FK594  a job that is not the run's, or that nobody would get today
"""

from __future__ import annotations

import base64
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fedkit.config.experiment import ExperimentConfig
from fedkit.config.serialize import from_dict
from fedkit.errors import FederationError
from fedkit.federation.envelope import read, unseal
from fedkit.federation.job import NAME
from fedkit.federation.keyring import Keyring
from fedkit.governance.clauses import Circumstances
from fedkit.storage.keys import fingerprint
from fedkit_server.submission import with_sites

_USERS = ("root", "add", "rotate")


@dataclass(frozen=True)
class Again:
    """What is to be signed."""

    config: ExperimentConfig
    study: str
    min_sites: int
    deadline: float


def same_again(
    text: str,
    run: str,
    keyring: Keyring,
    sites: Sequence[Mapping[str, Any]],
    name: str | None,
    models: Collection[str] = (),
    *,
    asked: Circumstances,
) -> Again:
    """A run's own config under a new name.

    Args:
        text: the coordinator's copy of the job.
        sites: as the API lists them.
        name: the new one; by default the old one with ``-without`` behind it.
        models: those that the coordinator has installed.
        asked: who submits it, and when; its study is the run's.

    Raises:
        FederationError: FK594, FK540, FK541, FK547.
        DeploymentError: FK728, FK729, sites that are absent or would not take the run today.

    Guarantee: but for its name the config is, to the letter, one that a user of the federation has signed; a
    coordinator that altered its copy is found out.
    """
    signed = read(text)
    public = _user_keys(keyring).get(signed.key)
    if public is None:
        raise _refused(f"its signer {signed.key} never was a user of the federation", "submit the run anew")
    values = unseal(signed, "job", public)
    if values.get("federation") != keyring.federation or values.get("run") != run:
        raise _refused(f"the coordinator gave the job of {str(values.get('run'))[:100]!r}", "ask its admin")
    if "statistics" in values:
        raise _refused("it asked for statistics and made no model", "ask again: `fedkit server stats`")
    config = from_dict(values["config"], python=False, models=models)
    named = f"{config.name[:92]}-without" if name is None else name
    if not NAME.fullmatch(named) or named == config.name:
        raise _refused(
            f"{named[:100]!r} cannot be the new name",
            "give --name 1 to 100 letters, digits, . _ and -",
        )
    config = replace(config, name=named)
    min_sites, deadline = int(values["min_sites"]), float(values["deadline"])
    asked = replace(asked, study=str(values["study"]))
    today, _ = with_sites(config, sites, list(config.data.records), min_sites, deadline, asked)
    if today != config:
        raise _refused(
            f"the sites declare {dict(today.data.records)} today, and the run had {dict(config.data.records)}",
            "submit the run anew with `fedkit server run`",
        )
    return Again(config, str(values["study"]), min_sites, deadline)


def _user_keys(keyring: Keyring) -> dict[str, bytes]:
    """Every key that a user ever had, by its fingerprint: the run may be older than its signer's newest key."""
    keys = {}
    for text in keyring.statements:
        said = json.loads(read(text).payload)
        if said["action"] in _USERS:
            public = base64.b64decode(said["key"])
            keys[fingerprint(public)] = public
    return keys


def _refused(why: str, remedy: str) -> FederationError:
    return FederationError(f"the run cannot be repeated: {why}", code="FK594", remedy=remedy)
