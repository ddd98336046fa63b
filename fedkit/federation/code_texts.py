"""What a code that a site sent means to whoever started the run: one sentence each, in the coordinator's own words.

A site sends a code and no text, so that nothing of its records, files or people can travel in one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_SENT = re.compile(r"(?:^|: |\bits last answer was )(FK[0-9]{3})(?![0-9]|: )")
"""A code in place of a reason; one of the coordinator's own has its message behind it."""

_PLAN = "the privacy plan cannot be made from the config: see `fedkit plan`"
_LEDGER = "the site's ledger cannot be used: ask its IT to look at `fedkit client doctor` and the site's log"
_MODEL = "the model cannot be trained at the site: try it with `fedkit simulate`"
_REQUEST = "the site cannot read the coordinator's message: compare the versions of fedkit on both sides"

CODE_TEXTS: dict[str, str] = {
    "FK101": "the run's config is not valid at the site: compare the versions of fedkit on both sides",
    "FK215": "a private run needs split.kind=keyed_hash and a scaling by declared ranges",
    "FK218": "a range, fraction or kind of the declared data cannot be: see `fedkit config show`",
    **{f"FK{n}": _PLAN for n in (300, 301, 302, 303, 304, 305, 306, 307, 308, 309, 310, 311, 312, 313, 321)},
    **{f"FK{n}": _LEDGER for n in (330, 332, 333, 335, 336, 337, 338, 342, 343, 344, 345, 348, 353)},
    "FK331": "the site's ledger holds an answer that was altered: ask the site to investigate, and send nothing again",
    "FK334": "the site's ledger is a restored backup: ask its IT to run `fedkit ledger reconcile`",
    "FK359": "the site's answer to this round is encrypted by a key that the site has lost: go on with the next round",
    "FK339": "the site's privacy budget for this data set does not pay for the run: plan fewer rounds, more noise, or"
    " ask its data protection officer",
    "FK340": "the site's budget is for another delta, unit or epsilon: ask its data protection officer",
    "FK341": "the run protects another unit than the site's budget: set or unset data.unit_column",
    "FK346": "the site has admitted this run for another job: submit the job under a new name",
    "FK347": "the site has spent this round's budget on another message, and answers no second one",
    "FK349": "the site's answer is lost and may have been sent before; it is not computed again, so the run goes on"
    " without it",
    "FK351": "the site's plan has no such round: run no more rounds than were submitted",
    "FK357": "an answer is too large for the site's ledger: train a smaller model",
    "FK370": "the site's declaration does not have a column that was asked for: name others with --columns",
    "FK371": "the site's declaration does not allow these bins: ask for fewer with --bins",
    "FK372": "the site's privacy budget for this data set does not pay for the question: lower --epsilon, or name fewer"
    " --columns",
    "FK401": "the site's model has another size: compare the versions of fedkit and of the model on both sides",
    "FK402": "the site does not know the model or its arguments: ask its IT to allow it, or name another",
    "FK403": _MODEL,
    "FK404": "the model mixes or remembers records, so that no clipping holds: replace BatchNorm by GroupNorm",
    "FK406": _MODEL,
    "FK408": "training.optimizer or training.learning_rate cannot be used: see `fedkit config show`",
    "FK410": _MODEL,
    "FK413": "the private evaluation's histograms have a shape that cannot be: set fewer bins or subgroups",
    "FK423": "the model cannot be trained on the site's GPU: leave out operations that are not deterministic there, or"
    " ask its IT to set device: cpu",
    "FK500": "the reason is not for others: ask the site's IT for the line of this run in the site's log",
    "FK510": _REQUEST,
    "FK515": _REQUEST,
    "FK516": _REQUEST,
    "FK535": "the site's plan does not contain what was asked, or it was asked for before",
    "FK536": "the model's parameters or proximal_mu have grown out of bounds: lower the learning rates",
    "FK540": _REQUEST,
    "FK541": "the site does not trust the job's or the order's signature: ask it whether `fedkit client doctor` knows"
    " the submitter's key",
    "FK542": "the message is for another site or job: submit the run anew",
    "FK543": "the job or order has expired, or the clocks differ: compare them (NTP), or raise --deadline",
    "FK544": "the site has seen a newer list of users than the coordinator shows: ask an admin who restored a backup",
    "FK545": "the message is not what was signed: ask the coordinator's IT to investigate",
    "FK546": "the job holds what no site takes from the wire: submit a config without paths, URLs or interpolations",
    "FK547": _REQUEST,
    "FK560": "the site has no data set of this name: see `fedkit server preflight`",
    "FK561": "the site declares the data set otherwise: compare `fedkit config show` with the site's inventory",
    "FK562": "the site declares another number of units: set data.records as `fedkit server sites` shows it",
    "FK563": "the site does not allow this model: ask its data protection officer, or name another",
    "FK564": "the site does not allow this strategy: ask its data protection officer, or name another",
    "FK565": "the run protects another unit than the site demands: set or unset data.unit_column",
    "FK566": "the run would be charged at a larger delta than the site allows: lower privacy.delta",
    "FK567": "the run costs more epsilon than the site allows: plan fewer rounds or more noise",
    "FK568": "the site admits no run without privacy: set privacy=record_dp",
    "FK569": "the site admits real noise only: set privacy.noise=secure",
    "FK570": "the site does not allow this purpose: set purpose= to one of the site's, or ask its data protection"
    " officer",
    "FK571": "the site does not take part in this study: name another with --study, or leave the site out",
    "FK572": "the site takes no job of this user, or of this key: have the job signed by a user whom the site names",
    "FK573": "the site allows fewer rounds: lower federation.num_rounds",
    "FK574": "the site's data set is too small for any run: leave the site out",
    "FK575": "the site does not release what the run asks for: leave out the private evaluation, exact metrics or both",
    "FK576": "outside the site's hours: it is asked again until the round's deadline",
    "FK577": "a person at the site has yet to approve the run, or has denied it: ask its data protection officer",
    "FK578": "too few other sites take part for this site: name more with --sites",
    "FK579": "the study agreement does not cover the run, its budget at the site is used up, or the site has not signed"
    " this text of it",
    "FK580": "the site has paused all release: it is asked again until the round's deadline",
    "FK581": "the site has begun this round ten times and never finished it: give the next run a longer --deadline",
    "FK585": "the site has not the key by which it encrypts what it stores: ask its IT to run `fedkit client doctor`",
    "FK590": "records there are used by consent to a purpose: set purpose=",
}
"""Code to sentence, for every code that may leave a site; no others are needed, for no other is believed."""


