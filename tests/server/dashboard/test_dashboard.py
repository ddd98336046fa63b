"""The dashboard over the coordinator's real API: what each role sees and does, and what every answer carries."""

from __future__ import annotations

import html
import json
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import pyotp
import pytest
import uvicorn
from fedkit_server.archive import packed
from fedkit_server.dashboard.app import dashboard_app, desk_of, users_of
from fedkit_server.dashboard.pages import Federation
from fedkit_server.dashboard.results import Results
from fedkit_server.remote import _refused
from starlette.routing import Route

from fedkit.web.app import session_cookie
from fedkit.web.sessions import IDLE
from tests.reporting.conftest import Fabricated
from tests.reporting.conftest import write as fabricate
from tests.server.builders import new_site, offer_text
from tests.server.test_api import Api
from tests.web.hashes import cheap_hashes

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from starlette.testclient import TestClient

__all__ = ["cheap_hashes"]
HOST, PASSWORD = "127.0.0.1:8000", "correct horse battery"
TOKEN = re.compile(r'name="token" value="([^"]+)"')
RUN = "20260101-120000-heart_disease-0a1b2c"
EVENTS = [
    {"n": 1, "at": 100.0, "kind": "asked", "round": 3, "site": "north", "purpose": "train"},
    {"n": 2, "at": 101.0, "kind": "received", "round": 3, "site": "south", "purpose": "train", "seconds": 1.0},
    {"n": 3, "at": 102.0, "kind": "deferred", "round": 3, "site": "va", "detail": "<i>FK580</i>", "purpose": "train"},
]


class Asked:
    """A remote whose line is a call."""

    def __init__(self, api, user):
        self.api, self.user, self.calls = api, user, []

    def get(self, path, **query):
        return self.ask("GET", path, params=query)

    def post(self, path, body=None):
        return self.ask("POST", path, json=body or {})

    def download(self, path, target):
        self.calls.append(("GET", path))
        target.write_bytes(b"".join(packed(self.folder)))

    def ask(self, method, path, **more):
        self.calls.append((method, path))
        response = self.api.ask(method, path, self.user, **more)
        if response.status_code != 200:
            raise _refused(response)
        return response.json()


class Lead:
    """Who sits before the dashboard."""

    def __init__(self, api, profile, user="anna"):
        self.now = 1_800_000_000.0
        self.secret = users_of(profile).add("anna", PASSWORD, self.now)
        self.remote = Asked(api, user)
        self.federation = Federation(self.remote, Results(self.remote))
        self.desk = desk_of(profile, "fedkit dashboard of heart", HOST, lambda: self.now)
        self.app = dashboard_app(self.desk, self.federation)
        self.browser = TestClient(self.app, base_url=f"http://{HOST}", follow_redirects=False)

    def login(self):
        self.now += 30
        token = TOKEN.search(self.browser.get("/login").text)[1]
        code = pyotp.TOTP(self.secret).at(int(self.now))
        form = {"token": token, "name": "anna", "password": PASSWORD, "code": code}
        assert self.browser.post("/login", data=form).status_code == 303
        return self

    def get(self, path, status=200):
        found = self.browser.get(path)
        assert found.status_code == status, found.text
        return html.unescape(found.text)

    def post(self, path, page):
        return self.browser.post(path, data={"token": TOKEN.search(self.browser.get(page).text)[1]})


@pytest.fixture
def api(coordinator):
    made = Api(coordinator)
    keys, now = new_site(), coordinator.clock()
    made.state.store.add_run(RUN, "a job", "heart_disease", "anna", now)
    made.runs.log[RUN] = EVENTS
    made.site = keys
    return made


@pytest.fixture
def profile(tmp_path):
    (tmp_path / "profile").mkdir(mode=0o700)
    return tmp_path / "profile"


@pytest.fixture
def lead(api, profile, cheap_hashes):
    return Lead(api, profile).login()


