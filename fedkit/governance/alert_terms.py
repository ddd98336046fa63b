"""The ``alerts`` of a site's file: where a site tells what somebody should look at, and from when on."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from fedkit.config.wording import shown, suggestion

if TYPE_CHECKING:
    from fedkit.governance.reading import Reader

SEVERITIES = ("info", "warning", "critical")
FACILITIES = {
    "user": 1, "daemon": 3, "auth": 4, "authpriv": 10, **{f"local{number}": 16 + number for number in range(8)},
}  # fmt: skip
STREAMS = ("udp", "tcp", "tls", "unix")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")
_KEYS = ("webhook", "syslog", "prometheus", "budget", "silent", "certificate", "failures", "repeat")
_WEBHOOK = ("url", "secret_file", "secret_env", "ca_file", "least")
_SYSLOG = ("address", "ca_file", "facility", "least")


@dataclass(frozen=True)
class Webhook:
    """A receiver over HTTPS.

    Attributes:
        secret_file, secret_env: where the secret of the signature lies; one of them.
        ca_file: CAs that are trusted in the place of the system's.
        least: the least severity that is told.
    """

    url: str
    secret_file: Path | None
    secret_env: str | None
    ca_file: Path | None = None
    least: str = "warning"


@dataclass(frozen=True)
class Syslog:
    """A receiver by RFC 5424.

    Attributes:
        kind: one of `STREAMS`; ``place`` is a path for ``unix`` and a host otherwise.
        facility: its number.
    """

    kind: str
    place: str
    port: int = 0
    ca_file: Path | None = None
    facility: int = FACILITIES["local0"]
    least: str = "info"


@dataclass(frozen=True)
class AlertTerms:
    """Channels, none of which need be there, and from when on something is told.

    Attributes:
        prometheus: a loopback address and port.
        budget: ascending shares of a budget.
        silent: seconds without a word of the coordinator's.
        certificate: seconds before an end.
        failures: in an hour.
        repeat: seconds after which what still stands is told again.
    """

    webhook: Webhook | None = None
    syslog: Syslog | None = None
    prometheus: tuple[str, int] | None = None
    budget: tuple[float, ...] = (0.5, 0.8, 0.95)
    silent: float = 15 * 60.0
    certificate: float = 30 * 86_400.0
    failures: int = 3
    repeat: float = 24 * 3600.0
    channels: Mapping[str, str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Name the channels that queue."""
        told = {"webhook": self.webhook, "syslog": self.syslog}
        channels = {name: channel.least for name, channel in told.items() if channel is not None}
        object.__setattr__(self, "channels", channels)


def alerts_of(found: Reader, value: Any) -> AlertTerms:
    """What ``alerts`` says, every problem noted; nothing is opened: a channel that fails keeps no site from running."""
    raw = found.mapping(value, "alerts", _KEYS)
    budget = raw.get("budget", [0.5, 0.8, 0.95])
    good = isinstance(budget, list) and 0 < len(budget) <= 10
    if not good or not all(type(each) in (int, float) and 0 < each <= 1 for each in budget):
        found.add(
            "alerts.budget", f"is {shown(budget)}; shares above 0 and up to 1 are needed, such as [0.5, 0.8, 0.95]"
        )
        budget = [0.5]
    silent = found.number(raw.get("silent", 15), "alerts.silent", 1, 10_080, "15")
    certificate = found.number(raw.get("certificate", 30), "alerts.certificate", 1, 365, "30")
    repeat = found.number(raw.get("repeat", 24), "alerts.repeat", 0.1, 720, "24")
    failures = found.whole(raw.get("failures", 3), "alerts.failures", 1, 1000, "3")
    return AlertTerms(
        _webhook(found, raw["webhook"]) if raw.get("webhook") is not None else None,
        _syslog(found, raw["syslog"]) if raw.get("syslog") is not None else None,
        _loopback(found, raw["prometheus"]) if raw.get("prometheus") is not None else None,
        tuple(sorted({float(each) for each in budget})),
        silent * 60, certificate * 86_400, failures, repeat * 3600,
    )  # fmt: skip


