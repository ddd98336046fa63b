from __future__ import annotations

import asyncio
import os
import tarfile
from dataclasses import replace
from io import BytesIO
from unittest.mock import Mock

import httpx
import pytest
from fedkit_server import pulling
from fedkit_server.access import Access
from fedkit_server.api import MOST_BODY, PREFIX, make_api
from fedkit_server.asgi import HANG_UP
from fedkit_server.enrolment import Enrolment
from fedkit_server.handlers import HANDLERS
from fedkit_server.shares import Shares
from fedkit_server.tokens import new_token
from prometheus_client.parser import text_string_to_metric_families

from fedkit.config.compose import compose
from fedkit.errors import DeploymentError
from fedkit.federation import statements
from fedkit.federation.invite import read_invitation
from fedkit.federation.job import make_job
from fedkit.storage.keys import new_signing_key
from tests.server.builders import FakeRuns, new_site


class Client:
    """One request at a time, without a network."""

    def __init__(self, app, host):
        self.app, self.host = app, host

    def request(self, method, path, **more):
        async def ask():
            transport = httpx.ASGITransport(self.app, client=(self.host, 4000))
            async with httpx.AsyncClient(transport=transport, base_url="https://coordinator") as client:
                return await client.request(method, path, **more)

        return asyncio.run(ask())


class Api:
    def __init__(self, coordinator, host="192.0.2.50"):
        self.state, self.runs = coordinator.state, FakeRuns(coordinator.state)
        self.access = Access(self.state)
        app = make_api(self.state, self.runs, self.access)
        self.client = Client(app, host)
        self.tokens = {"anna": coordinator.token}
        self.keys = {"anna": coordinator.root}

    def ask(self, method, path, user="anna", token=None, **more):
        found = token if token is not None else self.tokens.get(user, "")
        headers = {"authorization": f"Bearer {found}"} if found else {}
        return self.client.request(method, PREFIX + path, headers=headers, **more)

    def add(self, name, role):
        key = new_signing_key()
        grown = statements.add(self.state.keyring, name, role, key.public, self.keys["anna"], self.state.clock())
        assert self.ask("POST", "/keyring", json={"statement": grown.statements[-1]}).status_code == 200
        self.tokens[name] = self.ask("POST", f"/users/{name}/token").json()["token"]
        self.keys[name] = key
        return key


@pytest.fixture
def api(coordinator):
    return Api(coordinator)


def _error(response, status, code):
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"code", "message", "remedy"}
    assert error["code"] == code and error["message"]
    return error


def _path(path):
    return path.format(run="r", name="north", study="s")


@pytest.mark.parametrize(("method", "path"), [*HANDLERS, ("GET", "/runs/{run}/events"), ("GET", "/runs/{run}/archive")])
@pytest.mark.parametrize("token", ["", "x", "fedkit-token-1." + "A" * 43, "ünknown"])
def test_nothing_is_answered_without_a_valid_token(api, method, path, token):
    _error(api.ask(method, _path(path), token=token.encode() if token else None, user=None), 401, "FK720")


@pytest.mark.parametrize(("method", "path"), [key for key, (role, _) in HANDLERS.items() if role != "viewer"])
def test_a_viewer_changes_nothing(api, method, path):
    api.add("vera", "viewer")
    _error(api.ask(method, _path(path), "vera", json={}), 403, "FK721")
    assert api.runs.asked == []


@pytest.mark.parametrize(("method", "path"), [key for key, (role, _) in HANDLERS.items() if role == "admin"])
def test_an_operator_is_no_admin(api, method, path):
    api.add("otto", "operator")
    _error(api.ask(method, _path(path), "otto", json={}), 403, "FK721")


def test_authority_and_health_are_open(api):
    assert api.ask("GET", "/ca", user=None).content == api.state.folder.read(api.state.folder.ca)
    assert api.ask("GET", "/health", user=None).json()["status"] == "ok"


def test_a_revoked_user_has_no_access_and_no_token(api):
    api.add("otto", "operator")
    grown = statements.revoke(api.state.keyring, "otto", api.keys["anna"], api.state.clock())
    assert api.ask("POST", "/keyring", json={"statement": grown.statements[-1]}).status_code == 200
    _error(api.ask("GET", "/status", "otto"), 401, "FK720")
    assert [user for _, user in api.state.store.tokens()] == ["anna"]


