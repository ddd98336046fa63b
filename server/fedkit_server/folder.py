"""The coordinator's folder: what lies where, who may read it, and how it is made."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from fedkit.config.locate import NAME
from fedkit.errors import DeploymentError
from fedkit.federation import statements
from fedkit.federation.keyring import Keyring, open_keyring
from fedkit.governance.retention import MOST_DAYS
from fedkit.governance.site_file import read_allow_file
from fedkit.governance.terms import Allowed
from fedkit.storage.formats import require_known
from fedkit.storage.keys import SigningKey, create_signing_key, fingerprint, load_signing_key
from fedkit.storage.private import make_folder, replace, require_private, write_new
from fedkit_server import pki

FORMAT = 1
"""Of the whole folder: it goes up with the form of any file in it."""

AUDIT = "audit.jsonl"


@dataclass(frozen=True)
class Settings:
    """``server.json``: what was chosen when the folder was made.

    Attributes:
        hosts: names and addresses under which sites reach the coordinator, the first one by preference.
        port: of the fleet interface and the API.
        grpc_port: of enrolment.
        federation: fingerprint of the CA.
        root: fingerprint of the first admin's key.
        bind: address to listen on.
        retention_days: for how long updates and journals of a run are kept once it has ended; None for ever, unless a
            study's agreement says less.
        log_days: for how long lines of ``server.log`` are kept; None for ever.
    """

    format: int
    name: str
    hosts: tuple[str, ...]
    port: int
    grpc_port: int
    federation: str
    root: str
    bind: str = "0.0.0.0"  # noqa: S104  # sites come from outside, over TLS
    retention_days: int | None = None
    log_days: int | None = None

    @property
    def address(self) -> str:
        """host:port for users and sites."""
        return joined(self.hosts[0], self.port)


def require_days(*bounds: object) -> None:
    """Refuse a bound that cannot be.

    Raises:
        ValueError: one is no whole number of days from 0 to 36,500, and not None.
    """
    for days in bounds:
        if days is not None and (type(days) is not int or not 0 <= days <= MOST_DAYS):
            raise ValueError(f"a bound is {days!r} days")


@dataclass(frozen=True)
class ServerFolder:
    """Where things lie; see docs/deployment.md."""

    path: Path

    @property
    def settings_file(self) -> Path:  # noqa: D102
        return self.path / "server.json"

    @property
    def ca(self) -> Path:  # noqa: D102
        return self.path / "ca" / "ca.crt"

    @property
    def ca_key(self) -> Path:  # noqa: D102
        return self.path / "ca" / "ca.key"

    @property
    def certificate(self) -> Path:  # noqa: D102
        return self.path / "tls" / "server.crt"

    @property
    def certificate_key(self) -> Path:  # noqa: D102
        return self.path / "tls" / "server.key"

    @property
    def coordinator_key(self) -> Path:  # noqa: D102
        return self.path / "keys" / "coordinator.key"

    @property
    def next_coordinator_key(self) -> Path:  # noqa: D102
        return self.path / "keys" / "coordinator.key.new"

    @property
    def keyring_file(self) -> Path:  # noqa: D102
        return self.path / "keyring.jsonl"

    @property
    def database(self) -> Path:  # noqa: D102
        return self.path / "fedkit.db"

    @property
    def link(self) -> Path:  # noqa: D102
        return self.path / "link.db"

    @property
    def runs(self) -> Path:  # noqa: D102
        return self.path / "runs"

    @property
    def allow_file(self) -> Path:  # noqa: D102
        return self.path / "allow.yaml"

    @property
    def audit(self) -> Path:  # noqa: D102
        return self.path / AUDIT

    @property
    def pid_file(self) -> Path:  # noqa: D102
        return self.path / "server.pid"

    @property
    def log(self) -> Path:  # noqa: D102
        return self.path / "server.log"

    def settings(self) -> Settings:
        """Read ``server.json``.

        Raises:
            DeploymentError: FK705, it is missing or broken; FK759, a newer fedkit has written the folder.
        """
        try:
            values = json.loads(self.settings_file.read_text(encoding="utf-8"))
            require_known(self.settings_file, values.get("format"), FORMAT, writer=values.get("fedkit"))
            settings = Settings(**{**values, "hosts": tuple(values["hosts"])})
            require_days(settings.retention_days, settings.log_days)
            if settings.format != FORMAT:
                raise ValueError(f"format {settings.format!r}")
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            raise DeploymentError(
                f"{self.settings_file} is missing or broken, so {self.path} is no coordinator's folder",
                code="FK705",
                remedy="name the folder that `fedkit server init` made, or restore it from its backup",
            ) from None
        return settings

    def models(self) -> dict[str, Allowed]:
        """The models that ``allow.yaml`` lists beside fedkit's own; none where there is no such file.

        Raises:
            ConfigError: FK120, every problem of the file at once.
        """
        return read_allow_file(self.allow_file) if self.allow_file.exists() else {}

    def read(self, path: Path) -> bytes:
        """One of the folder's files.

        Raises:
            DeploymentError: FK705, it cannot be read.
        """
        try:
            return path.read_bytes()
        except OSError as error:
            raise DeploymentError(
                f"{path} cannot be read: {error.strerror}", code="FK705", remedy="restore it from its backup"
            ) from None

    def ca_pair(self) -> pki.Pair:
        """The authority's certificate and key."""
        return pki.Pair(self.read(self.ca), self.read(self.ca_key))

    def key(self) -> SigningKey:
        """The coordinator's key."""
        return load_signing_key(self.coordinator_key)

    def keyring(self) -> Keyring:
        """The keyring, verified.

        Raises:
            FedkitError: it was altered, or does not belong to this folder's CA and key.
        """
        settings = self.settings()
        lines = self.read(self.keyring_file).decode("utf-8", errors="replace").splitlines()
        own = fingerprint(self.key().public)
        return open_keyring(lines, federation=settings.federation, root=settings.root, coordinator=own)

    def write_keyring(self, keyring: Keyring) -> None:
        """Replace the keyring, durably."""
        replace(self.keyring_file, "".join(f"{text}\n" for text in keyring.statements).encode())


