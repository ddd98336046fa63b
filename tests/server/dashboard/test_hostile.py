"""A coordinator that tells anything, and sites and users that named things so: the page shows text, and stays quick."""

import json
import math
import re
import shutil
import socket
import threading
import time

import httpx
import pyotp
import pytest
import uvicorn
from fedkit_server.archive import packed
from fedkit_server.dashboard.app import dashboard_app, desk_of, users_of
from fedkit_server.dashboard.curves import curves
from fedkit_server.dashboard.pages import Federation
from fedkit_server.dashboard.results import Fetched, Results
from fedkit_server.remote import Remote, _refused

from fedkit.errors import DeploymentError
from fedkit.web.shield import HEADERS
from tests.reporting.conftest import Fabricated, write
from tests.server.dashboard.test_dashboard import HOST, PASSWORD, Lead, TestClient
from tests.web.hashes import cheap_hashes

__all__ = ["cheap_hashes"]
EVIL = (
    "<script>window.pwned=1</script><img src=x onerror=window.pwned=1>\"'><svg/onload=window.pwned=1>"
    "</td></tr><tr><th>spoofed</th></tr>\u202e{{7*7}}\x1b[31m\u200b javascript:window.pwned=1"
)
RUN = "20260101-120000-heart_disease-0a1b2c"


class Hostile:
    """Answers of the right form, in which every text and number is what an attacker would have it be.

    Attributes:
        text: every text.
        number: every number.
        many: length of every list.
    """

    def __init__(self, text=EVIL, number=1.0, many=3):
        self.text, self.number, self.many = text, number, many
        self._answers = {}

    def run(self, name=None):
        return {
            "run": self.text if name is None else name, "name": self.text, "state": self.text, "outcome": self.text,
            "round": self.number, "rounds": self.number, "submitter": self.text, "submitted_at": self.number,
            "bytes": self.number, "before": [self.text],
        }  # fmt: skip

    def site(self, n):
        data = {
            "records": self.number, "unit": self.text, "max_epsilon": self.number, "delta": self.number,
            "models": [self.text], "strategies": [self.text], "policy": {"purposes": [self.text], "release": self.text},
        }  # fmt: skip
        return {
            "name": f"{n}{self.text}", "state": self.text, "enrolled_at": self.number, "revoked_at": self.number,
            "offered_at": self.number, "offer": {"datasets": {f"{self.text}{i}": data for i in range(3)}},
        }  # fmt: skip

    def get(self, path, **query):
        # To make it up takes as long as to show it.
        if path not in self._answers:
            self._answers[path] = self._answer(path)
        return self._answers[path]

    def _answer(self, path):
        runs = [self.run() for _ in range(self.many)]
        match path.split("/")[-1]:
            case "status":
                return {
                    "name": self.text, "you": {"name": self.text, "role": "admin"}, "version": self.text,
                    "sites": {"online": self.number, "enrolled": self.number}, "runs": runs,
                    "certificate_expires_at": self.text, "models": [self.text] * min(self.many, 50),
                    "log": {"contradicted": self.number},
                }  # fmt: skip
            case "sites":
                invited = [{"site": self.text, "expires_at": self.number}] * self.many
                return {"sites": [self.site(n) for n in range(self.many)], "invited": invited}
            case "runs":
                return {"runs": runs}
            case "events":
                return {"state": self.text, "events": [
                    {"n": n, "at": self.number, "kind": "missing", "round": 1, "site": f"{n}{self.text}"[:3000],
                     "purpose": self.text[:3000], "detail": self.text[:3000], "seconds": self.number}
                    for n in range(self.many)
                ]}  # fmt: skip
            case "curves":
                sites = {f"{n}{self.text}"[:3000]: {self.text[:3000]: self.number} for n in range(min(self.many, 50))}
                epsilon = dict.fromkeys(sites, self.number)
                return {"rounds": [{"round": n, "epsilon": epsilon, "sites": sites} for n in range(min(self.many, 40))]}
        return self.run(path.split("/")[-1])

    def post(self, path):
        raise DeploymentError(self.text, code="FK723", remedy=self.text)

    def download(self, path, target):
        target.write_bytes(self.text.encode())


PAGES = ("/", "/sites", "/runs", f"/runs/{RUN}")


