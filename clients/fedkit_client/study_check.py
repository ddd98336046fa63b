"""What `fedkit client doctor` says of the studies that a site's file names."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime
from typing import Literal

from fedkit.errors import FedkitError
from fedkit.governance.terms import NO_STUDY
from fedkit.storage.keys import load_signing_key
from fedkit_client.start import Opened
from fedkit_client.studies import studies_of
from fedkit_client.taken_back import signed_study

State = Literal["ok", "warn", "fail"]


def study_findings(opened: Opened) -> Iterator[tuple[str, State, str, str]]:
    """Study, state, what was found and what to do, for each study that a policy names; none where all is ``none``."""
    named = sorted({name for own in opened.file.data.values() for name in own.policy.studies} - {NO_STUDY})
    held = studies_of(opened.folder, opened.file.site) if named else None
    today = datetime.fromtimestamp(time.time()).astimezone().date()
    for name in named:
        assert held is not None  # noqa: S101  # something is named
        try:
            terms = signed_study(opened.folder, held, name).agreement
            own = load_signing_key(opened.folder.signing_key).fingerprint
        except FedkitError as error:
            # Not signed yet is a state to be in; what cannot be read is not.
            yield name, "warn" if error.code == "FK780" else "fail", error.message, error.remedy
            continue
        if terms.parties[opened.file.site] != own:
            yield (
                name, "fail", "it was signed with a key that this site had before",
                f"`fedkit client study leave SITE.yaml {name}`, and sign a later text that names the key {own}",
            )  # fmt: skip
        elif not terms.begin <= today <= terms.end:
            yield name, "warn", f"today is not within {terms.begin} to {terms.end}", "ask for a later text, or leave it"
        else:
            yield name, "ok", f"version {terms.version} is signed, until {terms.end}", ""
