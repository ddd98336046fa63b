"""A site's folder: what lies where, and what the site pinned when it joined.

::

    FK740  a folder that is taken
    FK741  no site's folder, or one whose files are broken; FK759, one that a newer fedkit has written
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from fedkit.errors import DeploymentError
from fedkit.governance.pause import PauseFile
from fedkit.governance.quarantine import QuarantineFile
from fedkit.storage.formats import require_known
from fedkit.storage.private import require_private
from fedkit_client.address import joined

if TYPE_CHECKING:
    from fedkit.federation.keyring import Keyring
    from fedkit.storage.sealing import Vault
    from fedkit_client.vaults import Keys

FORMAT = 1
"""Of the whole folder: it goes up with the form of any file in it."""

_FINGERPRINT = re.compile(r"sha256:[0-9a-f]{64}")
_PINS = ("federation", "coordinator", "root")


@dataclass(frozen=True)
class Enrolment:
    """``enrolment.json``: whom the site trusts and under which name it is known.

    Attributes:
        federation, coordinator, root: fingerprints of the CA, the coordinator's first key and the root user's key.
        host: where the coordinator is reached.
        port: of the fleet interface; ``grpc_port`` of enrolment.
        node_id: Flower's; text, because it has 64 bits.
    """

    format: int
    site: str
    federation: str
    coordinator: str
    root: str
    host: str
    port: int
    grpc_port: int
    node_id: str
    joined_at: int

    @property
    def address(self) -> str:
        """host:port of the fleet interface."""
        return joined(self.host, self.port)

    @property
    def grpc_address(self) -> str:
        """host:port of enrolment."""
        return joined(self.host, self.grpc_port)

    def as_json(self) -> bytes:
        """As the file holds it."""
        return (json.dumps(asdict(self), indent=2) + "\n").encode()


@dataclass(frozen=True)
class SiteFolder:
    """Where things lie; see docs/deployment.md.

    Attributes:
        keys: the way to what seals them; None for who looks at nothing that is sealed.
    """

    path: Path
    keys: Keys | None = field(default=None, repr=False, compare=False)

    def vault(self) -> Vault | None:
        """What seals and opens; None where the folder holds plain text.

        Raises:
            DeploymentError: FK790, FK791, FK793.
        """
        if self.keys is not None:
            return self.keys.vault()
        if self.vault_file.exists():
            raise DeploymentError(f"{self.path} is encrypted, and no key was named", code="FK790")
        return None

    @property
    def vault_file(self) -> Path:  # noqa: D102
        return self.path / "vault.json"

    @property
    def site_yaml(self) -> Path:  # noqa: D102
        return self.path / "site.yaml"

    @property
    def enrolment_file(self) -> Path:  # noqa: D102
        return self.path / "enrolment.json"

    @property
    def ca(self) -> Path:  # noqa: D102
        return self.path / "ca.crt"

    @property
    def node_key(self) -> Path:  # noqa: D102
        return self.path / "node.key"

    @property
    def signing_key(self) -> Path:  # noqa: D102
        return self.path / "signing.key"

    @property
    def keyring_file(self) -> Path:  # noqa: D102
        return self.path / "keyring.jsonl"

    @property
    def ledgers(self) -> Path:  # noqa: D102
        return self.path / "ledgers"

    @property
    def rounds_file(self) -> Path:  # noqa: D102
        return self.path / "rounds.json"

    @property
    def plans_file(self) -> Path:  # noqa: D102
        return self.path / "plans.json"

    @property
    def asked_file(self) -> Path:  # noqa: D102
        return self.path / "asked.json"

    @property
    def approvals_file(self) -> Path:  # noqa: D102
        return self.path / "approvals.jsonl"

    @property
    def studies(self) -> Path:  # noqa: D102
        return self.path / "studies"

    @property
    def usage(self) -> Path:  # noqa: D102
        return self.path / "usage.jsonl"

    @property
    def withdrawals(self) -> Path:  # noqa: D102
        return self.path / "withdrawals.jsonl"

    @property
    def rectified(self) -> Path:  # noqa: D102
        return self.path / "rectified.jsonl"

    @property
    def pseudonym_key(self) -> Path:  # noqa: D102
        return self.path / "pseudonym.key"

    @property
    def lineage(self) -> Path:  # noqa: D102
        return self.path / "lineage.sqlite"

    @property
    def audit(self) -> Path:  # noqa: D102
        return self.path / "audit.jsonl"

    @property
    def pid_file(self) -> Path:  # noqa: D102
        return self.path / "client.pid"

    @property
    def state_file(self) -> Path:  # noqa: D102
        return self.path / "state.json"

    @property
    def pause(self) -> PauseFile:
        """What pauses the site."""
        return PauseFile(self.path / "paused.json")

    @property
    def quarantine(self) -> QuarantineFile:
        """What quarantines the site."""
        return self.pause.quarantine

    @property
    def alerts(self) -> Path:  # noqa: D102
        return self.path / "alerts.sqlite"

    @property
    def evidence(self) -> Path:  # noqa: D102
        return self.path / "evidence"

    @property
    def console_users(self) -> Path:  # noqa: D102
        return self.path / "console_users.json"

    @property
    def console_wrong(self) -> Path:  # noqa: D102
        return self.path / "console_wrong.json"

    @property
    def log(self) -> Path:  # noqa: D102
        return self.path / "client.log"

    def ledger(self, dataset: str) -> Path:
        """The ledger of a data set, whose name a site's file has checked."""
        return self.ledgers / f"{dataset}.sqlite"

    def enrolment(self) -> Enrolment:
        """What was pinned.

        Raises:
            DeploymentError: FK741, the file is missing or broken; FK759, a newer fedkit has written the folder.
        """
        try:
            values = json.loads(self.enrolment_file.read_text(encoding="utf-8"))
            require_known(self.enrolment_file, values.get("format"), FORMAT, writer=values.get("fedkit"))
            found = Enrolment(**values)
            pinned = all(_FINGERPRINT.fullmatch(getattr(found, name)) for name in _PINS)
            good = (
                pinned
                and found.format == FORMAT
                and all(
                    isinstance(getattr(found, name), kind)
                    for name, kind in (
                        ("site", str),
                        ("host", str),
                        ("port", int),
                        ("grpc_port", int),
                        ("node_id", str),
                    )
                )
            )
        except (OSError, ValueError, TypeError, AttributeError):
            good = False
        if not good:
            from fedkit_client.retired import require_not_retired

            require_not_retired(self.path)
            raise self._broken(self.enrolment_file)
        return found

    def authority(self) -> bytes:
        """The CAs that are trusted now, PEM: the pinned one, and those that took its place.

        Raises:
            DeploymentError: FK741, it is missing or another one. FederationError: FK540 to FK544, so is a later one.
        """
        from fedkit_client.authorities import with_later
        from fedkit_client.trust import certificate_fingerprint

        try:
            pem = self.ca.read_bytes()
            same = certificate_fingerprint(pem) == self.enrolment().federation
        except (OSError, ValueError):
            same = False
        if not same:
            raise self._broken(self.ca)
        return with_later(self, pem)

    def keyring(self) -> Keyring:
        """The newest keyring that the site has accepted.

        Raises:
            DeploymentError: FK741, the file is missing.
            FederationError: FK540 to FK544, it was altered.
        """
        from fedkit.federation.keyring import open_keyring

        enrolment = self.enrolment()
        try:
            statements = self.keyring_file.read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError):
            raise self._broken(self.keyring_file) from None
        return open_keyring(statements, federation=enrolment.federation, root=enrolment.root)

    def require_closed(self) -> None:
        """Refuse a folder or keys that others on this machine can reach.

        Raises:
            DeploymentError: FK706, with the command that mends it; or a link where none may be.
        """
        from fedkit_client.unlinked import require_unlinked

        require_unlinked(self.path)
        require_private((self.path, self.node_key, self.signing_key, self.enrolment_file, self.ledgers, self.audit))
        require_private((self.withdrawals, self.rectified, self.pseudonym_key, self.lineage, self.studies))
        require_private((self.vault_file,))

    def _broken(self, path: Path) -> DeploymentError:
        return DeploymentError(
            f"{path} is missing or is not what `fedkit client join` wrote, so {self.path} is no site's folder",
            code="FK741",
            remedy="name the site.yaml in the folder that `join` made, restore it from its backup, or join again",
        )