def sent_codes(reason: str) -> dict[str, str]:
    """The codes that a site sent, in a reason or a note, to what they mean.

    >>> sent_codes("its last answer was FK580; no other within 60 s")
    {'FK580': "the site has paused all release: it is asked again until the round's deadline"}
    >>> sent_codes("FK541: not what was signed"), sent_codes("FK999")
    ({}, {})
    """
    return {code: CODE_TEXTS[code] for code in sorted(set(_SENT.findall(reason))) if code in CODE_TEXTS}


def with_text(reason: str) -> str:
    """A reason with what it means, where it is a code that a site sent; any other text as it is.

    >>> with_text("FK580")
    "FK580 (the site has paused all release: it is asked again until the round's deadline)"
    >>> with_text("no reply within 60 s")
    'no reply within 60 s'
    """
    found = sent_codes(reason)
    return f"{reason} ({'; '.join(found.values())})" if found else reason


def legend(notes: Iterable[str]) -> list[str]:
    """What the codes in a run's notes mean, one line for each that a site may have sent.

    >>> legend(["round 1: degraded 1/2: va missing: va: FK580", "round 2: degraded 1/2: va missing: va: FK580"])
    ["FK580: the site has paused all release: it is asked again until the round's deadline"]
    """
    found = {code: text for note in notes for code, text in sent_codes(note).items()}
    return [f"{code}: {found[code]}" for code in sorted(found)]