def test_an_address_with_many_bad_tokens_has_to_wait(api):
    for _ in range(20):
        api.ask("GET", "/status", token=new_token())
    response = api.ask("GET", "/status", token=new_token())
    _error(response, 429, "FK725")
    assert response.headers["retry-after"] == "60"
    assert api.state.failed_logins == 20
    # Whoever has one is let in, though a hospital's whole net has one address; and it ends nobody's wait.
    assert api.ask("GET", "/status").status_code == 200
    _error(api.ask("GET", "/status", token=new_token()), 429, "FK725")
    _error(api.ask("GET", "/status", token="no token"), 429, "FK725")


def test_what_is_written_like_no_token_costs_no_look_at_the_database(api, monkeypatch):
    monkeypatch.setattr(type(api.state.store), "tokens", lambda self: pytest.fail("was read"))
    _error(api.ask("GET", "/status", token="x"), 401, "FK720")


def test_a_large_body_is_refused_with_and_without_its_length(api):
    _error(api.ask("POST", "/runs", content=b"x" * (MOST_BODY + 1)), 413, "FK724")
    _error(api.ask("POST", "/runs", content=_parts()), 413, "FK724")


async def _parts():
    yield b"x" * MOST_BODY
    yield b"x"


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"\xff", b'{"job": 3}', b'{"job": "x", "more": 1}', b'{"job":"x"}'])
def test_a_body_that_is_no_request_is_refused(api, body):
    _error(api.ask("POST", "/runs", content=body), 400, "FK540")


@pytest.mark.parametrize("path", ["/runs/none", "/runs/none/events", "/runs/none/archive", "/nothing"])
def test_what_is_not_there_is_not_found(api, path):
    _error(api.ask("GET", path), 404, "FK722")


def _job(api, signer="anna", key=None, **other):
    config = compose("heart_disease", ["privacy.noise=secure"])
    config = replace(config, data=replace(config.data, records={"north": 300}))
    said = {
        "run": "r1",
        "study": "none",
        "submitter": signer,
        "min_sites": 1,
        "deadline": 60.0,
        "lifetime": 3600.0,
    } | other
    federation = api.state.settings.federation
    return make_job(config, federation=federation, key=key or api.keys[signer], now=api.state.clock(), **said).text


def test_an_operators_job_is_submitted_watched_and_cannot_be_submitted_twice(api):
    api.add("otto", "operator")
    assert api.ask("POST", "/runs", "otto", json={"job": _job(api, "otto")}).json() == {"run": "r1"}
    assert api.ask("GET", "/runs").json()["runs"][0]["run"] == "r1"
    _error(api.ask("POST", "/runs", "otto", json={"job": _job(api, "otto")}), 409, "FK723")


def test_a_job_by_somebody_else_or_by_a_stranger_is_refused(api):
    api.add("otto", "operator")
    _error(api.ask("POST", "/runs", "otto", json={"job": _job(api, "anna")}), 403, "FK721")
    _error(api.ask("POST", "/runs", json={"job": _job(api, key=new_signing_key())}), 403, "FK541")
    assert api.runs.asked == []


def test_a_long_poll_waits_and_then_tells(api):
    api.ask("POST", "/runs", json={"job": _job(api)})
    assert api.ask("GET", "/runs/r1/events").json()["events"] == []
    answer = api.ask("GET", "/runs/r1/events", params={"after": 0, "wait": 5}).json()
    assert [event["site"] for event in answer["events"]] == ["north"] and answer["state"] == "queued"
    assert api.ask("GET", "/runs/r1/events", params={"after": 1}).json()["events"] == []
    _error(api.ask("GET", "/runs/r1/events", params={"after": "x"}), 400, "FK726")


def test_nobody_is_kept_waiting_for_a_run_that_is_over(api):
    api.ask("POST", "/runs", json={"job": _job(api)})
    api.state.store.set_run("r1", "finished", "complete")
    answer = api.ask("GET", "/runs/r1/events", params={"wait": 20}).json()
    assert answer == {"events": [], "state": "finished", "outcome": "complete", "before": []}
    assert not [asked for asked in api.runs.asked if asked[0] == "wait"]


def test_stop_and_resume_reach_the_runner_and_its_refusal_the_user(api):
    api.ask("POST", "/runs", json={"job": _job(api)})
    assert api.ask("POST", "/runs/r1/stop").json()["run"] == "r1"
    assert ("stop", "r1") in api.runs.asked
    _error(api.ask("POST", "/runs/r1/resume"), 409, "FK733")
    # The log tells what was done, not what was asked for.
    assert "run_resumed" not in api.state.folder.audit.read_text()


