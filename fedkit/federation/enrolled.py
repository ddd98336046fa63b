"""Which other sites take part: one statement a site, signed by the coordinator, that it is enrolled with its own key.

It stops mistakes, such as a run of one hospital alone. It does not stop a coordinator that colludes, which can enrol
sites of its own.

::

    FK540 to FK543, FK547  as in `envelope`; FK542 also for a site or a key that is named twice
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fedkit.data.names import require_site_names
from fedkit.data.table import name_text
from fedkit.errors import DataError, FederationError
from fedkit.federation import strict_json
from fedkit.federation.envelope import check_times, read, seal, unseal
from fedkit.federation.job import SKEW, Job
from fedkit.storage.keys import SigningKey, fingerprint, is_fingerprint

LONGEST_LIFE = 86_400.0
"""Seconds for which a statement counts: a site that was revoked is not shown for longer."""

MOST = 10_000
_FIELDS = {"wire": int, "federation": str, "site": str, "key": str, "issued_at": int}


def make_enrolments(
    federation: str, sites: Sequence[str], keys: Mapping[str, bytes], coordinator: SigningKey, now: float
) -> tuple[str, ...]:
    """Sign a statement for each of a job's sites that is enrolled.

    Args:
        keys: site to the raw public key that it gave when it joined, of those that are enrolled now.
    """
    return tuple(
        seal(
            "enrolment",
            {"federation": federation, "site": site, "key": fingerprint(keys[site]), "issued_at": int(now)},
            coordinator,
        ).text
        for site in sites
        if site in keys
    )


def other_sites(texts: Sequence[str], coordinator: bytes, job: Job, site: str, now: float) -> tuple[str, ...]:
    """The job's other sites that the statements vouch for, in the job's order.

    Args:
        coordinator: the raw key that the keyring names.
        site: the reader's own name.

    Raises:
        FederationError: see the module; one bad statement among good ones spoils them all.

    Guarantee: the coordinator has signed for each within a day, under distinct names and keys.
    """
    if len(texts) > MOST:
        raise strict_json.unreadable("the list of enrolments", f"has more than {MOST:,} statements")
    found: dict[str, str] = {}
    for text in texts:
        name, key = _statement(text, coordinator, job.federation, now)
        if name in found or key in found.values():
            what = f"the site {name}" if name in found else f"the key {key}"
            raise FederationError(
                f"the enrolments name {what} twice", code="FK542", remedy="enrol each site once, with a key of its own"
            )
        found[name] = key
    # Each counts once, in however many spellings a job names it.
    return tuple(dict.fromkeys(name for name in map(name_text, job.sites) if name in found and name != site))


def _statement(text: str, coordinator: bytes, federation: str, now: float) -> tuple[str, str]:
    values = strict_json.fields(unseal(read(text), "enrolment", coordinator), _FIELDS, "the enrolment")
    if values["federation"] != federation:
        raise FederationError("the enrolment is another federation's", code="FK542", remedy="send this federation's")
    issued = values["issued_at"]
    check_times("enrolment", issued, issued + int(LONGEST_LIFE), now, longest=LONGEST_LIFE, skew=SKEW)
    try:
        require_site_names([values["site"]])
    except DataError:
        raise strict_json.unreadable("the enrolment", "names no site") from None
    if not is_fingerprint(values["key"]):
        raise strict_json.unreadable("the enrolment", "names a key by no fingerprint")
    return values["site"], values["key"]
