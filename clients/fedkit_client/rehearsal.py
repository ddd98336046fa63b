"""A made-up site to drill an incident with: a real folder, log and ledger under made-up keys; nothing has happened."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

from fedkit.federation import statements
from fedkit.privacy.accounting import ADJACENCY, GaussianEvent
from fedkit.privacy.ledger.facts import Job
from fedkit.privacy.ledger.ledger import Ledger
from fedkit.privacy.ledger.messages import Message
from fedkit.privacy.rdp_filter import merged, rounded
from fedkit.storage.audit import Log
from fedkit.storage.audit_line import Event, Scalar
from fedkit.storage.keys import create_node_key, create_signing_key, fingerprint, new_signing_key
from fedkit.storage.private import make_folder, write_new
from fedkit_client.folder import FORMAT, Enrolment, SiteFolder

SITE, DATASET = "made-up", "made_up_table"
DAY = 86_400.0
_EVENT = GaussianEvent(0.05, 1.2, 20)
_YAML = """\
# REHEARSAL: a made-up site, which never was
site: made-up
data:
  made_up_table:
    declaration:
      target: {column: died, kind: binary, positive: [1]}
      features: {numeric: {age: [0, 120], rate: [20, 250]}, categorical: {}}
    source: {kind: csv, path: made-up.csv}
    records: 1200
    unit: record
    max_epsilon: 6.0
    delta: 1.0e-5
    models: [logistic]
    strategies: [fedavg]
    allow_unprotected: true
    sensitivity: {age: quasi-identifier, died: special-category}
    card: {contact: "REHEARSAL, made-up data protection officer"}
    policy:
      purposes: [made-up-research]
      studies: [none]
      submitters: any
      release: [updates, private_metrics, exact_metrics]
      approval: automatic
      max_rounds: 100
"""


def make_up(path: Path, now: float) -> SiteFolder:
    """Make a site's folder whose last three days hold what a drill has to find.

    A run as agreed; one by a user whom nobody knows, for a purpose that the file names, and exact; an answer that a
    pause kept back; forged requests; withdrawals that came later.

    Raises:
        DeploymentError: FK700, FK704.
    """
    folder = SiteFolder(path)
    make_folder(path)
    make_folder(folder.ledgers)
    write_new(folder.site_yaml, _YAML.encode())
    create_node_key(folder.node_key)
    key, root, coordinator = create_signing_key(folder.signing_key), new_signing_key(), new_signing_key()
    federation, stranger = fingerprint(b"REHEARSAL"), new_signing_key()
    keyring = statements.start(federation, "rehearsal-admin", root, coordinator.public, now - 30 * DAY)
    write_new(folder.keyring_file, "".join(f"{text}\n" for text in keyring.statements).encode())
    enrolment = Enrolment(
        FORMAT, SITE, federation, coordinator.fingerprint, root.fingerprint, "rehearsal.invalid", 9443, 9444, "1",
        int(now - 30 * DAY),
    )  # fmt: skip
    write_new(folder.enrolment_file, enrolment.as_json())
    spent = _charged(folder, now - 2.5 * DAY)

    def tell(at: float, kind: str, **fields: Scalar) -> None:
        Log(folder.audit, key, lambda: at).append(Event(kind, fields))

    _story(tell, now, spent, root.fingerprint, stranger.fingerprint)
    return folder


def _story(tell: Callable[..., None], now: float, spent: float, known: str, stranger: str) -> None:
    tell(now - 30 * DAY, "joined", site=SITE)
    tell(now - 3 * DAY, "started", version="rehearsal")
    tell(now - 3 * DAY, "configured", digest=_digest("site.yaml"))
    dp: dict[str, Scalar] = {
        "guarantee": "dp", "epsilon": spent, "delta": 1e-5, "unit": "record", "adjacency": ADJACENCY,
    }  # fmt: skip
    for number in (1, 2, 3):
        at = now - 2.5 * DAY + 60 * number
        shown: dict[str, Scalar] = {"run": "rehearsal-agreed", "purpose": "train", "round": number}
        tell(at, "requested", **shown)
        tell(at, "admitted", **_admitted("rehearsal-agreed", "rehearsal-admin", known))
        tell(at, "reserved", **shown, dataset=DATASET, epsilon_spent=spent, delta=1e-5, again=False)
        tell(at, "released", **shown, digest=_digest(f"agreed {number}"), size=2048, **dp)
    for number in (1, 2):
        at = now - DAY + 60 * number
        shown = {"run": "rehearsal-unknown", "purpose": "train", "round": number}
        tell(at, "requested", **shown)
        tell(at, "admitted", **_admitted("rehearsal-unknown", "rehearsal-stranger", stranger))
        tell(at, "released", **shown, digest=_digest(f"unknown {number}"), size=2048, guarantee="none")
    tell(now - DAY + 121, "withheld", run="rehearsal-unknown", purpose="train", round=2)
    tell(now - DAY + 122, "paused")
    for minute in range(3):
        tell(now - DAY / 2 + 60 * minute, "refused", run="rehearsal-forged", purpose="train", round=1, code="FK541")
    for person in range(2):
        tell(now - DAY / 4 + person, "withdrawn", dataset=DATASET, unit=_digest(f"person {person}")[:32])


def _admitted(run: str, submitter: str, key: str) -> dict[str, Scalar]:
    return {
        "run": run, "job": _digest(f"job {run}"), "dataset": DATASET, "submitter": submitter, "submitter_key": key,
        "study": "none", "for_purpose": "made-up-research", "config": _digest(f"config {run}"),
    }  # fmt: skip


def _charged(folder: SiteFolder, at: float) -> float:
    """A ledger with the agreed run; returns the epsilon that it vouches for."""
    from fedkit.privacy.ledger.figures import summary

    with Ledger.create(folder.ledger(DATASET), clock=lambda: at) as ledger:
        ledger.create_budget(DATASET, unit="record", limit=6.0, delta=1e-5)
        charges = merged([rounded(GaussianEvent(_EVENT.sample_rate, _EVENT.noise_multiplier, 3 * _EVENT.steps))])
        run = "rehearsal-agreed"
        ledger.admit(DATASET, run, "none", Job("record", ADJACENCY, charges), at + DAY)
        for number in (1, 2, 3):
            message = Message(DATASET, run, number, _digest(f"message {number}"))
            ledger.reserve(message, [_EVENT])
            ledger.commit(message, b"REHEARSAL")
        ledger.end(DATASET, run)
        return float(summary(ledger, DATASET, pld=False)["epsilon_spent"])


def _digest(text: str) -> str:
    return hashlib.sha256(f"REHEARSAL {text}".encode()).hexdigest()