def test_an_archive_holds_the_run_without_its_journal_and_leaves_nothing_behind(api):
    api.ask("POST", "/runs", json={"job": _job(api)})
    _error(api.ask("GET", "/runs/r1/archive"), 404, "FK722")
    folder = api.state.folder.runs / "r1"
    (folder / "journal").mkdir(parents=True)
    (folder / "journal" / "steps.jsonl").write_text("secret updates")
    (folder / "result.json").write_text("{}")
    response = api.ask("GET", "/runs/r1/archive")
    with tarfile.open(fileobj=BytesIO(response.content)) as archive:
        assert archive.getnames() == ["result.json"]
    assert not [each for each in api.state.folder.path.rglob("*") if "archive" in each.name]


def _archived(api):
    api.ask("POST", "/runs", json={"job": _job(api)})
    folder = api.state.folder.runs / "r1"
    folder.mkdir(parents=True)
    (folder / "model.bin").write_bytes(os.urandom(2**20))
    return folder


def test_archives_that_nobody_reads_cost_no_disk_and_have_a_number(api):
    folder, scope = _archived(api), {"type": "http", "method": "GET", "path": PREFIX + "/runs/r1/archive"}
    scope |= {"query_string": b"", "headers": [(b"authorization", f"Bearer {api.tokens['anna']}".encode())]}

    async def main():
        told, begun = [], asyncio.Event()

        async def receive():
            await asyncio.Event().wait()

        async def send(message):
            told.append(message.get("status"))
            if message["type"] == "http.response.start":
                begun.set()
            if message.get("more_body"):
                await asyncio.Event().wait()

        async def ask():
            begun.clear()
            task = asyncio.create_task(api.client.app(dict(scope), receive, send))
            await begun.wait()
            return task

        tasks = [await ask() for _ in range(api.access.archives.each + 2)]
        assert [status for status in told if status] == [200] * api.access.archives.each + [429] * 2
        beside = [p for p in api.state.folder.path.rglob("*") if p.is_file() and p.stat().st_size >= 2**20]
        assert beside == [folder / "model.bin"]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    asyncio.run(main())
    # With those gone there is room again.
    assert len(api.ask("GET", "/runs/r1/archive").content) > 2**20


def test_a_reader_that_stalls_is_left(api, monkeypatch):
    _archived(api)
    monkeypatch.setattr(pulling, "STALLED_SECONDS", 0.2)
    ended = []

    async def main():
        scope = {
            "type": "http", "method": "GET", "path": PREFIX + "/runs/r1/archive", "query_string": b"",
            "headers": [(b"authorization", f"Bearer {api.tokens['anna']}".encode())],
            "extensions": {HANG_UP: {"now": lambda: ended.append(True)}},
        }  # fmt: skip

        async def receive():
            while not ended:
                await asyncio.sleep(0.01)
            return {"type": "http.disconnect"}

        async def send(message):
            if message["type"] == "http.response.body" and not ended:
                await asyncio.Event().wait()

        await asyncio.wait_for(api.client.app(scope, receive, send), 10.0)

    asyncio.run(main())
    assert ended == [True]


@pytest.mark.slow
def test_archives_of_an_hour_have_a_number(api, monkeypatch):
    _archived(api)
    for _ in range(240):
        api.ask("GET", "/runs/r1/archive")
    _error(api.ask("GET", "/runs/r1/archive"), 429, "FK725")


def test_a_user_has_two_archives_at_a_time_and_a_failed_one_leaves_nothing_behind(api, monkeypatch):
    api.ask("POST", "/runs", json={"job": _job(api)})
    folder = api.state.folder.runs / "r1"
    folder.mkdir(parents=True)
    api.add("vi", "viewer")
    with api.access.archives.take("vi"), api.access.archives.take("vi"):
        _error(api.ask("GET", "/runs/r1/archive", "vi"), 429, "FK725")
        assert api.ask("GET", "/runs/r1/archive").status_code == 200
    assert api.ask("GET", "/runs/r1/archive", "vi").status_code == 200
    with monkeypatch.context() as patched:
        patched.setattr(type(api.state.trail), "record", Mock(side_effect=OSError(28, "full")))
        for _ in range(5):
            assert api.ask("GET", "/runs/r1/archive", "vi").status_code == 500
    assert api.ask("GET", "/runs/r1/archive", "vi").status_code == 200


def test_all_users_together_have_a_share_too():
    shares = Shares(each=2, most=3)
    with shares.take("a"), shares.take("a"), shares.take("b"):
        with pytest.raises(DeploymentError, match="users are being sent 3 runs"), shares.take("c"):
            pass
        with pytest.raises(DeploymentError, match="a is being sent 2 runs"), shares.take("a"):
            pass
    with shares.take("a"), shares.take("a"), shares.take("c"):
        pass


