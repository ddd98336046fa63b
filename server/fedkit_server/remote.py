"""The coordinator's API as a user's commands call it: TLS that hangs on the profile's CA and nothing else."""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fedkit import __version__
from fedkit.errors import DeploymentError
from fedkit.federation.authority_file import PATH as AUTHORITIES
from fedkit.federation.keyring import Keyring, open_keyring
from fedkit_server.archive import MOST_BYTES
from fedkit_server.profile import Profile

PREFIX = "/fedkit/v1"
_TIMEOUT = 30.0
_LONGEST, _MOST_ANSWER = 120.0, 64 * 2**20
"""Seconds and bytes of one answer that is no archive."""


@dataclass(frozen=True)
class Remote:
    """The coordinator of a profile."""

    profile: Profile

    def get(self, path: str, **query: Any) -> dict[str, Any]:
        """Ask for something.

        Raises:
            DeploymentError: FK712, nobody answers; whatever the coordinator refuses, with its code.
        """
        return self._call("GET", path, query, None)

    def post(self, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Ask for something to be done.

        Raises:
            DeploymentError: likewise.
        """
        return self._call("POST", path, {}, dict(body or {}))

    def keyring(self) -> Keyring:
        """The keyring, verified against the profile's root.

        Raises:
            FedkitError: it cannot be had, or is not the federation's.
        """
        statements = self.get("/keyring").get("keyring")
        texts = [str(text) for text in statements] if isinstance(statements, list) else []
        return open_keyring(texts, federation=self.profile.federation, root=self.profile.root)

    def authorities(self) -> list[str]:
        """Statements of CAs after the first; nothing of them is verified.

        Raises:
            DeploymentError: likewise.
        """
        found = self.get(AUTHORITIES.removeprefix(PREFIX)).get("authorities")
        return [str(text) for text in found] if isinstance(found, list) else []

    def download(self, path: str, target: Path) -> None:
        """Stream an answer into a file.

        Raises:
            DeploymentError: likewise.
        """
        import httpx

        with self._client() as client:
            try:
                with client.stream("GET", PREFIX + path) as response, target.open("wb") as file:
                    if response.status_code != 200:
                        raise _refused(response, _content(response))
                    for part in response.iter_bytes():
                        file.write(part)
                        if file.tell() > MOST_BYTES:
                            raise _strange(response, f"more than {MOST_BYTES:,} bytes of an archive")
            except httpx.HTTPError as error:
                raise self._unreachable(error) from None

    def _call(self, method: str, path: str, query: Mapping[str, Any], body: Any) -> dict[str, Any]:
        import httpx

        with self._client() as client:
            try:
                with client.stream(method, PREFIX + path, params=dict(query), json=body) as response:
                    content = _content(response)
            except httpx.HTTPError as error:
                raise self._unreachable(error) from None
        if response.status_code != 200:
            raise _refused(response, content)
        try:
            found = json.loads(content)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, dict):
            raise _strange(response)
        return found

    def _client(self) -> Any:
        import httpx

        try:
            context = ssl.create_default_context(cadata=self.profile.trusted())
        except (OSError, ValueError):
            raise DeploymentError(
                f"{self.profile.ca} holds no certificate", code="FK711", remedy="ask an admin for ca.crt"
            ) from None
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        return httpx.Client(
            base_url=f"https://{self.profile.address}",
            verify=context,
            timeout=_TIMEOUT,
            headers={"authorization": f"Bearer {self.profile.token}", "user-agent": f"fedkit/{__version__}"},
        )

    def _unreachable(self, error: Exception) -> DeploymentError:
        text = str(error) or type(error).__name__
        if "CERTIFICATE_VERIFY_FAILED" in text:
            remedy = (
                "see that the profile's address is one of the coordinator's --host, that its certificate has not ended"
                " (`fedkit server rotate DIR` renews it) and that nobody stands between; if its CA was replaced,"
                " `fedkit server trust --file FILE`"
            )
        else:
            remedy = "see that it runs (`fedkit server start DIR`), and HTTPS_PROXY and NO_PROXY if there is a proxy"
        return DeploymentError(
            f"the coordinator at {self.profile.address} cannot be reached: {text}", code="FK712", remedy=remedy
        )


def segment(name: str) -> str:
    """A name as one part of a path."""
    return quote(name, safe="")


def _content(response: Any) -> bytes:
    """A whole answer, which neither fills the memory nor has no end.

    Raises:
        DeploymentError: FK712.
    """
    content, until = bytearray(), time.monotonic() + _LONGEST
    for part in response.iter_bytes():
        content += part
        if len(content) > _MOST_ANSWER:
            raise _strange(response, f"more than {_MOST_ANSWER:,} bytes")
        if time.monotonic() > until:
            raise _strange(response, f"an answer that had no end within {_LONGEST:g} s")
    return bytes(content)


def _refused(response: Any, content: bytes | None = None) -> DeploymentError:
    try:
        error = json.loads(response.content if content is None else content)["error"]
        return DeploymentError(str(error["message"]), code=str(error["code"]), remedy=str(error["remedy"]))
    except (ValueError, KeyError, TypeError, RecursionError):
        return _strange(response)


def _strange(response: Any, what: str = "no JSON of fedkit's") -> DeploymentError:
    return DeploymentError(
        f"{response.request.url.host} answered with status {response.status_code} and {what}",
        code="FK712",
        remedy="see that the address is the coordinator's and that no proxy answers in its place",
    )
