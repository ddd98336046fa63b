"""What a coordinator or a submitter names so is text in the console, and what is approved is what was shown."""

import dataclasses
import hashlib
import html
import json
import re
import shutil
import socket
import threading
import time

import pyotp
import pytest
import uvicorn
from fedkit_client.approvals import Approvals
from fedkit_client.asked import asked_run
from fedkit_client.console.app import console_app, desk_of
from fedkit_client.console.site import Site
from fedkit_client.deciding import described, text_of
from fedkit_client.start import open_site

from fedkit.storage.audit import Log
from fedkit.storage.audit_line import Event
from fedkit.storage.keys import load_signing_key
from fedkit.web.shield import HEADERS
from fedkit.web.users import Users
from tests.clients.console.conftest import PASSWORD
from tests.clients.coordinator import experiment, model
from tests.server.dashboard.test_hostile import EVIL

APPROVE = re.compile(r'action="/requests/([0-9a-f]{64})/approve"')


@pytest.fixture
def first(desk):
    """A console, one approved run, and what makes a request like it."""
    desk = desk(policy={"approval": "manual"})
    made = desk.made
    job = made.coordinator.job("run-1", experiment())
    made.keeper.answer("train", made.coordinator.request(job, "train", 1, model(5)))
    approvals = Approvals(made.folder.approvals_file)
    (known,) = approvals.read().requests.values()
    approvals.approve(known.job, 30.0, desk.now)
    assert desk.login().status_code == 303

    def ask(run, change=lambda config: None, **changes):
        config = json.loads(json.dumps(known.config))
        change(config)
        digest = changes.pop("job", hashlib.sha256(run.encode()).hexdigest())
        new = dataclasses.replace(known, run=run, job=digest, config=config, at=desk.now, **changes)
        assert approvals.note(new, desk.now)
        return new

    return desk, known, ask


def rows(page):
    return re.findall(r'<tr><th scope="row">(.*?)</th>(.*?)</tr>', page, re.DOTALL)


def test_a_letter_that_looks_like_another_a_blank_and_a_turn_are_seen(first):
    desk, _, ask = first

    def change(config):
        config["purpose"] = "heart-dis\u0435ase-research"
        config["model"]["name"] = "logistic "
        config["strategy"]["name"] = "fed\u200bavg"
        config["data"]["note"] = "a  b"
        config["data"]["turn"] = "\u202egpj.exe"
        config["data"]["blank"] = "\u3164"
        config["data"]["code"] = "\x1b[8mhidden\x1b[0m"
        config["data"]["epsilon\u200b"] = 1

    new = ask("run-2", change)
    raw = desk.browser.get(f"/requests/{new.job}").text
    page = html.unescape(raw)
    for seen in ("dis\\u0435ase", "'logistic '", "fed\\u200bavg", "\\u202egpj", "\\u3164", "\\x1b[8mhidden", "'a  b'",
                 "'epsilon\\u200b'"):  # fmt: skip
        assert seen in page, seen
    assert not re.search("[\u0435\u200b\u202e\u3164\x1b]", raw)
    # Blanks that a browser would fold are kept.
    assert 'class="text wrap exact"' in raw and "pre-wrap" in desk.browser.get("/style.css").text
    listed = desk.browser.get("/requests").text
    assert not re.search("[\u0435\u200b\u202e\u3164\x1b]", listed)
    told = text_of(described(new, Approvals(desk.made.folder.approvals_file).read(), desk.now))
    assert "\\u0435" in told and told.isascii()


def test_every_value_that_differs_is_shown_in_full_and_on_a_row_of_its_own(first):
    desk, _, ask = first
    long = "x" * 200_000 + "THE-END"

    def change(config):
        config["training"]["learning_rate"] = 0.5000000000000001
        config["data"]["note"] = long
        config["federation"]["num_rounds"] = True
        config["a.b"] = 1
        config["a"] = {"b": 2, "": 3}
        config[""] = {"b": 4}
        config["b"] = 5

    new = ask("run-2", change)
    page = desk.browser.get(f"/requests/{new.job}").text
    found = {html.unescape(key): html.unescape(rest) for key, rest in rows(page)}
    assert "0.5000000000000001" in found["training.learning_rate"] and "THE-END" in found["data.note"]
    assert ">True<" in found["federation.num_rounds"]
    values = [found[key] for key in ("'a.b'", "a.b", "a.''", "''.b", "b")]
    assert [re.findall(r">([^<>]*)</td>$", value)[0] for value in values] == ["1", "2", "3", "4", "5"]


@pytest.mark.parametrize("changes", [
    {"submitter": "otto"}, {"key": f"sha256:{'0' * 64}"}, {"study": "heart"}, {"agreement": "0" * 64},
])  # fmt: skip
def test_what_was_signed_beside_the_config_is_new_too(first, changes):
    desk, _, ask = first
    new = ask("run-2", **changes)
    page = html.unescape(desk.browser.get(f"/requests/{new.job}").text)
    ((key, value),) = changes.items()
    assert f"job.{key}" in page and value in page and "Nothing: config" not in page
    assert "Nothing: config" in desk.get(f"/requests/{ask('run-3').job}")