def test_an_invitation_is_made_and_a_site_revoked(api):
    answer = api.ask("POST", "/invites", json={"site": "north", "hours": 1}).json()
    secret = read_invitation(answer["invitation"]).secret
    assert [each["site"] for each in api.ask("GET", "/sites").json()["invited"]] == ["north"]
    Enrolment(api.state).join(new_site().request("north", secret), "a")
    assert [site["state"] for site in api.ask("GET", "/sites").json()["sites"]] == ["offline"]
    assert api.ask("POST", "/sites/north/revoke").json()["revoked"]
    _error(api.ask("POST", "/sites/north/revoke"), 409, "FK723")
    _error(api.ask("POST", "/sites/west/revoke"), 404, "FK722")
    _error(api.ask("POST", "/invites", json={"site": "a/b", "hours": 1}), 400, "FK213")


def test_a_statement_is_the_token_holders_own(api):
    api.add("otto", "operator")
    mallory = new_signing_key()
    by_otto = statements.rotate(api.state.keyring, mallory.public, api.keys["otto"], api.state.clock()).statements[-1]
    _error(api.ask("POST", "/keyring", "anna", json={"statement": by_otto}), 403, "FK721")
    assert api.ask("POST", "/keyring", "otto", json={"statement": by_otto}).status_code == 200
    _error(api.ask("POST", "/keyring", "otto", json={"statement": by_otto}), 403, "FK721")


def test_a_statement_that_was_made_for_an_older_keyring_is_refused(api):
    stale = statements.add(
        api.state.keyring, "ben", "viewer", new_signing_key().public, api.keys["anna"], api.state.clock()
    ).statements[-1]
    api.add("otto", "operator")
    _error(api.ask("POST", "/keyring", json={"statement": stale}), 409, "FK544")


def test_no_statement_over_the_network_replaces_the_coordinators_key(api):
    grown = statements.replace_coordinator(
        api.state.keyring, new_signing_key().public, api.keys["anna"], api.state.clock()
    )
    _error(api.ask("POST", "/keyring", json={"statement": grown.statements[-1]}), 409, "FK723")
    assert api.state.folder.keyring() == api.state.keyring


def test_everybody_renews_their_own_token_and_an_admin_all(api):
    api.add("vera", "viewer")
    _error(api.ask("POST", "/users/anna/token", "vera"), 403, "FK721")
    before, api.tokens["vera"] = api.tokens["vera"], api.ask("POST", "/users/vera/token", "vera").json()["token"]
    assert api.ask("GET", "/status", "vera").status_code == 200
    _error(api.ask("GET", "/status", token=before), 401, "FK720")
    _error(api.ask("POST", "/users/nobody/token"), 404, "FK722")


def _figures(text):
    return {
        sample.name: sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if not sample.labels
    }


def test_metrics_can_be_parsed_and_count_sites_and_failed_logins(api):
    made = api.ask("POST", "/invites", json={"site": "north", "hours": 1}).json()["invitation"]
    Enrolment(api.state).join(new_site().request("north", read_invitation(made).secret), "a")
    api.ask("POST", "/runs", json={"job": _job(api)})
    api.ask("GET", "/status", token=new_token())
    response = api.client.request("GET", "/metrics", headers={"authorization": f"Bearer {api.tokens['anna']}"})
    found = _figures(response.text)
    assert found["fedkit_sites_enrolled"] == 1.0 and found["fedkit_sites_online"] == 0.0
    assert found["fedkit_failed_logins_total"] == 1.0
    assert 'fedkit_run_received_bytes_total{run="r1"} 7.0' in response.text


def test_metrics_are_for_this_host_or_a_token(coordinator):
    assert Api(coordinator).client.request("GET", "/metrics").status_code == 401
    assert Api(coordinator, "127.0.0.1").client.request("GET", "/metrics").status_code == 200


def test_an_answer_is_kept_by_no_cache(api):
    assert api.ask("GET", "/status").headers["cache-control"] == "no-store"
    assert api.ask("GET", "/status", token="x").headers["cache-control"] == "no-store"


def test_who_is_no_admin_states_five_things_an_hour(api):
    key = api.add("vi", "viewer")
    for _ in range(5):
        new = new_signing_key()
        grown = statements.rotate(api.state.keyring, new.public, key, api.state.clock())
        assert api.ask("POST", "/keyring", "vi", json={"statement": grown.statements[-1]}).status_code == 200
        key = new
    grown = statements.rotate(api.state.keyring, new_signing_key().public, key, api.state.clock())
    _error(api.ask("POST", "/keyring", "vi", json={"statement": grown.statements[-1]}), 429, "FK725")
    grown = statements.revoke(api.state.keyring, "vi", api.keys["anna"], api.state.clock())
    assert api.ask("POST", "/keyring", json={"statement": grown.statements[-1]}).status_code == 200