def test_the_federation_its_runs_and_a_round_with_its_stragglers_are_shown(lead):
    assert "anna, admin" in lead.get("/") and RUN in lead.get("/") and RUN in lead.get("/runs")
    page = lead.get(f"/runs/{RUN}")
    for site, state in (("north", "asked"), ("south", "answered"), ("va", "asked again later")):
        assert re.search(rf'<th scope="row">{site}</th>.*?{state}', page, re.DOTALL)
    # The straggler's seconds go on.
    assert f"{lead.now - 100.0:.1f}" in page
    assert "<i>" not in lead.browser.get(f"/runs/{RUN}").text


@pytest.mark.parametrize("role", ["viewer", "operator", "admin"])
def test_each_role_sees_what_it_may_and_does_no_more(api, profile, cheap_hashes, role):
    if role != "admin":
        api.add("otto", role)
    lead = Lead(api, profile, "anna" if role == "admin" else "otto").login()
    page = lead.get(f"/runs/{RUN}")
    assert f", {role}" in lead.get("/") and ("Stop the run" in page) is (role != "viewer")
    # A form that no page holds is refused by the coordinator.
    found = lead.post(f"/runs/{RUN}/stop", f"/runs/{RUN}")
    if role == "viewer":
        assert found.status_code == 409 and "FK721" in found.text and api.runs.asked == []
    else:
        assert found.status_code == 303 and ("stop", RUN) in api.runs.asked
        assert "is asked to stop" in lead.get(f"/runs/{RUN}")


def going_on(api, *lines, state="running"):
    """The run goes on, and its folder has these rounds."""
    api.runs.status = lambda run: {"run": run, "name": "x", "state": state, "outcome": None, "round": 2, "bytes": 7}
    folder = api.state.folder.runs / RUN
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def one_round(number, epsilon, site="north"):
    return {
        "round": number, "trained": [site], "failed": {}, "epsilon": {site: epsilon}, "sites": {site: {"auroc": 0.5}}
    }  # fmt: skip


def test_curves_are_drawn_and_told_in_a_table_and_a_hostile_name_is_text(lead, api):
    assert "No round has ended yet" in lead.get(f"/runs/{RUN}")
    evil = '"><script>alert(1)</script>'
    going_on(api, one_round(1, 0.5, evil), one_round(2, 1.25, evil))
    raw, page = lead.browser.get(f"/runs/{RUN}").text, lead.get(f"/runs/{RUN}")
    assert raw.count('<polyline class="s0"') >= 2 and "<script" not in raw and "style=" not in raw
    assert "Epsilon spent by this run, by site" in page and "AUROC, by site" in page
    assert re.search(r'<th scope="row">2</th><td>1.25</td>', page)
    assert all(path.startswith(("/status", "/runs")) for _, path in lead.remote.calls)


def test_a_coordinator_of_before_has_no_curves_and_the_page_is_shown(lead, monkeypatch):
    real = lead.remote.ask
    monkeypatch.setattr(
        lead.remote, "ask", lambda how, path, **more: real(how, path.replace("/curves", "/old"), **more)
    )
    assert "No round has ended yet" in lead.get(f"/runs/{RUN}")


def test_a_page_of_what_goes_on_refreshes_itself_until_that_is_stopped_for_the_session(lead, api):
    going_on(api, state="finished")
    assert "refresh" not in lead.browser.get(f"/runs/{RUN}").headers
    going_on(api)
    found = lead.browser.get(f"/runs/{RUN}")
    assert found.headers["refresh"] == f"20; url=/runs/{RUN}?by=itself" and "refreshes itself every 20 s" in found.text
    assert lead.browser.get("/").headers["refresh"] == "20; url=/?by=itself"
    for page in ("/sites", "/runs"):
        assert "refresh" not in lead.browser.get(page).headers
    assert lead.post(f"/runs/{RUN}/refresh", f"/runs/{RUN}").headers["location"] == f"/runs/{RUN}"
    for path in (f"/runs/{RUN}", f"/runs/{RUN}?by=itself", "/"):
        found = lead.browser.get(path)
        assert "refresh" not in found.headers and "does not change by itself" in found.text
        assert "Refresh by itself" in found.text
    assert lead.post("/refresh", "/").headers["location"] == "/"
    # What was done is not taken away while it is read.
    assert "refresh" not in lead.browser.get("/").headers and "refresh" in lead.browser.get("/").headers


