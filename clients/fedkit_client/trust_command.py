"""``fedkit client trust``: a CA that was replaced while the site was away."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from fedkit_client.pause_commands import Json, SiteYaml


def trust(
    site_yaml: SiteYaml,
    file: Annotated[
        Path | None,
        typer.Option(
            "--file", metavar="FILE", help="What `fedkit server authority` wrote; else the coordinator is asked."
        ),
    ] = None,
    json_: Json = False,
) -> None:
    """Trust the CA that took the place of the pinned one, where the coordinator's key says so.

    A site that runs while both count follows by itself; this is for one that was away. A running site takes it up when
    it connects again.

    Example: fedkit client trust site/site.yaml
    """
    from fedkit_client.authorities import chain_of, trust_by_hand
    from fedkit_client.log_commands import folder_of

    folder = folder_of(site_yaml)
    fresh, count = trust_by_hand(folder, file), len(chain_of(folder))
    text = f"{fresh} further CA{'' if fresh == 1 else 's'} trusted\n" if fresh else "nothing new: the CA is known\n"
    sys.stdout.write(json.dumps({"trusted": fresh, "after_the_first": count}) + "\n" if json_ else text)
    sys.stdout.flush()
