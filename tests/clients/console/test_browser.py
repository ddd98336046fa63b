"""The console in a real Chromium: what a data protection officer does, and what axe-core finds on every page."""

from __future__ import annotations

import shutil
import socket
import threading
import time

import pyotp
import pytest
import uvicorn
from fedkit_client.audit import record
from fedkit_client.console.app import console_app, desk_of
from fedkit_client.console.site import Site
from fedkit_client.quarantining import quarantine_site

from fedkit.web.sessions import IDLE
from fedkit.web.users import Users
from fedkit.web.wrong import EVERY
from tests.clients.console.conftest import PASSWORD
from tests.clients.coordinator import DATASET, experiment, model

CHROMIUM = shutil.which("chromium")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine"),
]
PAGES = ("/", "/requests", "/budgets", "/log", "/log?kind=all", "/consent", "/log/verify", "/inventory", "/nothing")


@pytest.fixture(scope="module")
def chromium():
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with api.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


class Officer:
    """Who sits before the browser."""

    def __init__(self, made, browser, url, secret, *, scripts=True):
        self.made, self.url, self.secret = made, url, secret
        self.context = browser.new_context(java_script_enabled=scripts, locale="en-GB")
        self.page = self.context.new_page()
        self.asked, self.said = [], []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("console", lambda message: self.said.append(message.text))
        self.step = 0

    def code(self):
        """The authenticator's next code; the window takes one that is a step ahead, so that few tests have to wait.

        The first is good for 15 s more at least: one that the window had left by the time a slow browser sent it
        would be refused.
        """
        self.step = max(self.step + 1, int(time.time() + 15) // 30 - 1)
        while self.step > int(time.time()) // 30 + 1:
            time.sleep(0.5)
        return pyotp.TOTP(self.secret).generate_otp(self.step)

    def login(self, password=PASSWORD, code=None):
        self.page.goto(f"{self.url}login")
        self.page.get_by_label("Name").fill("ana")
        self.page.get_by_label("Password").fill(password)
        self.page.get_by_label("Code").fill(code or self.code())
        self.press("Log in")

    def press(self, name, role="button"):
        """Until the page that it leads to is there: a click alone is over before, with the old one still shown."""
        with self.page.expect_navigation():
            self.page.get_by_role(role, name=name, exact=True).click()

    def sees(self, text):
        return text in self.page.locator("body").inner_text()


@pytest.fixture
def officer(bench, serving, chromium):
    made = bench(policy={"approval": "manual"}, data={"consent": {"unit": "age"}})
    secret = Users(made.folder.console_users).add("ana", PASSWORD, time.time())
    url, _ = serving(made.folder)
    people = []

    def come(**changes):
        people.append(Officer(made, chromium, url, secret, **changes))
        return people[-1]

    yield come
    for each in people:
        each.context.close()


def ask(made, run, *overrides):
    job = made.coordinator.job(run, experiment(*overrides))
    return job, made.keeper.answer("train", made.coordinator.request(job, "train", 1, model(5)))


def test_a_day_at_the_desk_without_a_script(officer):
    ana = officer(scripts=False)
    page, made = ana.page, ana.made
    ask(made, "run-1")
    ana.login()
    assert ana.sees("1 to decide") and ana.sees("logged in as ana")
    ana.press("Requests", "link")
    ana.press("run-1", "link")
    page.get_by_label("Days").fill("7")
    ana.press("Approve the run")
    assert ana.sees("run-1 is approved until")
    ask(made, "run-2", "training.learning_rate=0.1")
    ana.press("Requests", "link")
    ana.press("run-2", "link")
    assert page.get_by_role("row", name="training.learning_rate").inner_text().split() == [
        "training.learning_rate",
        "0.5",
        "0.1",
    ]
    page.get_by_label("Reason").fill("no ethics vote")
    ana.press("Deny the run")
    assert ana.sees("run-2 is denied") and ana.sees("denied (no ethics vote)")
    ana.press("Overview", "link")
    page.get_by_label("Reason", exact=True).fill("a question of ours")
    ana.press("Pause the site")
    assert ana.sees("Paused since") and made.folder.pause.there()
    ana.press("Resume the site")
    assert ana.sees("The site goes on") and not made.folder.pause.there()
    ana.press("Consent", "link")
    page.get_by_label("Ids", exact=True).fill("4711\n4712")
    page.get_by_label("I have checked the ids").check()
    ana.press("Note it")
    assert ana.sees(f"2 of {DATASET} are left out") and not ana.sees("4711")
    ana.press("Verify the log", "link")
    assert ana.sees("Every byte of")
    ana.press("Overview", "link")
    page.get_by_label("What is known so far").fill("a laptop was stolen")
    page.get_by_label("The site shall answer nothing").check()
    ana.press("Quarantine the site")
    assert ana.sees("Quarantined since") and ana.sees("files of evidence were kept") and made.folder.quarantine.there()
    ana.press("Log out")
    page.goto(ana.url)
    assert page.url == f"{ana.url}login"
    assert all(url.startswith(ana.url) for url in ana.asked) and ana.said == []


def test_a_wrong_code_a_used_code_and_a_lock_all_get_the_same_answer(officer):
    ana = officer()
    code = ana.code()
    ana.login(code=code)
    assert ana.sees("logged in as ana")
    ana.press("Log out")
    seen = set()
    for attempt in range(EVERY + 2):
        # The first with the code that was used, the last with all that is right.
        ana.login(code=code if attempt == 0 else ana.code() if attempt > EVERY else "000000")
        seen.add(ana.page.get_by_role("alert").inner_text())
        assert ana.page.url == f"{ana.url}login"
    assert len(seen) == 1


def test_a_session_that_was_idle_shows_the_login_and_does_nothing(bench, chromium):
    made, now = bench(), [float(int(time.time()))]
    secret = Users(made.folder.console_users).add("ana", PASSWORD, time.time())
    with socket.create_server(("127.0.0.1", 0)) as listening:
        host = f"127.0.0.1:{listening.getsockname()[1]}"
        app = console_app(desk_of(made.folder, "north", host, lambda: now[0]), Site(made.folder.site_yaml, made.folder))
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off", ws="none"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            ana = Officer(made, chromium, f"http://{host}/", secret)
            ana.login(code=pyotp.TOTP(secret).at(int(now[0])))
            assert ana.sees("logged in as ana")
            now[0] += IDLE
            ana.press("Pause the site")
            assert ana.sees("the session has ended. Nothing was done") and not made.folder.pause.there()
            ana.context.close()
        finally:
            server.should_exit = True
            thread.join(20)


def test_another_password_ends_the_session_that_the_browser_has(officer):
    ana = officer()
    ana.login()
    ana.secret = Users(ana.made.folder.console_users).change("ana", "another good password", time.time())
    ana.press("Pause the site")
    assert ana.sees("the session has ended. Nothing was done") and not ana.made.folder.pause.there()
    ana.step = 0
    ana.login("another good password")
    assert ana.sees("logged in as ana")


def test_the_keyboard_alone_suffices(officer):
    ana = officer()
    page = ana.page
    page.goto(f"{ana.url}login")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.keyboard.press("Enter")
    for text in ("ana", PASSWORD, ana.code()):
        page.keyboard.press("Tab")
        page.keyboard.type(text)
    page.keyboard.press("Enter")
    page.get_by_role("link", name="Requests", exact=True).wait_for()
    for _ in range(4):
        page.keyboard.press("Tab")
        style = "getComputedStyle(document.activeElement)"
        assert (
            page.evaluate(f"{style}.outlineStyle") != "none"
            or page.evaluate("document.activeElement.className") == "skip"
        )


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious_on_any_page(officer, scheme):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="axe is not installed").Axe()
    ana = officer()
    ana.page.emulate_media(color_scheme=scheme)
    job, _ = ask(ana.made, "run-1")
    other, _ = ask(ana.made, "run-2", "training.learning_rate=0.1")
    record(ana.made.folder, "refused", run="run-0", purpose="train", round=1, code="FK570")
    found = {}

    def look(name):
        for each in axe.run(ana.page).response["violations"]:
            found.setdefault(name, []).append(
                (each["impact"], each["id"], [node["html"][:200] for node in each["nodes"]][:3])
            )

    ana.page.goto(f"{ana.url}login")
    look("login")
    ana.login(code="000000")
    look("wrong")
    ana.login()
    for path in (*PAGES, f"/requests/{job.digest}", "/requests/none"):
        ana.page.goto(ana.url.rstrip("/") + path)
        look(path)
    ana.page.goto(f"{ana.url}requests/{job.digest}")
    ana.press("Approve the run")
    look("approved")
    ana.page.goto(f"{ana.url}requests/{other.digest}")
    look("difference")
    ana.page.goto(ana.url)
    ana.press("Pause the site")
    look("paused")
    quarantine_site(ana.made.folder, "a stolen laptop", time.time(), seconds=1.0)
    ana.page.goto(ana.url)
    look("quarantined")
    assert ana.sees("FK570")
    assert found == {}