def test_a_page_that_refreshes_itself_keeps_no_session_alive(lead, api):
    going_on(api)
    until = lead.now + IDLE
    while lead.now + 20 < until:
        lead.now += 20
        assert lead.browser.get(f"/runs/{RUN}?by=itself").status_code == 200
    lead.now = until
    found = lead.browser.get(f"/runs/{RUN}?by=itself")
    assert found.status_code == 401 and "refresh" not in found.headers


def test_a_run_with_ten_thousand_events_and_a_thousand_rounds_is_shown_within_a_second(lead, api):
    sites = [f"site{n}" for n in range(20)]
    going_on(api, *({**one_round(n, n / 100), "epsilon": dict.fromkeys(sites, n / 100)} for n in range(1000)))
    api.runs.log[RUN] = [
        {"n": n, "at": 100.0 + n, "kind": "asked", "round": n // 20, "site": sites[n % 20], "purpose": "train"}
        for n in range(10_000)
    ]
    for path in (f"/runs/{RUN}", "/"):
        lead.get(path)
        began = time.perf_counter()
        lead.get(path)
        assert time.perf_counter() - began < 1.0, path
    page = lead.get(f"/runs/{RUN}")
    assert "9940 before them" in page and "smallest" in page and len(page) < 200_000


def test_a_report_is_made_here_of_what_was_fetched_and_runs_nothing(lead, tmp_path):
    lead.remote.folder = fabricate(tmp_path / "runs", Fabricated())
    assert "FK722" in lead.get(f"/runs/{RUN}/report", 409)
    assert lead.post(f"/runs/{RUN}/fetch", f"/runs/{RUN}").status_code == 303
    assert "The report as of" in lead.get(f"/runs/{RUN}")
    found = lead.browser.get(f"/runs/{RUN}/report")
    assert "<svg" in found.text and found.status_code == 200
    policy = found.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "script-src" not in policy and "form-action 'none'" in policy
    assert lead.remote.calls.count(("GET", f"/runs/{RUN}/archive")) == 1


def test_a_folder_of_which_nothing_can_be_told_yet_is_told_so(lead, tmp_path):
    lead.remote.folder = tmp_path / "run"
    lead.remote.folder.mkdir()
    found = lead.post(f"/runs/{RUN}/fetch", f"/runs/{RUN}")
    assert found.status_code == 409 and "FK61" in found.text


@pytest.mark.parametrize("run", ["none", "..%2f..%2fstatus", "%2e%2e"])
def test_a_run_that_is_not_there_is_told_so_and_leads_nowhere_else(lead, run):
    found = lead.browser.get(f"/runs/{run}")
    assert found.status_code in (404, 409) or found.headers.get("location") == "/"
    assert all(path.startswith(("/status", "/runs")) for _, path in lead.remote.calls)


def test_whoever_is_not_logged_in_asks_the_coordinator_for_nothing(api, profile, cheap_hashes):
    lead = Lead(api, profile)
    for route in (each for each in lead.app.app.routes if isinstance(each, Route)):
        if route.path not in ("/login", "/style.css", "/icon.svg"):
            for method in route.methods:
                form = {"data": {"token": "x"}} if method == "POST" else {}
                found = lead.browser.request(method, route.path.replace("{run}", RUN), **form)
                assert found.status_code in (303, 401) and RUN not in found.text
    assert lead.remote.calls == []


def test_a_form_of_no_session_and_an_idle_session_do_nothing(lead):
    assert lead.browser.post(f"/runs/{RUN}/stop", data={"token": "x"}).status_code == 403
    token = TOKEN.search(lead.get("/"))[1]
    lead.now += IDLE
    assert lead.browser.post(f"/runs/{RUN}/stop", data={"token": token}).status_code == 401
    assert lead.browser.get("/", headers={"host": "evil.example"}).status_code == 421
    assert ("stop", RUN) not in lead.federation.remote.api.runs.asked


def test_every_page_has_the_headers_and_nothing_from_elsewhere(lead):
    for path in ("/", "/sites", "/runs", f"/runs/{RUN}", "/runs/none", "/nothing"):
        found = lead.browser.get(path)
        assert found.headers["cache-control"] == "no-store" and "unsafe" not in found.headers["content-security-policy"]
        urls = re.findall(r'(?:src|href|action)="([^"]*)"', found.text)
        assert "<script" not in found.text and all(url.startswith(("/", "#")) for url in urls)
    assert session_cookie(lead.desk) in lead.browser.cookies


def test_a_site_is_shown_with_what_it_discloses(lead, api):
    keys, now = api.site, api.state.clock()
    enrol(api, keys, now)
    page = lead.get("/sites")
    assert "north" in page and "303 records" in page and "3 at delta 1e-05" in page


def enrol(api, keys, now):
    api.state.store.put_site("north", 7, keys.node_bytes, keys.signing.public, now)
    api.state.store.put_offer("north", offer_text("north", keys.signing, now), now)


def test_users_are_made_for_a_profile_alone_and_a_dashboard_needs_one(tmp_path):
    line = [sys.executable, "-m", "fedkit", "server", "dashboard-user", "add", "ana", "--profile", str(tmp_path / "no")]
    done = subprocess.run(line, input=f"{PASSWORD}\n", capture_output=True, text=True)
    assert done.returncode == 2 and "FK711" in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium on this machine")
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_on_any_page_of_the_dashboard(api, profile, tmp_path, cheap_hashes, scheme):
    play = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed").Axe()
    lead, found = Lead(api, profile), {}
    enrol(api, api.site, api.state.clock())
    lead.remote.folder = fabricate(tmp_path / "runs", Fabricated())
    lead.federation.results.fetch(RUN)
    going_on(api, one_round(1, 0.5), one_round(2, 1.25))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        host = f"127.0.0.1:{listening.getsockname()[1]}"
        desk = desk_of(profile, "fedkit dashboard of heart", host, time.time)
        config = uvicorn.Config(dashboard_app(desk, lead.federation), log_config=None, lifespan="off", ws="none")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            with play.sync_playwright() as started:
                where = {"executable_path": shutil.which("chromium"), "args": ["--no-sandbox", "--disable-gpu"]}
                page = started.chromium.launch(**where).new_page(color_scheme=scheme)
                page.goto(f"http://{host}/login")
                for label, text in (("Name", "anna"), ("Password", PASSWORD), ("Code", pyotp.TOTP(lead.secret).now())):
                    page.get_by_label(label).fill(text)
                page.get_by_role("button", name="Log in").click()
                page.get_by_role("link", name="Sites").wait_for()
                for path in ("/", "/sites", "/runs", f"/runs/{RUN}", f"/runs/{RUN}/report", "/runs/none"):
                    page.goto(f"http://{host}{path}")
                    for each in axe.run(page).response["violations"]:
                        nodes = [node["html"][:150] for node in each["nodes"]][:3]
                        found.setdefault(path, []).append((each["impact"], each["id"], nodes))
                page.goto(f"http://{host}/runs/{RUN}")
                page.get_by_text("AUROC, by site: the figures").click()
                page.get_by_role("region", name="AUROC, by site").get_by_text("0.5").first.wait_for()
                page.get_by_role("button", name="Stop refreshing").click()
                page.get_by_role("button", name="Refresh by itself").wait_for()
                page.get_by_role("button", name="Stop the run").click()
                page.get_by_text("is asked to stop").wait_for()
        finally:
            server.should_exit = True
            thread.join(20)
    serious = {path: [each for each in said if each[0] in ("serious", "critical")] for path, said in found.items()}
    assert not any(serious.values()), json.dumps(serious, indent=1)
    assert set(found) <= {f"/runs/{RUN}/report"}, found
    assert ("stop", RUN) in api.runs.asked and Path(profile, "dashboard_users.json").stat().st_mode & 0o077 == 0