def open_folder(path: Path) -> ServerFolder:
    """An existing folder.

    Raises:
        DeploymentError: FK705, it is none; FK706, others may look into it.
    """
    folder = ServerFolder(path)
    folder.settings()
    files = (folder.ca_key, folder.certificate_key, folder.coordinator_key, folder.database, folder.keyring_file)
    require_private([path, *files, folder.settings_file, folder.audit])
    return folder


def create_folder(
    path: Path, *, name: str, hosts: Sequence[str], port: int, grpc_port: int, admin: str, root: SigningKey, now: float
) -> ServerFolder:
    """Make a coordinator's folder: CA, certificate, coordinator's key, keyring.

    Args:
        admin: the first admin's name.
        root: their key, which only signs here and is not kept.

    Raises:
        DeploymentError: FK700, FK704, FK707.
    """
    check_choices(name, hosts, port, grpc_port, admin)
    make_folder(path)
    folder = ServerFolder(path)
    for inner in ("ca", "tls", "keys", "runs", "objects"):
        make_folder(path / inner)
    ca = pki.make_ca(name)
    write_new(folder.ca, ca.certificate)
    write_new(folder.ca_key, ca.key)
    write_certificate(folder, pki.make_server(ca, hosts))
    key = create_signing_key(folder.coordinator_key)
    federation = pki.certificate_fingerprint(ca.certificate)
    folder.write_keyring(statements.start(federation, admin, root, key.public, now))
    settings = Settings(FORMAT, name, tuple(hosts), port, grpc_port, federation, root.fingerprint)
    # Last, so that a folder which holds it is whole.
    write_settings(folder, settings)
    return folder


def write_certificate(folder: ServerFolder, pair: pki.Pair) -> None:
    """Replace the certificate and its key."""
    replace(folder.certificate_key, pair.key)
    replace(folder.certificate, pair.certificate)


def write_settings(folder: ServerFolder, settings: Settings) -> None:
    """Replace ``server.json``."""
    replace(folder.settings_file, (json.dumps(asdict(settings), indent=2) + "\n").encode())


def check_choices(name: str, hosts: Sequence[str], port: int, grpc_port: int, admin: str) -> None:
    """Refuse what cannot be, before anything is made.

    Raises:
        DeploymentError: FK707.
    """
    for what, value in (("--name", name), ("--admin", admin)):
        if not NAME.fullmatch(value) or len(value) > 64 or value == "coordinator":
            raise DeploymentError(
                f"{what} {value!r} is not 1 to 64 letters, digits, _ and -, or is 'coordinator'",
                code="FK707",
                remedy="choose a name such as heart or anna",
            )
    for host in hosts:
        pki.require_host(host)
    for port_name, number in (("--port", port), ("--grpc-port", grpc_port)):
        if not 1 <= number <= 65535:
            raise DeploymentError(
                f"{port_name} {number} is not between 1 and 65535", code="FK707", remedy="name a port above 1023"
            )
    if port == grpc_port:
        raise DeploymentError(
            f"--port and --grpc-port are both {port}", code="FK707", remedy="name two different ports"
        )


def joined(host: str, port: int) -> str:
    """host:port, an IPv6 address in brackets.

    >>> joined("::1", 9443)
    '[::1]:9443'
    """
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