def _webhook(found: Reader, value: Any) -> Webhook:
    key = "alerts.webhook"
    raw = found.mapping(value, key, _WEBHOOK)
    url = raw.get("url")
    try:
        text = url if isinstance(url, str) and url.isprintable() else ""
        parts = urlsplit(text)
        good = parts.scheme == "https" and bool(parts.hostname) and parts.port != 0
        alone = not (parts.username or parts.password)
    except ValueError:
        good, alone = False, True
    if not good:
        found.add(
            f"{key}.url", f"is {shown(url)}; an https:// address is needed, such as https://alerts.example/fedkit"
        )
    elif not alone:
        found.add(f"{key}.url", "holds a user or password; the body is signed by the secret instead")
    file, variable = raw.get("secret_file"), raw.get("secret_env")
    if (file is None) == (variable is None):
        found.add(
            key, "needs either secret_file or secret_env: the body is signed, so that a receiver knows whose it is"
        )
    if variable is not None and not (isinstance(variable, str) and _VARIABLE.fullmatch(variable)):
        found.add(f"{key}.secret_env", f"is {shown(variable)}; the name of an environment variable is needed")
    return Webhook(
        str(url), _path(found, file, f"{key}.secret_file"), variable if isinstance(variable, str) else None,
        _path(found, raw.get("ca_file"), f"{key}.ca_file"),
        found.choice(raw.get("least", "warning"), f"{key}.least", SEVERITIES),
    )  # fmt: skip


def _syslog(found: Reader, value: Any) -> Syslog:
    key = "alerts.syslog"
    raw = found.mapping(value, key, _SYSLOG)
    kind, place, port = _address(found, raw.get("address"), f"{key}.address")
    facility = raw.get("facility", "local0")
    if facility not in FACILITIES:
        found.add(f"{key}.facility", f"is {shown(facility)}; {suggestion(str(facility), FACILITIES)}")
    ca_file = _path(found, raw.get("ca_file"), f"{key}.ca_file")
    if ca_file is not None and kind != "tls":
        found.add(f"{key}.ca_file", f"is set, but {kind} has no certificate; use tls://HOST:PORT")
    least = found.choice(raw.get("least", "info"), f"{key}.least", SEVERITIES)
    return Syslog(kind, place, port, ca_file, FACILITIES.get(str(facility), 16), least)


def _address(found: Reader, value: Any, key: str) -> tuple[str, str, int]:
    try:
        parts = urlsplit(value if isinstance(value, str) else "")
        if parts.scheme == "unix" and not parts.netloc and parts.path.startswith("/"):
            return "unix", parts.path, 0
        if parts.scheme in STREAMS[:3] and parts.hostname and parts.port and not parts.path:
            return parts.scheme, parts.hostname, parts.port
    except ValueError:
        pass
    found.add(key, f"is {shown(value)}; write udp://, tcp:// or tls:// with HOST:PORT, or unix:///dev/log")
    return "udp", "127.0.0.1", 514


def _loopback(found: Reader, value: Any) -> tuple[str, int]:
    host, _, port = value.rpartition(":") if isinstance(value, str) else ("", "", "")
    try:
        address = ipaddress.ip_address(host.strip("[]"))
        if address.is_loopback and port.isdecimal() and 0 < int(port) < 65536:
            return str(address), int(port)
    except ValueError:
        pass
    found.add(
        "alerts.prometheus", f"is {shown(value)}; an address of this machine alone is needed, such as 127.0.0.1:9464"
    )
    return "127.0.0.1", 9464


def _path(found: Reader, value: Any, key: str) -> Path | None:
    if value is None:
        return None
    if not isinstance(value, str) or not value.strip():
        found.add(key, f"is {shown(value)}; the name of a file is needed")
        return None
    return Path(found.base, Path(value).expanduser())