@pytest.fixture
def before(tmp_path, cheap_hashes):
    """A dashboard of a coordinator that is whatever it is."""

    def make(remote):
        folder = tmp_path / "profile"
        folder.mkdir(mode=0o700, exist_ok=True)
        lead = Lead.__new__(Lead)
        lead.now, lead.remote = 1_800_000_000.0, remote
        lead.secret = users_of(folder).add("anna", PASSWORD, lead.now)
        lead.federation = Federation(remote, Results(remote))
        lead.desk = desk_of(folder, "fedkit dashboard of heart", HOST, lambda: lead.now)
        lead.app = dashboard_app(lead.desk, lead.federation)
        lead.browser = TestClient(lead.app, base_url=f"http://{HOST}", follow_redirects=False)
        return lead.login()

    return make


@pytest.mark.parametrize("path", PAGES)
def test_what_others_named_so_is_text_on_every_page(before, path):
    found = before(Hostile()).browser.get(path)
    assert found.status_code == 200 and found.headers["content-security-policy"] == HEADERS["content-security-policy"]
    assert "<script" not in found.text and "<img" not in found.text and "<svg/" not in found.text
    assert "<th>spoofed" not in found.text and not re.search("[\u202e\u200b\x1b]", found.text)
    assert "\\u202e" in found.text and "{{7*7}}" in found.text
    urls = re.findall(r'(?:src|href|action)="([^"]*)"', found.text)
    assert urls and all(url.startswith(("/", "#")) for url in urls)


def test_an_error_of_the_coordinators_is_text_too_and_has_an_end(before):
    lead = before(Hostile(EVIL * 100_000))
    found = lead.post(f"/runs/{RUN}/stop", "/")
    assert found.status_code == 409 and "<script" not in found.text and len(found.text) < 60_000
    found = lead.post(f"/runs/{RUN}/fetch", "/")
    assert found.status_code == 409 and "FK713" in found.text


def test_a_report_of_what_was_fetched_hides_nothing_either(before, tmp_path):
    lead = before(Hostile())
    run = write(tmp_path / "runs", Fabricated())
    for name in ("manifest.json", "result.json", "metrics.jsonl"):
        text = (run / name).read_text()
        (run / name).write_text(text.replace("cleveland", json.dumps(EVIL)[1:-1]))
    lead.remote.download = lambda path, target: target.write_bytes(b"".join(packed(run)))
    assert lead.post(f"/runs/{RUN}/fetch", "/").status_code == 303
    found = lead.browser.get(f"/runs/{RUN}/report")
    assert found.status_code == 200 and "spoofed" in found.text and "\\u202e" in found.text
    assert "<img" not in found.text and "<script" not in found.text and "<th>spoofed" not in found.text
    assert not re.search("[\u202e\u200b\x1b]", found.text)


@pytest.mark.parametrize("number", [
    math.nan, math.inf, -math.inf, 1e308, -1e308, 10**400, -(10**400), True, "1", None, [1],
])  # fmt: skip
def test_a_number_that_is_none_spoils_one_page_at_most_and_its_text_is_not_told(before, number, caplog):
    lead = before(Hostile("x", number))
    for path in PAGES:
        found = lead.browser.get(path)
        assert found.status_code in (200, 500) and "Traceback" not in found.text
    assert lead.browser.get("/login").status_code == 200


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e308, 10**400, "1", True, None])
def test_a_figure_that_is_none_is_not_drawn_and_the_others_are(value):
    good = [{"round": n, "epsilon": {"a": 1.0 + n, "b": value}, "sites": {"a": {"auroc": 0.5, "loss": value}}}
            for n in range(3)]  # fmt: skip
    drawn = curves([*good, {"round": value, "epsilon": {"a": 9.0}, "sites": {}}])
    assert [curve.title for curve in drawn] == ["Epsilon spent by this run, by site", "AUROC, by site"]
    for curve in drawn:
        assert all(re.fullmatch(r"[0-9. ,]+", line.points) for line in curve.lines)


@pytest.mark.parametrize("path", PAGES)
def test_thousands_of_sites_runs_and_events_of_any_length_are_pages_within_a_second(before, path):
    lead = before(Hostile("n" * 3000, 1.0, many=5000))
    lead.browser.get(path)
    # Of this process: others on the machine take their time too.
    began = time.process_time()
    found = lead.browser.get(path)
    assert found.status_code == 200 and time.process_time() - began < 1.0 and len(found.text) < 2_000_000


def test_a_text_of_ten_megabytes_is_cut(before):
    lead = before(Hostile("\u202e" * 10_000_000, 1.0, many=1))
    for path in PAGES:
        began = time.process_time()
        found = lead.browser.get(path)
        assert found.status_code == 200 and "characters more" in found.text
        assert len(found.text) < 500_000 and time.process_time() - began < 1.0, path


