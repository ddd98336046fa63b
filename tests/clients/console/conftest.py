"""A console in this process, whose clock a test owns, and a browser's half of the conversation."""

from __future__ import annotations

import html
import json
import os
import re
import subprocess
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pyotp
import pytest
from fedkit_client.console.app import console_app, desk_of
from fedkit_client.console.site import Site
from fedkit_client.start import open_site

from fedkit.web.users import Users
from tests.clients.conftest import FEDKIT, NO_PROXY
from tests.web.hashes import cheap_hashes

with warnings.catch_warnings():
    # It would rather have another client.
    warnings.simplefilter("ignore")
    from starlette.testclient import TestClient

__all__ = ["cheap_hashes"]
PASSWORD = "correct horse battery"
HOST = "127.0.0.1:8000"
TOKEN = re.compile(r'name="token" value="([^"]+)"')


@dataclass
class Desk:
    """A site's console and a browser before it.

    Attributes:
        now: what the console's clock says.
    """

    made: Any
    secret: str
    now: float = field(default_factory=lambda: float(int(time.time()) // 30 * 30 - 900))
    desk: Any = field(init=False)
    site: Site = field(init=False)
    browser: TestClient = field(init=False)

    def __post_init__(self):
        self.desk = desk_of(open_site(self.made.folder.site_yaml).folder, "north", HOST, lambda: self.now)
        self.site = Site(self.made.folder.site_yaml, self.made.folder, pause_seconds=1.0)
        self.browser = self.another()

    def another(self) -> TestClient:
        """A browser that knows nothing."""
        return TestClient(console_app(self.desk, self.site), base_url=f"http://{HOST}", follow_redirects=False)

    def code(self) -> str:
        """What the authenticator shows; the next one, whenever it is asked."""
        self.now += 30
        return pyotp.TOTP(self.secret).at(int(self.now))

    def login(self, browser: TestClient | None = None, **changes: str) -> Any:
        browser = browser or self.browser
        token = TOKEN.search(browser.get("/login").text)[1]
        form = {"token": token, "name": "ana", "password": PASSWORD, "code": changes.pop("code", "") or self.code()}
        return browser.post("/login", data=form | changes)

    def get(self, path: str, status: int = 200) -> str:
        found = self.browser.get(path)
        assert found.status_code == status, (found.status_code, found.text)
        return html.unescape(found.text)

    def post(self, path: str, page: str = "/", **form: str) -> Any:
        """Send a form as the page that holds it would."""
        return self.browser.post(path, data={"token": TOKEN.search(self.browser.get(page).text)[1]} | form)

    def lines(self, *kinds: str) -> list[dict[str, Any]]:
        """Those of the audit log."""
        path = self.made.folder.audit
        lines = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [line for line in lines if not kinds or line["kind"] in kinds]


@pytest.fixture
def serving() -> Iterator[Callable[..., tuple[str, Any]]]:
    """Makes a process of `fedkit client console`, and tells its address."""
    made: list[Any] = []

    def serve(folder: Any) -> tuple[str, Any]:
        line = [*FEDKIT, "client", "console", str(folder.site_yaml), "--json"]
        process = subprocess.Popen(
            line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **NO_PROXY}
        )
        made.append(process)
        return json.loads(process.stdout.readline())["url"], process

    yield serve
    for process in made:
        process.kill()
        process.wait(20)
        process.stdout.close()
        process.stderr.close()


@pytest.fixture
def desk(bench, cheap_hashes) -> Callable[..., Desk]:
    def make(**changes: Any) -> Desk:
        made = bench(**changes)
        secret = Users(made.folder.console_users).add("ana", PASSWORD, time.time())
        return Desk(made, secret)

    return make
