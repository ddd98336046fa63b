"""Which error codes a site may let the coordinator see, and how the coordinator reads what a site sends.

A refusal is a message too. A code may leave a site only if it follows from the request, from declared constants or
from the site's own settings and ledger; whatever may follow from records is answered by one common code, and the
reason stays in the site's own log.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from fedkit.errors import FederationError, FedkitError
from fedkit.governance.clauses import WAITING

COMMON = "FK500"
"""The one answer of a site whose reason is not for others."""

_CODE = re.compile(r"FK[0-9]{3}")
_UNREADABLE = "an error without a readable code"

_CONFIG = {
    "FK101",  # the config that came with the request
    "FK215",  # a split or scaling that a private run refuses: the declaration alone
    "FK218",  # a range, fraction or kind that cannot be: the declaration alone
}
# Every other FK2xx stays: a table's bytes, columns, cells and counts are records, or change with them. FK211, FK213
# and FK216 mean the declaration in one place and the rows in another, and a code does not say which.

_PLAN = {
    "FK300", "FK301", "FK302", "FK303", "FK304", "FK305", "FK306", "FK307", "FK308", "FK309", "FK310", "FK311",
    "FK312", "FK313", "FK321",
}  # fmt: skip
# Plans are made of declared constants. Where nothing is declared the true count stands in, and then the aggregation
# weight would tell it anyway: such a site must not be deployed at all.
# FK314 stays: it is about the cells of rows.

_LEDGER = {f"FK{number}" for number in (*range(330, 350), 351, 353, 357, 359)}
# What a ledger refuses follows from its limits, the plans it was charged for and its disk, never from a record.
# FK350 is about files that a command reads; no answer raises it. FK352 stays: a reply that holds NaN is one. So does
# FK354, a round that failed on its records: a repeated request is answered as the first one was.

_MODEL = {
    "FK401",  # the request's parameters are not of the model's size
    "FK402",  # the config's model or its arguments
    "FK403",  # outputs of another shape: found by the probe on random numbers, before any record is used
    "FK404",  # a model that per-sample clipping cannot hold: refused by its modules or by the same probe
    "FK406",  # parameters of another type, or none trainable
    "FK408",  # the config's optimizer or learning rate
    "FK410",  # a model that cannot be copied
    "FK413",  # the shape of an evaluation's histograms: declared classes, levels and bins
    "FK423",  # a model that the site's GPU cannot train: found with zeros and random numbers
}
# FK405 (not finite), FK407 (buffers moved), FK409 (no rows) and FK414 arise from what the records did. So would FK403
# and FK404 if they were raised while records are in use: `on_records` stands around that.

_WIRE = {
    "FK510",  # a request of another version, or of no known kind
    "FK515",  # a request without the one packed array
    "FK516",  # a packed array that is not flat float32
    "FK535",  # what the plan does not contain, a second request for a round, a site that keeps no ledger
    "FK536",  # a request's parameters or proximal_mu out of bounds
}

_TRUST = {f"FK{number}" for number in range(540, 548)}
# What is wrong with an envelope, its signer, its times or the job's config: the request, the keyring and the clock.

_WILL = {*(f"FK{number}" for number in range(560, 580)), "FK580", "FK581", "FK585"}
# What the site's own file refuses: the request, the clock and a person's word against declared constants. FK580: the
# site is paused, whoever asks for what. FK581: how often the coordinator has asked for one round.
# FK585: the site has not the key of what it stores, whatever that holds.

MAY_CHANGE = frozenset({*WAITING, "FK580"})
"""Codes of a refusal that the hour or a person at the site may lift within the round: the coordinator asks again."""

_CONSENT = {
    "FK590",  # a run without a purpose, for a data set whose rows are used by consent: the request and the site's file
}
# FK591 to FK593 stay: they would tell whether anybody has withdrawn.

_STATISTICS = {
    "FK370", "FK371",  # columns and bins that the declaration does not have
    "FK372",  # the ledger's limit
}  # fmt: skip
# FK376 stays: a table that cannot be used for statistics.

PUBLIC_CODES: frozenset[str] = frozenset(
    _CONFIG | _PLAN | _LEDGER | _MODEL | _WIRE | _TRUST | _WILL | _CONSENT | _STATISTICS
)
"""Codes that follow from the request, declared constants or the site's own settings."""


def public_code(error: BaseException) -> str:
    """The code that may leave the site in place of an error.

    >>> public_code(FedkitError("", code="FK510")), public_code(FedkitError("", code="FK222")), public_code(KeyError())
    ('FK510', 'FK500', 'FK500')
    """
    return error.code if isinstance(error, FedkitError) and error.code in PUBLIC_CODES else COMMON


@contextmanager
def on_records() -> Iterator[None]:
    """Stands around work on records: inside, no error keeps a code that the coordinator may see.

    Raises:
        FederationError: FK500 in place of any other exception, which it is raised from.
    """
    try:
        yield
    except Exception as error:
        told = error.message if isinstance(error, FedkitError) else type(error).__name__
        remedy = error.remedy if isinstance(error, FedkitError) else ""
        raise FederationError(
            f"the request failed on this site's records: {told}", code=COMMON, remedy=remedy
        ) from error


def readable_reason(text: str) -> str:
    """A reason that a site sent, as it may stand in notes and reports: a code, or a fixed text in its place.

    >>> readable_reason("FK339"), readable_reason("<b>FK339</b>")
    ('FK339', 'an error without a readable code')
    """
    return text if _CODE.fullmatch(text) else _UNREADABLE