def test_a_question_is_shown_with_all_that_it_asks_where_nothing_was_approved_before(desk):
    desk = desk(policy={"approval": "manual", "release": ["updates", "statistics"]})
    made = desk.made
    job = made.coordinator.opened(made.coordinator.job("run-1", experiment()))
    question = {"columns": ["age"], "bins": 8, "noise_multiplier": 3.0, "delta": 1e-5, "anew": "secret"}
    run = dataclasses.replace(asked_run(job, (), desk.now), statistics=question)
    Approvals(made.folder.approvals_file).path.write_text(
        json.dumps({"kind": "requested", **dataclasses.asdict(run)}, separators=(",", ":")) + "\n"
    )
    made.folder.approvals_file.chmod(0o600)
    desk.login()
    page = desk.get(f"/requests/{run.job}")
    assert "statistics.columns" in page and "['age']" in page and "statistics.noise_multiplier" in page


def test_what_is_approved_is_the_digest_whose_page_was_shown_whatever_another_calls_itself(first):
    desk, _, ask = first
    good = ask("run-2")
    # One that takes the name of the other, and one whose name is the other's digest.
    ask("run-2", lambda config: config["privacy"].update(epsilon=99.0), job="a" * 64)
    ask(good.job, lambda config: config["privacy"].update(epsilon=99.0), job="b" * 64)
    page = desk.browser.get(f"/requests/{good.job}").text
    assert APPROVE.findall(page) == [good.job] and f"Digest of the job</dt><dd>{good.job}" in page
    assert desk.post(f"/requests/{good.job}/approve", "/requests", days="3").status_code == 303
    record = Approvals(desk.made.folder.approvals_file).read()
    assert {job for job, said in record.decisions.items() if said.kind == "approved"} >= {good.job}
    assert not {"a" * 64, "b" * 64} & set(record.decisions)
    assert [line["job"] for line in desk.lines("approved")][-1] == good.job


def planted(desk, ask):
    """Whatever others have a say in, named by an attacker."""
    made = desk.made
    evil = {"submitter": EVIL, "study": EVIL, "others": (EVIL,)}
    ask(EVIL[:90], lambda config: config.update({EVIL: EVIL, "purpose": EVIL}), **evil)
    log = Log(made.folder.audit, load_signing_key(made.folder.signing_key))
    # The log itself takes nothing that is not printable.
    text = "".join(letter for letter in EVIL if letter.isprintable())
    for kind in ("refused", "released", "requested", "denied"):
        log.append(Event(kind, {"run": text, "purpose": text, "round": 1, "size": 1, "digest": text, "code": text}))


PAGES = ("/", "/requests", "/budgets", "/log", "/log?kind=refused", "/log?kind=all", "/consent", "/log/verify")


def test_what_others_named_so_is_text_on_every_page(first):
    desk, _, ask = first
    planted(desk, ask)
    job = re.findall(r'href="/requests/([0-9a-f]{64})"', desk.browser.get("/requests").text)
    for path in (*PAGES, *(f"/requests/{each}" for each in job)):
        found = desk.browser.get(path)
        assert found.status_code == 200, (path, found.text)
        assert found.headers["content-security-policy"] == HEADERS["content-security-policy"]
        assert "<script" not in found.text and "<img" not in found.text and "<th>spoofed" not in found.text, path
        assert not re.search("[\u202e\u200b\x1b]", found.text), path
        urls = re.findall(r'(?:src|href|action)="([^"]*)"', found.text)
        assert all(url.startswith(("/", "#")) for url in urls), path


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium on this machine")
def test_in_a_real_browser_nothing_of_it_runs_or_loads_and_the_inventory_neither(first):
    play = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    desk, _, ask = first
    planted(desk, ask)
    made = desk.made
    secret = Users(made.folder.console_users).change("ana", PASSWORD, time.time())
    with socket.create_server(("127.0.0.1", 0)) as listening:
        host = f"127.0.0.1:{listening.getsockname()[1]}"
        site = Site(made.folder.site_yaml, made.folder)
        app = console_app(desk_of(open_site(made.folder.site_yaml).folder, "north", host), site)
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off", ws="none"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            with play.sync_playwright() as started:
                where = {"executable_path": shutil.which("chromium"), "args": ["--no-sandbox", "--disable-gpu"]}
                page, asked_of, dialogs = started.chromium.launch(**where).new_page(), [], []
                page.on("request", lambda request: asked_of.append(request.url))
                page.on("dialog", lambda dialog: dialogs.append(dialog.message))
                page.goto(f"http://{host}/login")
                for label, text in (("Name", "ana"), ("Password", PASSWORD), ("Code", pyotp.TOTP(secret).now())):
                    page.get_by_label(label).fill(text)
                page.get_by_role("button", name="Log in").click()
                page.get_by_role("link", name="Requests", exact=True).wait_for()
                jobs = Approvals(made.folder.approvals_file).read().requests
                for path in (*PAGES, "/inventory", *(f"/requests/{job}" for job in jobs)):
                    page.goto(f"http://{host}{path}")
                    assert page.evaluate("window.pwned") is None, path
                    assert page.locator("script, img, iframe, object, embed").count() == 0, path
                    assert page.get_by_role("rowheader", name="spoofed", exact=True).count() == 0, path
        finally:
            server.should_exit = True
            thread.join(20)
    assert dialogs == [] and all(url.startswith(f"http://{host}/") for url in asked_of), asked_of
