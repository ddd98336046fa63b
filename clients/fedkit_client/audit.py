"""The site's audit log: what the node's process writes before it sends, and the one function that commands append with.

No key is opened where records are read: the child tells (`findings`), the node's process signs.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flwr.app import ConfigRecord, RecordDict

from fedkit.errors import FedkitError
from fedkit.federation.content import content_digest
from fedkit.federation.heads import CONTRADICTED, KEPT, Heard, coordinator_keys, seal_head
from fedkit.federation.keyring import COORDINATOR
from fedkit.federation.trail import examine
from fedkit.storage.audit import Log
from fedkit.storage.audit_line import Event, Scalar
from fedkit.storage.audit_verify import readable_lines
from fedkit.storage.chain import Head
from fedkit.storage.keys import SigningKey, load_signing_key
from fedkit_client.edits import Edits
from fedkit_client.findings import read_findings
from fedkit_client.folder import SiteFolder
from fedkit_client.norms import released_norm

HEAD = "head"
"""The record of a reply that tells the head."""

_LOG = logging.getLogger("fedkit.node")


def record(folder: SiteFolder, kind: str, **fields: Scalar) -> Head:
    """Append one event; to be called before what it tells of is done, which must not be done where this raises.

    Args:
        fields: flat, and no record, patient, secret, or text of an error among them: what was refused is told by code.

    Raises:
        DeploymentError: FK770, FK771, nothing was written; FK702, FK703, the site's key.
    """
    return Log(folder.audit, load_signing_key(folder.signing_key)).append(Event(kind, fields))


def signed_by(user: str) -> dict[str, Scalar]:
    """The field that names the console's user who did it; none for what was done on the command line."""
    return {"by": user} if user else {}


def examined(folder: SiteFolder, *, peer: Path | None = None, every: bool = False) -> dict[str, Any]:
    """Whether a site's log is what was written; see `fedkit.federation.trail.examine`.

    Raises:
        DeploymentError: FK741, FK772; FK702, FK703, the site's key.
    """
    known = coordinator_keys(folder.keyring())

    def others(party: str) -> Sequence[bytes]:
        return known if party == COORDINATOR else ()

    keys = [load_signing_key(folder.signing_key).public]
    return examine(folder.audit, folder.enrolment().site, keys, others, peer=peer, every=every)


@dataclass
class Trail:
    """The log of a running site; for one thread.

    Guarantee: no reply and no refusal is returned to be sent by :meth:`sealed` before the log tells of it on disk, and
    before it tells by which text of the site's file the site goes, and that the file has another one where it has.

    Attributes:
        peer_head: what the message at work has told of the coordinator's log.
    """

    folder: SiteFolder
    site: str
    key: SigningKey = field(repr=False)
    peer_head: str = ""
    _events: list[Event] = field(default_factory=list)
    _guarantee: dict[str, Scalar] = field(default_factory=dict)
    _heard: Heard = field(default_factory=Heard)
    _keys: tuple[object, Sequence[bytes]] = (None, ())
    _edits: Edits | None = None

    def __post_init__(self) -> None:
        """Recall what the coordinator has told before."""
        if self.folder.audit.exists():
            self._heard = Heard.of(readable_lines(self.folder.audit, KEPT))

    @property
    def log(self) -> Log:
        """The file."""
        return Log(self.folder.audit, self.key)

    def started(self, version: str, site_yaml: Path, digest: str) -> None:
        """The site begins to run.

        Args:
            digest: of the text by which the site goes, which its file may no longer have.

        Raises:
            DeploymentError: FK770, FK771: it must not.
        """
        events, known = [Event("started", {"version": version})], None
        if self.folder.audit.exists():
            for line in readable_lines(self.folder.audit, ("configured",)):
                known = line.fields.get("digest")
        if digest != known:
            events.append(Event("configured", {"digest": digest}))
        self.log.append(*events)
        self._edits = Edits(site_yaml, digest)

    def look(self) -> None:
        """Tell of the site's file where it has become another one; to be called now and then while nothing is asked.

        What cannot be written now is written with the next message, or not answered.
        """
        if self._edits is not None and (events := self._edits.news()):
            try:
                self.log.append(*events)
            except Exception as error:
                _LOG.warning("that the site's file has changed cannot be logged: %s", error)
                return
            self._edits.told(events)
            _LOG.warning("the site's file has changed: what it says now counts once the site is started again")

    def stopped(self) -> None:
        """The site ends; one that cannot write it down ends all the same."""
        try:
            self.log.append(Event("stopped"))
        except Exception as error:
            _LOG.warning("the end cannot be logged: %s", error)

    def begin(self) -> None:
        """A message is at work."""
        self.peer_head, self._events, self._guarantee = "", [], {}

    def child(self, header: Mapping[str, Any] | None) -> None:
        """What a child told, or that it died before it could.

        Raises:
            DeploymentError: FK769.
        """
        if header is None:
            self._events.append(Event("died"))
        else:
            self._events, self._guarantee = read_findings(header)

    def sealed(self, content: RecordDict | str, kind: str, run: str, number: int) -> RecordDict | str:
        """Log a message and what it is about to be answered with; returns what may then be sent.

        Args:
            content: the reply, or the code in its place, which is returned with the log's new head beside it.
            kind, run, number: what the message says of itself; verified only where it was admitted.

        Raises:
            DeploymentError: FK770, FK771: nothing may be sent.
        """
        shown: dict[str, Scalar] = {"run": run, "purpose": kind, "round": number}
        said, head, guarantee = self._events, self.peer_head, self._guarantee
        self.begin()
        events = [Event("requested", shown), *said]
        if isinstance(content, str):
            events.append(Event("refused", shown | {"code": content}))
        elif all(event.kind != "ended" for event in said):
            digest, size = content_digest(content)
            norm = released_norm(content) if guarantee.get("guarantee") == "dp" and kind == "train" else None
            told = guarantee if norm is None else {**guarantee, "norm": norm}
            events.append(Event("released", shown | {"digest": digest, "size": size} | told))
        moment = None if kind == "end" else (run, number)
        edits = self._edits.news() if self._edits is not None else []
        new = self.log.append(*edits, *events, *self._kept(head, moment))
        if self._edits is not None:
            self._edits.told(edits)
        if not isinstance(content, str):
            content[HEAD] = ConfigRecord({HEAD: seal_head(self.site, new, self.key)})
        return content

    def withheld(self, kind: str, run: str, number: int) -> None:
        """What the line before calls released has not left, or not whole: a pause came between.

        Raises:
            DeploymentError: FK770, FK771.
        """
        self.log.append(Event("withheld", {"run": run, "purpose": kind, "round": number}))

    def _kept(self, head: str, moment: object) -> list[Event]:
        try:
            kept = self._heard.hear(COORDINATOR, head, self._coordinator() if head else (), moment)
        except (OSError, FedkitError) as error:
            # The site's own keyring: it says nothing about the coordinator's log.
            _LOG.warning("the coordinator's head cannot be verified: %s", error)
            return []
        if any(event.kind == CONTRADICTED for event in kept):
            _LOG.warning("the coordinator's log contradicts what it told before; see `fedkit client log show`")
        return kept

    def _coordinator(self) -> Sequence[bytes]:
        """The keys that the coordinator has had; read anew where the keyring has grown."""
        found = self.folder.keyring_file.stat()
        which = (found.st_mtime_ns, found.st_size, found.st_ino)
        if self._keys[0] != which:
            self._keys = which, coordinator_keys(self.folder.keyring())
        return self._keys[1]