def test_pages_have_an_end_at_both_sides(before):
    lead = before(Hostile("r", 1.0, many=250))
    assert "page 3 of 3, 250 in all" in lead.get("/runs?page=3") and lead.get("/sites?page=10")
    for path in ("/runs?page=4", "/runs?page=0", "/runs?page=-1", "/runs?page=x", "/sites?page=11", "/runs?page=１"):
        assert "FK722" in lead.get(path, 409)


def served(answer):
    """A Remote whose coordinator answers so."""

    class At(Remote):
        def _client(self):
            return httpx.Client(transport=httpx.MockTransport(answer), base_url="https://coordinator")

    return At(type("Profile", (), {"address": "coordinator:1"})())


def test_an_answer_without_an_end_or_a_bottom_is_no_answer(monkeypatch, tmp_path):
    monkeypatch.setattr("fedkit_server.remote._MOST_ANSWER", 1 << 20)
    monkeypatch.setattr("fedkit_server.remote.MOST_BYTES", 1 << 20)

    def endless():
        while True:
            yield b" " * 65_536

    def drips():
        for _ in range(200):
            time.sleep(0.01)
            yield b" "

    with pytest.raises(DeploymentError, match=r"FK712.*more than 1,048,576 bytes"):
        served(lambda request: httpx.Response(200, content=endless())).get("/status")
    with pytest.raises(DeploymentError, match=r"FK712.*more than"):
        served(lambda request: httpx.Response(500, content=endless())).get("/status")
    with pytest.raises(DeploymentError, match=r"FK712.*of an archive"):
        served(lambda request: httpx.Response(200, content=endless())).download("/runs/r/archive", tmp_path / "tar")
    with pytest.raises(DeploymentError, match="FK712"):
        served(lambda request: httpx.Response(200, content=b"[" * 900_000)).get("/status")
    monkeypatch.setattr("fedkit_server.remote._LONGEST", 0.05)
    with pytest.raises(DeploymentError, match=r"FK712.*no end within"):
        served(lambda request: httpx.Response(200, content=drips())).get("/status")
    deep = httpx.Response(409, content=b'{"error":' * 100_000, request=httpx.Request("GET", "https://coordinator/"))
    assert _refused(deep).code == "FK712"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium on this machine")
def test_in_a_real_browser_nothing_of_it_runs_loads_or_adds_a_row(tmp_path, cheap_hashes):
    play = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    folder = tmp_path / "profile"
    folder.mkdir(mode=0o700)
    secret, remote = users_of(folder).add("anna", PASSWORD, time.time()), Hostile()
    results = Results(remote)
    # Even a report in which somebody has got markup through: its policy runs nothing.
    results._fetched[RUN] = Fetched(f"<html><body>report{EVIL}</body></html>", time.time())
    with socket.create_server(("127.0.0.1", 0)) as listening:
        host = f"127.0.0.1:{listening.getsockname()[1]}"
        app = dashboard_app(desk_of(folder, "fedkit dashboard of heart", host), Federation(remote, results))
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off", ws="none"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            with play.sync_playwright() as started:
                where = {"executable_path": shutil.which("chromium"), "args": ["--no-sandbox", "--disable-gpu"]}
                page, asked, dialogs = started.chromium.launch(**where).new_page(), [], []
                page.on("request", lambda request: asked.append(request.url))
                page.on("dialog", lambda dialog: dialogs.append(dialog.message))
                page.goto(f"http://{host}/login")
                for label, text in (("Name", "anna"), ("Password", PASSWORD), ("Code", pyotp.TOTP(secret).now())):
                    page.get_by_label(label).fill(text)
                page.get_by_role("button", name="Log in").click()
                page.get_by_role("link", name="Sites").wait_for()
                for path in (*PAGES, f"/runs/{RUN}/report", "/runs/<script>window.pwned=1</script>"):
                    page.goto(f"http://{host}{path}")
                    assert page.evaluate("window.pwned") is None, path
                    if "report" not in path:
                        assert page.locator("script, img, iframe, object, embed").count() == 0
                        assert page.get_by_role("rowheader", name="spoofed", exact=True).count() == 0
                        rows = page.locator("tbody tr").count()
                        assert rows == page.locator("tbody tr th[scope=row]").count(), path
                page.goto(f"http://{host}/runs/{RUN}")
                # Escaped names widen no page beyond its window.
                assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth + 1")
        finally:
            server.should_exit = True
            thread.join(20)
    assert dialogs == [] and all(url.startswith(f"http://{host}/") for url in asked), asked
